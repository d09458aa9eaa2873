"""Quality and cost against the levels of a factor, with the knee where the factor is k."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from irtune.analysis.ablation.cell_results import CellResult, baseline_of, is_usual
from irtune.analysis.ablation.knee import K, knee_of, knee_rule
from irtune.analysis.ablation.looks import (
    arm_looks,
    corpora_of,
    draw_band,
    draw_grid,
    draw_legend,
    relative_cost,
    score_words,
)
from irtune.analysis.trials import metric_of

TRAINING_SIZE = "data.max_train"
"""The factor that says how much data quality needs; its axis is always logarithmic."""

_MOST_ALIKE = 0.01
"""Costs that differ by less, as shares of the baseline's, need no picture."""


@dataclass(frozen=True, eq=False)
class Line:
    """One arm on one corpus, by level."""

    arm: str
    corpus: str | None
    cells: tuple[CellResult, ...]


def lines_of(results: Sequence[CellResult], factor: str) -> list[Line]:
    """The arms that a factor varies, at the first level of every other factor.

    Args:
        results: All cells.
        factor: Dotted key.
    """
    found: dict[tuple[str, str | None], list[CellResult]] = {}
    for one in results:
        if factor in one.cell.levels and one.test is not None and is_usual(one, results, besides=factor):
            found.setdefault((one.cell.arm, one.cell.corpus), []).append(one)
    place = places(results, factor)
    return [
        Line(arm, corpus, tuple(sorted(cells, key=lambda one: place[one.cell.levels[factor]])))
        for (arm, corpus), cells in found.items()
    ]


def places(results: Sequence[CellResult], factor: str) -> dict[object, float]:
    """Place levels on the axis: numbers where they are, others side by side; a share of blocks is as many blocks."""
    cells: dict[object, CellResult] = {}
    for one in results:
        if factor in one.cell.levels:
            cells.setdefault(one.cell.levels[factor], one)
    if factor == K and all(one.rows and one.rows[0].k for one in cells.values()):
        return {level: float(one.rows[0].k or 0) for level, one in cells.items()}
    if all(isinstance(level, int | float) and not isinstance(level, bool) for level in cells):
        return {level: float(level) for level in cells}  # type: ignore[arg-type]
    return {level: float(index) for index, level in enumerate(cells)}


def knees_of(results: Sequence[CellResult], margin: float | None) -> dict[Line, CellResult | None]:
    """The knee of each arm that several k were tried of, on each corpus.

    Args:
        results: All cells.
        margin: The largest difference that does not matter; None: none was named.
    """
    more_is_better = metric_of([row for one in results for row in one.rows]).mode == "max"
    cells, by_name = [one.cell for one in results], {one.cell.name: one for one in results}
    found = {}
    for line in lines_of(results, K):
        baseline = baseline_of(line.cells[0].cell, cells)
        reference = by_name[baseline.name] if baseline else None
        if reference is None or _blocks(reference) <= _blocks(line.cells[-1]):
            reference = None
        found[line] = knee_of(line.cells, reference, margin, more_is_better=more_is_better)
    return found


def _blocks(one: CellResult) -> float:
    return one.mean("mean_active") or 0.0


