"""The cells of a study over their seeds, each beside the baseline cell on the same seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from irtune.analysis.over_seeds import interval_between
from irtune.analysis.significance import Comparison, compare, interquartile_mean, mcnemar_p, mean_interval
from irtune.analysis.statistics import Interval
from irtune.analysis.trials import TrialRow, groups_of, metric_of


@dataclass(frozen=True)
class Cell:
    """One configuration of a study, which is run on several seeds.

    Args:
        name: What people see, and what its trials repeat: ``ir``, ``ir reselect_every=10``, ``ir @ essays``.
        arm: The cell in the file that it comes from.
        overrides: Its configuration, by dotted key over the study's experiment.
        levels: Its level of each factor that varies it, by dotted key.
        corpus: The data set; None where there is only one.
        is_baseline: Whether its arm is what others are compared with.
        tuned: Of ``overrides`` those that a search of its own found, by dotted key.
        set_by_budget: Of ``overrides`` those that bring it to the budget at which cells are compared.
        dropped_from: The first seed that it is not run on, since it was clearly worse on validation; None: not dropped.
    """

    name: str
    arm: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    levels: Mapping[str, object] = field(default_factory=dict)
    corpus: str | None = None
    is_baseline: bool = False
    tuned: Mapping[str, Any] = field(default_factory=dict)
    set_by_budget: Mapping[str, Any] = field(default_factory=dict)
    dropped_from: int | None = None

    @property
    def configuration(self) -> str:
        """Its name without the corpus: what cells on several corpora have in common."""
        return self.name if self.corpus is None else self.name.removesuffix(f" @ {self.corpus}")


@dataclass(frozen=True, eq=False)
class CellResult:
    """The findings of the seeds of one cell.

    Args:
        cell: Which.
        rows: Its finished trials, by seed.
        unfinished: The others.
        test: Mean score on test over seeds, with its 95 % t interval; None if nothing finished.
        test_iqm: The mean of the middle half of the seeds.
        test_deviation: Standard deviation over the seeds; None below two.
        baseline: The baseline cell on the same corpus, and at the same levels where both have a factor; None for a
            baseline itself, and without one.
        against: Its test scores against the baseline's on common seeds, Holm-adjusted over all cells of the study; None
            for one that was dropped: how many seeds it has depends on how it did on them, which no test allows for.
        interval: Mean difference to the baseline for other seeds and other test examples; None below two common seeds,
            or without predictions.
        mcnemar: P-value that both are right equally often on other examples, or groups of them where there are groups,
            of the first common seed.
    """

    cell: Cell
    rows: tuple[TrialRow, ...]
    unfinished: tuple[TrialRow, ...]
    test: tuple[float, float, float] | None = None
    test_iqm: float | None = None
    test_deviation: float | None = None
    baseline: str | None = None
    against: Comparison | None = None
    interval: Interval | None = None
    mcnemar: float | None = None

    def mean(self, measured: str) -> float | None:
        """The mean over seeds of a number that a ``TrialRow`` has; None where a seed lacks it."""
        values = [getattr(row, measured) for row in self.rows]
        return None if not values or None in values else float(np.mean(values))

    @property
    def scores(self) -> dict[int, float]:
        """Score on test by seed."""
        return {row.seed: row.test_score for row in self.rows if row.test_score is not None}


def results_of(cells: Sequence[Cell], rows: Sequence[TrialRow]) -> list[CellResult]:
    """Every cell with what its trials measured, in the order of ``cells``.

    A seed on which a cell or its baseline failed is left out of that comparison only. A cell that was dropped counts in
    Holm's adjustment as one that showed nothing.

    Args:
        cells: All of the study.
        rows: All of its trials, in any state.
    """
    by_cell: dict[str, list[TrialRow]] = {cell.name: [] for cell in cells}
    for row in sorted(rows, key=lambda row: row.seed):
        if row.repeats in by_cell:
            by_cell[row.repeats].append(row)
    finished = {name: {row.seed: row for row in found if row.status == "finished"} for name, found in by_cell.items()}
    paired: dict[str, tuple[str, list[TrialRow], list[TrialRow]]] = {}
    for cell in cells:
        baseline = baseline_of(cell, cells)
        if baseline is not None and cell.dropped_from is None:
            ours, theirs = on_common_seeds(finished[cell.name], finished[baseline.name])
            if ours:
                paired[cell.name] = baseline.name, ours, theirs
    more_is_better = metric_of(rows).mode == "max"
    judged = compare(
        [differences(*pair[1:]) for pair in paired.values()],
        more_is_better=more_is_better,
        others=sum(cell.dropped_from is not None for cell in cells),
    )
    against = dict(zip(paired, judged, strict=True))
    return [_result(cell, by_cell[cell.name], paired.get(cell.name), against.get(cell.name)) for cell in cells]


def baseline_of(cell: Cell, cells: Sequence[Cell]) -> Cell | None:
    """The baseline that a cell is compared with: on its corpus, at its levels of the factors that both have."""
    for other in cells:
        alike = all(cell.levels.get(key, level) == level for key, level in other.levels.items())
        if other.is_baseline and other.corpus == cell.corpus and alike:
            return None if cell.is_baseline else other
    return None


def is_usual(one: CellResult, results: Sequence[CellResult], besides: str = "") -> bool:
    """Tell whether a cell is at the first level of every factor but one, among the cells of its arm."""
    of_arm = [other.cell.levels for other in results if other.cell.arm == one.cell.arm]
    return all(level == of_arm[0][key] for key, level in one.cell.levels.items() if key != besides)


def on_common_seeds(
    ours: Mapping[int, TrialRow], theirs: Mapping[int, TrialRow]
) -> tuple[list[TrialRow], list[TrialRow]]:
    """The trials of both on the seeds on which both have a score on test, in the order of seeds."""
    common = [
        seed
        for seed in sorted(ours.keys() & theirs.keys())
        if ours[seed].test_score is not None and theirs[seed].test_score is not None
    ]
    return [ours[seed] for seed in common], [theirs[seed] for seed in common]


def differences(ours: Sequence[TrialRow], theirs: Sequence[TrialRow]) -> list[float]:
    """Score on test of the first minus that of the second, seed by seed."""
    return [float(a.test_score) - float(b.test_score) for a, b in zip(ours, theirs, strict=True)]  # type: ignore[arg-type]


def _result(
    cell: Cell,
    rows: Sequence[TrialRow],
    paired: tuple[str, list[TrialRow], list[TrialRow]] | None,
    against: Comparison | None,
) -> CellResult:
    finished = tuple(row for row in rows if row.status == "finished")
    scores = [row.test_score for row in finished if row.test_score is not None]
    baseline, ours, theirs = paired or (None, [], [])
    return CellResult(
        cell=cell,
        rows=finished,
        unfinished=tuple(row for row in rows if row.status != "finished"),
        test=mean_interval(scores) if scores else None,
        test_iqm=interquartile_mean(scores) if scores else None,
        test_deviation=float(np.std(scores, ddof=1)) if len(scores) > 1 else None,
        baseline=baseline,
        against=against,
        interval=interval_between(ours, theirs) if len(ours) > 1 else None,
        mcnemar=_mcnemar(ours[0], theirs[0]) if ours else None,
    )


def _mcnemar(ours: TrialRow, theirs: TrialRow) -> float | None:
    """The p-value, where predictions were kept."""
    if ours.test_labels is None or ours.test_classes is None or theirs.test_classes is None:
        return None
    return mcnemar_p(ours.test_labels, ours.test_classes, theirs.test_classes, groups=groups_of((ours, theirs)))
