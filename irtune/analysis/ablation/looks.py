"""The look of an ablation's figures: a colour and a marker belong to a method, and are its own in all of them."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from irtune.analysis.ablation.cell_results import CellResult
from irtune.analysis.palette import Look, looks_of
from irtune.analysis.trials import metric_of


def cell_looks(results: Sequence[CellResult]) -> dict[str, Look]:
    """The look of each cell, the same on all corpora, by its name without the corpus."""
    baselines = [one.cell.configuration for one in results if one.cell.is_baseline]
    return looks_of([one.cell.configuration for one in results], baselines)


def arm_looks(results: Sequence[CellResult]) -> dict[str, Look]:
    """The look of each arm, at any level of its factors."""
    return looks_of([one.cell.arm for one in results], [one.cell.arm for one in results if one.cell.is_baseline])


def corpora_of(results: Sequence[CellResult]) -> list[str | None]:
    """The corpora of a study, each of which has a panel of its own: scores on different data are not compared."""
    return list(dict.fromkeys(one.cell.corpus for one in results))


def score_words(results: Sequence[CellResult]) -> str:
    """The metric of the scores, in words."""
    return metric_of([row for one in results for row in one.rows]).words


def relative_cost(one: CellResult, measured: str, results: Sequence[CellResult]) -> float | None:
    """A cost of a cell as a share of its baseline's; None where one of them is unknown."""
    name = one.baseline or (one.cell.name if one.cell.is_baseline else None)
    baseline = next((other for other in results if other.cell.name == name), None)
    value, reference = one.mean(measured), baseline.mean(measured) if baseline else None
    return None if value is None or not reference else value / reference


def draw_band(
    axes: Axes, at: Sequence[float], intervals: Sequence[tuple[float, float, float]], look: Look, name: str
) -> None:
    """A line through means, with the band of their intervals.

    Args:
        axes: Where.
        at: Places on the horizontal axis ``(P,)``.
        intervals: Mean, low, high at each.
        look: Of the line.
        name: In the legend.
    """
    means, lows, highs = (np.array(values) for values in zip(*intervals, strict=True))
    axes.plot(at, means, marker=look.marker, markersize=5, color=look.colour, label=name)
    known = np.isfinite(lows)
    axes.fill_between(at, lows, highs, where=known, color=look.colour, alpha=0.13, linewidth=0)


def draw_legend(figure: Figure) -> None:
    """One legend for all panels, below them."""
    handles = {
        label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    columns = max(1, min(len(handles), int(figure.get_figwidth() * 14 / (6 + max(map(len, handles), default=0)))))
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=columns, frameon=False, fontsize=9
    )


def draw_grid(axes: Axes, axis: str) -> None:
    """Faint lines behind what is drawn, and no frame above and on the right."""
    axes.grid(axis=axis, alpha=0.25)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