def factor_plot(results: Sequence[CellResult], factor: str, margin: float | None = None) -> Figure:
    """Test score against the levels of a factor, an arm a line with the band of its 95 % t interval over seeds.

    Below it stand training FLOPs, where levels change them. Levels that are numbers stand where they are, on a
    logarithmic axis where they span more than ten times, and sizes of the training set always. A baseline without the
    factor is a level line with its own band. Each corpus has a column.

    Args:
        results: All cells; those at other levels of other factors than the first are left out.
        factor: Dotted key.
        margin: As of ``knees_of``.
    """
    lines, place, looks, corpora = (
        lines_of(results, factor),
        places(results, factor),
        arm_looks(results),
        corpora_of(results),
    )
    shares = {one: relative_cost(one, "flops", results) for line in lines for one in line.cells}
    has_costs = any(_differ([shares[one] for one in line.cells]) for line in lines)
    width = 8.5 if len(corpora) == 1 else 1.5 + 5.0 * len(corpora)
    figure = Figure(figsize=(width, 6.8 if has_costs else 4.9), layout="constrained")
    panels = figure.subplots(
        1 + has_costs, len(corpora), sharex=True, squeeze=False, height_ratios=[5, 3][: 1 + has_costs]
    )
    knees = {line.cells[0]: knee for line, knee in knees_of(results, margin).items()} if factor == K else {}
    for column, corpus in enumerate(corpora):
        here = [line for line in lines if line.corpus == corpus]
        quality = panels[0, column]
        quality.set_title("" if corpus is None else corpus, fontsize=10)
        for line in here:
            at = [place[one.cell.levels[factor]] for one in line.cells]
            draw_band(quality, at, [one.test for one in line.cells if one.test], looks[line.arm], line.arm)
            knee = knees.get(line.cells[0])
            if knee is not None and knee.test is not None:
                _ring(quality, place[knee.cell.levels[factor]], knee.test[0], looks[line.arm].colour)
            costs = [(x, share) for x, one in zip(at, line.cells, strict=True) if (share := shares[one]) is not None]
            if has_costs and costs:
                look = looks[line.arm]
                panels[1, column].plot(*zip(*costs, strict=True), color=look.colour, marker=look.marker, markersize=5)
        _draw_levels(quality, results, corpus, factor)
        if has_costs:
            panels[1, column].axhline(1.0, color="black", linewidth=1.2, linestyle=":")
            panels[1, column].set_ylim(0, None)
        _place_levels(list(panels[:, column]), place, factor)
    panels[0, 0].set_ylabel(f"{score_words(results)} on test\n(band: 95% t interval over seeds)")
    if has_costs:
        panels[1, 0].set_ylabel("training FLOPs,\nas a share of the baseline's")
    draw_legend(figure)
    return figure


def factor_caption(results: Sequence[CellResult], factor: str, margin: float | None) -> str:
    """Return the caption: of k the rule of the knee, and the knee of each arm; else nothing.

    Args:
        results: All cells.
        factor: Dotted key.
        margin: As of ``knees_of``.
    """
    if factor != K:
        return ""
    found = []
    for line, knee in knees_of(results, margin).items():
        name = line.arm if line.corpus is None else f"{line.arm} on {line.corpus}"
        found.append(f"{name}: {'no knee' if knee is None else f'k = {knee.cell.levels[K]}'}")
    return f"{knee_rule(margin)} {'; '.join(found)}." if found else ""


def _differ(shares: Sequence[float | None]) -> bool:
    known = [share for share in shares if share is not None]
    return bool(known) and max(known) - min(known) > _MOST_ALIKE


def _ring(axes: Axes, x: float, y: float, colour: str) -> None:
    axes.plot(x, y, "o", markersize=14, markerfacecolor="none", markeredgecolor=colour, markeredgewidth=1.8)
    text = axes.annotate("knee", (x, y), xytext=(9, -15), textcoords="offset points", fontsize=9, color=colour)
    text.set_path_effects([withStroke(linewidth=3, foreground="white")])


def _draw_levels(axes: Axes, results: Sequence[CellResult], corpus: str | None, factor: str) -> None:
    """The baselines that a factor does not vary."""
    for one in results:
        if not one.cell.is_baseline or one.cell.corpus != corpus or factor in one.cell.levels or one.test is None:
            continue
        if is_usual(one, results, besides=factor):
            mean, low, high = one.test
            axes.axhline(mean, color="black", linewidth=1.2, linestyle=":", label=one.cell.arm)
            if np.isfinite(low):
                axes.axhspan(low, high, color="black", alpha=0.07)


def _place_levels(column: Sequence[Axes], place: Mapping[object, float], factor: str) -> None:
    values = sorted(place.values())
    is_wide = min(values) > 0 and max(values) > 10 * min(values) and len(place) > 1
    for axes in column:
        # Levels side by side begin at 0.
        if is_wide or (factor == TRAINING_SIZE and min(values) > 0):
            axes.set_xscale("log")
        axes.minorticks_off()
        axes.set_xticks(list(place.values()), [str(level) for level in place])
        draw_grid(axes, "y")
    column[-1].set_xlabel(factor)
