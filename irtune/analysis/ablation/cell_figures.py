"""The pictures of a study: cells over seeds with what they cost, learning curves, which blocks trained."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from irtune.analysis.ablation.cell_results import CellResult, is_usual
from irtune.analysis.ablation.learning_curve import Curve
from irtune.analysis.ablation.looks import (
    cell_looks,
    corpora_of,
    draw_band,
    draw_grid,
    draw_legend,
    relative_cost,
    score_words,
)
from irtune.analysis.ablation.stability import Choices
from irtune.analysis.ablation.steps_to_target import Arrivals
from irtune.analysis.palette import COLOURS, MARKERS, Look
from irtune.analysis.significance import mean_interval

_MOST_LINES = 10
_COSTS = {"flops": "FLOPs", "seconds": "time", "trainable_share": "trainable parameters"}


def cells_plot(results: Sequence[CellResult]) -> Figure:
    """Test score of every cell, a dot a seed and a line for the mean with its 95 % t interval, beside what it costs.

    Args:
        results: In the order to show them, from above to below.
    """
    by_name = {one.cell.name: one for one in results}
    figure = Figure(figsize=(11.5, 1.9 + 0.45 * len(results)), layout="constrained")
    scores, costs = figure.subplots(1, 2, sharey=True, width_ratios=[3, 2])
    for row, one in enumerate(results):
        colour = "black" if one.cell.is_baseline else COLOURS[0]
        values = list(one.scores.values())
        heights = row + (np.linspace(-0.22, 0.22, len(values)) if len(values) > 1 else np.zeros(len(values)))
        scores.plot(values, heights, "o", color=colour, markersize=4.5, alpha=0.5)
        if one.test is not None:
            mean, low, high = one.test
            scores.plot([mean, mean], [row - 0.3, row + 0.3], color=colour, linewidth=2.0)
            if np.isfinite(low):
                scores.plot([low, high], [row, row], color=colour, linewidth=2.0)
        baseline = one if one.cell.is_baseline else by_name.get(one.baseline or "")
        if baseline is not None and baseline.test is not None:
            # Each row has its own baseline: that of its corpus, at its levels.
            at = [baseline.test[0]] * 2
            scores.plot(at, [row - 0.5, row + 0.5], color="black", linewidth=1.0, linestyle=":", zorder=0)
    for index, (name, words) in enumerate(_COSTS.items()):
        marks = [(relative_cost(one, name, results), row + 0.18 * (index - 1)) for row, one in enumerate(results)]
        found = [(value, height) for value, height in marks if value is not None]
        if found:
            look = {"marker": MARKERS[index], "color": COLOURS[index + 1], "linestyle": "none"}
            costs.plot(*zip(*found, strict=True), label=words, **look)
    costs.axvline(1.0, color="black", linewidth=1.0, linestyle=":", zorder=0)
    costs.set(xlabel="cost, as a share of the baseline's", xlim=(0, None))
    scores.set(
        xlabel=f"{score_words(results)} on test\n(dots: seeds; bars: mean and 95% t interval; dotted: the baseline)",
        yticks=range(len(results)),
        yticklabels=[one.cell.name for one in results],
    )
    scores.set_ylim(len(results) - 0.5, -0.5)
    for axes in (scores, costs):
        draw_grid(axes, "x")
        for row in range(1, len(results)):
            if results[row].cell.corpus != results[row - 1].cell.corpus:
                axes.axhline(row - 0.5, color="#B0B0B0", linewidth=0.8)
    figure.legend(*costs.get_legend_handles_labels(), loc="outside upper right", ncols=3, frameon=False, fontsize=9)
    return figure


def curves_plot(
    results: Sequence[CellResult], curves: Mapping[str, Curve], arrivals: Sequence[Arrivals] = ()
) -> Figure:
    """Score on validation by optimizer step, a cell a line with the band of its 95 % t interval over seeds.

    Args:
        results: All cells, of which those of ``told_apart`` are drawn; each corpus has a panel.
        curves: By the id of a trial.
        arrivals: Of cells at their targets, of which those of baselines are dotted lines.
    """
    corpora, drawn = corpora_of(results), told_apart(results)
    looks = cell_looks(drawn)
    width = 8.5 if len(corpora) == 1 else 1.5 + 5.0 * len(corpora)
    figure = Figure(figsize=(width, 5.8), layout="constrained")
    for axes, corpus in zip(figure.subplots(1, len(corpora), squeeze=False)[0], corpora, strict=True):
        axes.set_title("" if corpus is None else corpus, fontsize=10)
        here = {one.cell.name: one for one in drawn if one.cell.corpus == corpus}
        for one in here.values():
            _draw_curve(axes, one, curves, looks[one.cell.configuration])
        for target in {one.target for one in arrivals if one.cell.is_baseline and one.cell.name in here}:
            axes.axhline(target, color="black", linewidth=1.0, linestyle=":", zorder=0, label="target")
        axes.set_xlabel("optimizer step")
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 5, 10]))
        draw_grid(axes, "y")
    figure.axes[0].set_ylabel(f"{score_words(results)} on validation\n(band: 95% t interval over seeds)")
    draw_legend(figure)
    return figure


def told_apart(results: Sequence[CellResult]) -> Sequence[CellResult]:
    """All cells, or of more than ten on a corpus those at the first level of every factor, to be told apart."""
    if len({one.cell.configuration for one in results}) <= _MOST_LINES:
        return results
    return [one for one in results if is_usual(one, results)]


def _draw_curve(axes: Axes, one: CellResult, curves: Mapping[str, Curve], look: Look) -> None:
    found = [curves[row.trial_id] for row in one.rows if row.trial_id in curves]
    known = [dict(zip(curve.steps, curve.scores, strict=True)) for curve in found]
    steps = sorted(set.intersection(*(set(each) for each in known))) if known else []
    if steps:
        intervals = [mean_interval([each[step] for each in known]) for step in steps]
        draw_band(axes, steps, intervals, look, one.cell.configuration)


def selection_plot(choices: Mapping[str, Sequence[Choices]]) -> Figure:
    """The share of steps in which each block trained, a line for each cell, mean over seeds; the lowest on the left.

    Args:
        choices: The trials of each cell by its name, in the order of lines.
    """
    names = [name for name, found in choices.items() if found]
    frequency: NDArray[np.float64] = np.array(
        [np.mean([one.frequency for one in choices[name]], axis=0) for name in names]
    )
    num_blocks = frequency.shape[1]
    figure = Figure(figsize=(min(5.5 + 0.18 * num_blocks, 14.0), 1.9 + 0.3 * len(names)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(frequency, aspect="auto", cmap="viridis", vmin=0.0, vmax=1.0)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("block")
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    figure.colorbar(image, ax=axes, label="share of steps\nin which it trained")
    return figure
