"""The steps, FLOPs and seconds after which cells first reach what their baseline reaches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from irtune.analysis.ablation.cell_results import Cell, CellResult, baseline_of
from irtune.analysis.ablation.learning_curve import Curve
from irtune.analysis.tables import MISSING, Column, TableRow, TextTable, duration, operations
from irtune.analysis.trials import metric_of


@dataclass(frozen=True)
class Arrival:
    """The first evaluation at which a trial had reached the target.

    Args:
        step: Optimizer steps by then; None: it never did, and so below.
        flops: Of training until then.
        seconds: Spent training until then.
    """

    step: int | None = None
    flops: float | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Arrivals:
    """The arrivals of the seeds of one cell.

    Args:
        cell: Which.
        target: Score on validation.
        by_seed: Of each seed whose scores on validation are recorded.
    """

    cell: Cell
    target: float
    by_seed: Mapping[int, Arrival]

    @property
    def num_reached(self) -> int:
        """The number of seeds that reached the target."""
        return sum(one.step is not None for one in self.by_seed.values())

    def mean(self, spent: str) -> float | None:
        """The mean of ``step``, ``flops`` or ``seconds`` over the seeds that reached the target; None without any."""
        known = [value for one in self.by_seed.values() if (value := getattr(one, spent)) is not None]
        return float(np.mean(known)) if known else None


def arrivals_of(results: Sequence[CellResult], curves: Mapping[str, Curve]) -> list[Arrivals]:
    """The arrivals of every cell at the target of its baseline: the best score that every seed of that reached.

    All seeds of the baseline reach it, by definition. The mean of their best scores would be out of reach for about
    half of them, and a mean over the others flatters; and what every cell reached would be set by the poorest of all.

    Args:
        results: All cells; those without a baseline that was evaluated are left out.
        curves: By the id of a trial.
    """
    sign = 1 if metric_of([row for one in results for row in one.rows]).mode == "max" else -1
    by_name, cells, found = {one.cell.name: one for one in results}, [one.cell for one in results], []
    for one in results:
        baseline = one.cell if one.cell.is_baseline else baseline_of(one.cell, cells)
        known = _curves(by_name[baseline.name], curves) if baseline else {}
        ours = _curves(one, curves)
        if known and ours:
            target = sign * min(max(sign * score for score in curve.scores) for curve in known.values())
            found.append(Arrivals(one.cell, target, {seed: _first(ours[seed], target, sign) for seed in ours}))
    return found


def _curves(one: CellResult, curves: Mapping[str, Curve]) -> dict[int, Curve]:
    known = {row.seed: curves[row.trial_id] for row in one.rows if row.trial_id in curves}
    return {seed: curve for seed, curve in known.items() if curve.steps}


def _first(curve: Curve, target: float, sign: int) -> Arrival:
    reached = (index for index, score in enumerate(curve.scores) if sign * score >= sign * target)
    index = next(reached, None)
    if index is None:
        return Arrival()
    flops = curve.flops[index] if curve.flops else None
    return Arrival(curve.steps[index], flops, curve.seconds[index] if curve.seconds else None)


def _mean(one: Arrivals, spent: str) -> str:
    value = one.mean(spent)
    if value is None:
        return MISSING
    text = {"step": "{:.0f}".format, "flops": operations, "seconds": duration}[spent](value)
    return text if one.num_reached == len(one.by_seed) else f"({text})"


ARRIVAL_COLUMNS: tuple[Column[Arrivals], ...] = (
    Column("cell", "configuration, and data where there are several", lambda one: one.cell.name, "left", True),
    Column(
        "target",
        "score on validation: the best that every seed of its baseline reached",
        lambda one: f"{one.target:.3f}",
    ),
    Column("reached by", "seeds, of all", lambda one: f"{one.num_reached} of {len(one.by_seed)}"),
    Column(
        "steps",
        "optimizer steps by the first evaluation that reached it, mean over the seeds that did; in brackets where some "
        "did not, which this mean does not show",
        lambda one: _mean(one, "step"),
    ),
    Column("FLOPs", "of training until then, likewise", lambda one: _mean(one, "flops")),
    Column("time", "spent training until then, likewise", lambda one: _mean(one, "seconds")),
    Column(
        "steps by seed",
        "in the order of seeds; – where it was never reached",
        lambda one: ", ".join(MISSING if each.step is None else str(each.step) for each in one.by_seed.values()),
        "left",
        True,
    ),
)


def arrival_table(arrivals: Sequence[Arrivals]) -> TextTable | None:
    """The arrivals as text; None where nothing was evaluated."""
    lines = tuple(
        TableRow(tuple(column.cell(one) for column in ARRIVAL_COLUMNS), False, one.cell.is_baseline) for one in arrivals
    )
    return TextTable(ARRIVAL_COLUMNS, lines, "", "= baseline") if lines else None


def arrival_frame(arrivals: Sequence[Arrivals]) -> pd.DataFrame:
    """Every seed of every cell, one a row; NaN where the target was never reached."""
    return pd.DataFrame(
        [
            {
                "cell": one.cell.name,
                "corpus": one.cell.corpus,
                "seed": seed,
                "target": one.target,
                "step": each.step,
                "flops": each.flops,
                "seconds": each.seconds,
            }
            for one in arrivals
            for seed, each in one.by_seed.items()
        ]
    )
