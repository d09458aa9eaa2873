"""Quality against cost: the trials of a sweep with several objectives, and those that no other trial is better than."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from irtune.analysis.metrics import Mode
from irtune.analysis.palette import COLOURS
from irtune.analysis.trials import TrialRow

_FRONT, _OTHERS = COLOURS[1], COLOURS[0]


def pareto_front(rows: Sequence[TrialRow], modes: Mapping[str, Mode]) -> list[TrialRow]:
    """The trials that no other beats in one objective without losing in another; the best by the first one first.

    Only trials count that ran to their end and break no constraint; the baseline is one of them.

    Args:
        rows: All trials.
        modes: The objectives, ``max`` or ``min`` by name.
    """
    able = [row for row in rows if row.status == "finished" and not row.broken]
    measured = [(loss, row) for row in able if not any(map(math.isnan, loss := _losses(row, modes)))]
    # In this order nothing is beaten by what comes after it; what the first one beats or equals is not looked at again.
    losses, front = np.array(sorted({loss for loss, _ in measured})), set()
    while len(losses):
        front.add(tuple(losses[0]))
        losses = losses[(losses < losses[0]).any(axis=1)]
    return [row for loss, row in sorted(measured, key=lambda pair: pair[0]) if loss in front]


def pareto_plot(rows: Sequence[TrialRow], modes: Mapping[str, Mode]) -> Figure:
    """The first objective against each of the others: all trials, the Pareto front, and the baseline marked.

    Args:
        rows: All trials; those without a value of each objective are left out.
        modes: The objectives, ``max`` or ``min`` by name, at least two.
    """
    quality, *costs = modes
    front = pareto_front(rows, modes)
    figure = Figure(figsize=(6.5 * len(costs) + 2, 5.5), layout="constrained")
    panels = figure.subplots(1, len(costs), sharey=True, squeeze=False)[0]
    for axes, cost in zip(panels, costs, strict=True):
        _draw(axes, rows, front, cost, quality)
        if len(modes) == 2 and front:
            along = sorted((row.objectives[cost], row.objectives[quality]) for row in front)
            # The border of what was reached: between two trials of the front, what both of them beat.
            where = "post" if modes[cost] == "min" else "pre"
            axes.step([x for x, _ in along], [y for _, y in along], where=where, color=_FRONT, zorder=2)
        axes.set(xlabel=f"{cost} ({modes[cost]})")
        if axes.get_xlim()[1] >= 1000:
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.grid(alpha=0.25)
        axes.set_axisbelow(True)
    panels[0].set(ylabel=f"{quality} ({modes[quality]})")
    handles = {
        label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    if handles:
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, frameon=False)
    else:
        panels[0].text(0.5, 0.5, "no trial was measured", transform=panels[0].transAxes, ha="center")
    return figure


def _losses(row: TrialRow, modes: Mapping[str, Mode]) -> tuple[float, ...]:
    """The objectives such that less is better."""
    values = ((row.objectives.get(name, math.nan), mode) for name, mode in modes.items())
    return tuple(-value if mode == "max" else value for value, mode in values)


def _draw(axes: Axes, rows: Sequence[TrialRow], front: Sequence[TrialRow], x: str, y: str) -> None:
    looks = {
        "on the Pareto front": {"color": _FRONT, "marker": "o", "s": 55, "zorder": 4},
        "finished": {"color": _OTHERS, "marker": "o", "s": 35, "zorder": 3},
        "infeasible": {"color": "#7F7F7F", "marker": "x", "s": 35, "zorder": 3},
        "did not finish: as last measured": {"edgecolors": _OTHERS, "facecolors": "white", "marker": "o", "s": 30},
    }
    points: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        point = row.objectives.get(x, math.nan), row.objectives.get(y, math.nan)
        if any(map(math.isnan, point)):
            continue
        ended = "finished" if row.status == "finished" else "did not finish: as last measured"
        kind = "on the Pareto front" if row in front else "infeasible" if row.broken else ended
        points.setdefault(kind, []).append(point)
        if row.is_baseline:
            points.setdefault("baseline: all blocks train", []).append(point)
    ring = {"facecolors": "none", "edgecolors": "black", "marker": "s", "s": 130, "linewidths": 1.4, "zorder": 5}
    for kind, look in {**looks, "baseline: all blocks train": ring}.items():
        if kind in points:
            axes.scatter(*zip(*points[kind], strict=True), label=kind, **look)  # type: ignore[arg-type]
