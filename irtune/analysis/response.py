"""What the number of training blocks buys: quality and cost of every trial against its effective k."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from irtune.analysis.metrics import Mode
from irtune.analysis.palette import Look, looks_of
from irtune.analysis.trials import BASELINE, TrialRow, chosen, metric_of


def response_curves(rows: Sequence[TrialRow], mode: Mode = "max") -> Figure:
    """Quality (above) and cost (below) of the trials against the mean number of blocks training.

    The cost panel leaves out trials that did not finish: what they spent says only when they were stopped. Strategies
    are shifted sideways by a fraction of a block so that those of equal k do not hide each other.

    Args:
        rows: All trials; those without a measurement are left out.
        mode: Whether more or less of the validation score is better.
    """
    baseline = chosen(rows, mode, baseline=True)
    reference = baseline or chosen(rows, mode)
    measured = [row for row in rows if row.mean_active is not None and row.validation_score is not None]
    looks = looks_of(sorted({row.strategy for row in measured} - {BASELINE})) | {BASELINE: Look("black", "*")}
    shifts = _shifts(looks, measured)
    figure = Figure(figsize=(11.5, 7.5), layout="constrained")
    quality, cost = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    for row in measured:
        finished, look, shift = row.status == "finished", looks[row.strategy], shifts[row.strategy]
        _draw_trial(quality, row, look, shift, row.validation_score, row.test_score, filled=finished)
        if finished and reference is not None:
            flops, seconds = _ratio(row.flops, reference.flops), _ratio(row.seconds, reference.seconds)
            _draw_trial(cost, row, look, shift, flops, seconds, filled=True)
    if baseline is not None:
        _draw_level(quality, {"all, validation": baseline.validation_score, "all, test": baseline.test_score})
        _draw_level(cost, {"all": 1.0})
    _label(quality, cost, measured, metric_of(rows).words, "all blocks" if baseline is not None else "the best trial")
    _add_legends(figure, looks, measured)
    return figure


def _shifts(strategies: Collection[str], rows: Sequence[TrialRow]) -> dict[str, float]:
    """The blocks by which each strategy is shifted."""
    others = [strategy for strategy in strategies if strategy != BASELINE]
    step = min(0.006 * max((row.num_blocks for row in rows), default=1), 0.5 / max(len(others), 1))
    return {BASELINE: 0.0} | {name: step * (index - (len(others) - 1) / 2) for index, name in enumerate(others)}


def _ratio(value: float | None, reference: float | None) -> float | None:
    return None if value is None or not reference else value / reference


def _draw_trial(
    axes: Axes, row: TrialRow, look: Look, shift: float, first: float | None, second: float | None, *, filled: bool
) -> None:
    """The first value as the strategy's marker, the second as a dash, and a thin line from one to the other."""
    assert row.mean_active is not None
    x = row.mean_active + shift
    if first is not None and second is not None:
        axes.plot([x, x], [first, second], color=look.colour, linewidth=0.8, alpha=0.5, zorder=2)
    if second is not None:
        axes.plot(x, second, gid=f"{row.trial_id} second", **_mark("_", look.colour))
    if first is not None:
        mark = _mark(look.marker, look.colour, face=None if filled else "white")
        axes.plot(x, first, gid=f"{row.trial_id} first", **mark)


def _mark(marker: str, colour: str, face: str | None = None) -> dict[str, Any]:
    size, edge = {"_": (9.0, 1.8), "*": (11.0, 1.0)}.get(marker, (7.0, 1.2))
    return {
        "linestyle": "none",
        "marker": marker,
        "markersize": size,
        "markeredgewidth": edge,
        "color": colour,
        "markerfacecolor": face or colour,
    }


def _draw_level(axes: Axes, levels: Mapping[str, float | None]) -> None:
    """Horizontal lines labelled outside the axes; of two the upper label stands above and the lower below its line."""
    known = sorted((value, label) for label, value in levels.items() if value is not None)
    for index, (value, label) in enumerate(known):
        axes.axhline(value, color="black", linewidth=1.0, linestyle=":" if "test" in label else "-", zorder=1)
        alignment = "center" if len(known) == 1 else ("top", "bottom")[index]
        axes.annotate(label, (1.01, value), xycoords=("axes fraction", "data"), va=alignment, fontsize=9)


def _label(quality: Axes, cost: Axes, rows: Sequence[TrialRow], metric_label: str, reference: str) -> None:
    sizes = sorted({row.num_blocks for row in rows})
    of = f", of {' or '.join(str(size) for size in sizes)}" if sizes else ""
    quality.set(ylabel=metric_label)
    cost.set(
        xlabel=f"effective k (mean number of blocks training at a time{of})", ylabel=f"cost relative to {reference}"
    )
    cost.margins(y=0.1)
    cost.set_ylim(bottom=0)
    if sizes:
        cost.set_xlim(0, sizes[-1] * 1.04)
    else:
        quality.text(0.5, 0.5, "no trial was measured", transform=quality.transAxes, ha="center")
    cost.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (quality, cost):
        axes.grid(alpha=0.25)
        axes.set_axisbelow(True)


def _add_legends(figure: Figure, looks: Mapping[str, Look], rows: Sequence[TrialRow]) -> None:
    present = {row.strategy for row in rows}
    strategies = {
        name: Line2D([], [], **_mark(look.marker, look.colour)) for name, look in looks.items() if name in present
    }
    marks = {
        "validation (above), FLOPs (below)": Line2D([], [], **_mark("o", "#444444")),
        "test (above), time (below)": Line2D([], [], **_mark("_", "#444444")),
    }
    if any(row.status != "finished" for row in rows):
        marks["did not finish: last validation"] = Line2D([], [], **_mark("o", "#444444", face="white"))
    if strategies:
        figure.legend(
            strategies.values(),
            strategies.keys(),
            loc="outside right upper",
            title="strategy",
            alignment="left",
            frameon=False,
        )
    figure.legend(marks.values(), marks.keys(), loc="outside lower center", ncols=3, frameon=False)
