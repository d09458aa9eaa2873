"""The pictures of a study: cells over seeds, response to a factor, learning curves, which blocks trained."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator
from numpy.typing import NDArray

from irtune.analysis.ablation.cell_results import CellResult
from irtune.analysis.ablation.stability import Choices
from irtune.analysis.significance import mean_interval
from irtune.analysis.trials import metric_of

# Okabe and Ito's palette, told apart with any colour vision; its yellow is too pale on white. Black is the baseline's.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7F7F7F")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
_COSTS = {"flops": "FLOPs", "seconds": "time", "trainable_share": "trainable parameters"}

Curve = tuple[Sequence[int], Sequence[float]]
"""Optimizer steps, and the score on validation after each."""


def cells_plot(results: Sequence[CellResult]) -> Figure:
    """Test score of every cell, a dot a seed and a line for the mean with its 95 % t interval, beside what it costs.

    Args:
        results: In the order to show them, from above to below.
    """
    figure = Figure(figsize=(11.5, 1.8 + 0.5 * len(results)), layout="constrained")
    scores, costs = figure.subplots(1, 2, sharey=True, width_ratios=[3, 2])
    for row, one in enumerate(results):
        colour = "black" if one.cell.is_baseline else _COLOURS[0]
        values = list(one.scores.values())
        heights = row + (np.linspace(-0.22, 0.22, len(values)) if len(values) > 1 else np.zeros(len(values)))
        scores.plot(values, heights, "o", color=colour, markersize=4.5, alpha=0.5)
        if one.test is not None:
            mean, low, high = one.test
            scores.plot([mean, mean], [row - 0.3, row + 0.3], color=colour, linewidth=2.0)
            if np.isfinite(low):
                scores.plot([low, high], [row, row], color=colour, linewidth=2.0)
            if one.cell.is_baseline:
                scores.axvline(mean, color="black", linewidth=1.0, linestyle=":", zorder=0)
    for index, (name, words) in enumerate(_COSTS.items()):
        marks = [(_ratio(one, name, results), row) for row, one in enumerate(results)]
        found = [(value, row) for value, row in marks if value is not None]
        costs.plot(
            [value for value, _ in found],
            [row + 0.18 * (index - 1) for _, row in found],
            _MARKERS[index],
            color=_COLOURS[index + 1],
            label=words,
        )
    costs.axvline(1.0, color="black", linewidth=1.0, linestyle=":", zorder=0)
    costs.set(xlabel="cost, as a share of the baseline's", xlim=(0, None))
    costs.legend(frameon=False, loc="best", fontsize=9)
    scores.set(
        xlabel=f"{_words(results)} on test (dots: seeds; lines: mean and 95% t interval)",
        yticks=range(len(results)),
        yticklabels=[one.cell.name for one in results],
    )
    scores.set_ylim(len(results) - 0.5, -0.5)
    for axes in (scores, costs):
        _grid(axes, "x")
    return figure


def factor_plot(results: Sequence[CellResult], factor: str) -> Figure:
    """Test score against the levels of a factor, an arm a line with the band of its 95 % t interval over seeds.

    Levels that are numbers stand where they are, on a logarithmic axis where they span more than ten times; others
    stand side by side. A baseline without the factor is a level line with its own band.

    Args:
        results: All cells; those at other levels of other factors than the first are left out.
        factor: Dotted key.
    """
    shown = [one for one in results if _is_usual(one, results, besides=factor) and one.test is not None]
    with_factor = [one for one in shown if factor in one.cell.levels]
    levels = list(dict.fromkeys(one.cell.levels[factor] for one in with_factor))
    is_numeric = all(isinstance(level, int | float) and not isinstance(level, bool) for level in levels)
    place = {level: float(level) if is_numeric else index for index, level in enumerate(levels)}  # type: ignore[arg-type]
    figure = Figure(figsize=(8.5, 4.8), layout="constrained")
    axes = figure.subplots()
    groups = list(dict.fromkeys((one.cell.arm, one.cell.corpus) for one in with_factor))
    for index, (arm, corpus) in enumerate(groups):
        cells = sorted(
            (one for one in with_factor if (one.cell.arm, one.cell.corpus) == (arm, corpus)),
            key=lambda one: place[one.cell.levels[factor]],
        )
        colour = "black" if cells[0].cell.is_baseline else _COLOURS[index % len(_COLOURS)]
        name = arm if corpus is None else f"{arm} @ {corpus}"
        at = [place[one.cell.levels[factor]] for one in cells]
        _band(axes, at, [one.test for one in cells if one.test], colour, name, _MARKERS[index % len(_MARKERS)])
    for one in shown:
        if one.cell.is_baseline and factor not in one.cell.levels and one.test is not None:
            mean, low, high = one.test
            axes.axhline(mean, color="black", linewidth=1.2, linestyle=":", label=one.cell.name)
            if np.isfinite(low):
                axes.axhspan(low, high, color="black", alpha=0.07)
    if is_numeric and min(place.values()) > 0 and max(place.values()) > 10 * min(place.values()):
        axes.set_xscale("log")
    axes.set_xticks(list(place.values()), [str(level) for level in place])
    axes.minorticks_off()
    axes.set(xlabel=factor, ylabel=f"{_words(results)} on test (band: 95% t interval over seeds)")
    axes.legend(frameon=False, fontsize=9)
    _grid(axes, "y")
    return figure


def curves_plot(results: Sequence[CellResult], curves: Mapping[str, Curve]) -> Figure:
    """Score on validation by optimizer step, a cell a line with the band of its 95 % t interval over seeds.

    Args:
        results: All cells.
        curves: By the id of a trial.
    """
    figure = Figure(figsize=(9.5, 5.2), layout="constrained")
    axes = figure.subplots()
    shown = 0
    for one in results:
        known = [dict(zip(*curves[row.trial_id], strict=True)) for row in one.rows if row.trial_id in curves]
        steps = sorted(set.intersection(*(set(each) for each in known))) if known else []
        if not steps:
            continue
        colour = "black" if one.cell.is_baseline else _COLOURS[shown % len(_COLOURS)]
        shown += not one.cell.is_baseline
        intervals = [mean_interval([each[step] for each in known]) for step in steps]
        _band(axes, steps, intervals, colour, one.cell.name, _MARKERS[shown % len(_MARKERS)])
    axes.set(xlabel="optimizer step", ylabel=f"{_words(results)} on validation (band: 95% t interval over seeds)")
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
    _grid(axes, "y")
    return figure


def trade_off_plot(results: Sequence[CellResult]) -> Figure:
    """Test score against training FLOPs, a cell a mark with its interval; the Pareto front is a line.

    Args:
        results: All cells.
    """
    figure = Figure(figsize=(8.5, 5.2), layout="constrained")
    axes = figure.subplots()
    known = [(one, flops, one.test) for one in results if one.test and (flops := one.mean("flops")) is not None]
    sign = 1 if metric_of([row for one in results for row in one.rows]).mode == "max" else -1
    best, front = -np.inf, []
    for _, flops, test in sorted(known, key=lambda each: (each[1], -sign * each[2][0])):
        if sign * test[0] > best:
            best = sign * test[0]
            front.append((flops, test[0]))
    axes.plot(*zip(*front, strict=True), color="#B0B0B0", linewidth=1.2, zorder=0) if front else None
    for index, (one, flops, (mean, low, high)) in enumerate(known):
        colour = "black" if one.cell.is_baseline else _COLOURS[index % len(_COLOURS)]
        if np.isfinite(low):
            axes.plot([flops, flops], [low, high], color=colour, linewidth=1.5, alpha=0.6)
        axes.plot(flops, mean, _MARKERS[index % len(_MARKERS)], color=colour, markersize=8, label=one.cell.name)
    axes.xaxis.set_major_formatter(EngFormatter())
    axes.set(
        xlabel="FLOPs of training", ylabel=f"{_words(results)} on test (95% t interval over seeds)", xlim=(0, None)
    )
    axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
    _grid(axes, "y")
    return figure


def selection_plot(choices: Mapping[str, Sequence[Choices]]) -> Figure:
    """The share of steps in which each block trained, by cell, mean over seeds; the lowest block below.

    Args:
        choices: The trials of each cell by its name, in the order of columns.
    """
    names = [name for name, found in choices.items() if found]
    frequency: NDArray[np.float64] = np.array(
        [np.mean([one.frequency for one in choices[name]], axis=0) for name in names]
    ).T
    figure = Figure(figsize=(2.8 + 0.55 * len(names), 1.8 + 0.2 * len(frequency)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(frequency, aspect="auto", origin="lower", cmap="viridis", vmin=0.0, vmax=1.0)
    axes.set_xticks(range(len(names)), names, rotation=35, ha="right", rotation_mode="anchor")
    axes.set(ylabel="block")
    axes.yaxis.set_major_locator(MaxNLocator(10, integer=True))
    figure.colorbar(image, ax=axes, label="share of steps in which it trained")
    return figure


def _band(
    axes: Axes,
    at: Sequence[float],
    intervals: Sequence[tuple[float, float, float]],
    colour: str,
    name: str,
    marker: str,
) -> None:
    means, lows, highs = (np.array(values) for values in zip(*intervals, strict=True))
    axes.plot(at, means, marker=marker, markersize=5, color=colour, label=name)
    if np.isfinite(lows).all():
        axes.fill_between(at, lows, highs, color=colour, alpha=0.13, linewidth=0)


def _is_usual(one: CellResult, results: Sequence[CellResult], besides: str) -> bool:
    """Tell whether a cell is at the first level of every factor but one, among the cells of its arm."""
    of_arm = [other.cell.levels for other in results if other.cell.arm == one.cell.arm]
    return all(level == of_arm[0][key] for key, level in one.cell.levels.items() if key != besides)


def _ratio(one: CellResult, measured: str, results: Sequence[CellResult]) -> float | None:
    baselines = [other for other in results if other.cell.is_baseline and other.cell.corpus == one.cell.corpus]
    name = one.baseline or one.cell.name
    baseline = next((other for other in baselines if other.cell.name == name), None)
    value, reference = one.mean(measured), baseline.mean(measured) if baseline else None
    return None if value is None or not reference else value / reference


def _words(results: Sequence[CellResult]) -> str:
    return metric_of([row for one in results for row in one.rows]).words


def _grid(axes: Axes, axis: str) -> None:
    axes.grid(axis=axis, alpha=0.25)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
