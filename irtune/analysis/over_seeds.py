"""The finalists of a sweep: what their repeats over seeds say of each, and of its difference to the baseline."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from irtune.analysis.metrics import Mode
from irtune.analysis.statistics import Interval, paired_over_seeds
from irtune.analysis.trials import TrialRow, groups_of, other_differences, ranked

_MEASURED = tuple(field.name for field in fields(TrialRow) if field.type == float | None)


@dataclass(frozen=True, eq=False, kw_only=True)
class Finalist:
    """One configuration over the seeds that it and a baseline at its own settings finished.

    Args:
        mean: The trial of the search that it repeats, with means over the seeds for everything measured.
        repeats: Its repeats, by seed.
        baseline_mean: Likewise of the baseline that differs from it in nothing but which blocks train, over the same
            seeds; None for a baseline itself, and without one.
        baseline_repeats: The baseline's repeats on the same seeds in the same order.
        interval: Test score minus that of the baseline; None below two seeds or without predictions of all.
    """

    mean: TrialRow
    repeats: tuple[TrialRow, ...]
    baseline_mean: TrialRow | None = None
    baseline_repeats: tuple[TrialRow, ...] = ()
    interval: Interval | None = None

    @property
    def deviation(self) -> float | None:
        """Standard deviation over the seeds of the score on test; None below two seeds."""
        scores = [row.test_score for row in self.repeats if row.test_score is not None]
        return float(np.std(scores, ddof=1)) if len(scores) > 1 else None


def compare_finalists(rows: Sequence[TrialRow], mode: Mode = "max") -> tuple[Finalist, ...]:
    """Every finalist beside the baseline at its settings on common seeds, by mean validation score, best first.

    A seed on which a finalist failed is left out of its own comparison only: a failure costs the others nothing.

    Args:
        rows: All rows of a sweep: the trials of the search, and their repeats, in any state.
        mode: Whether more or less of the validation score is better.
    """
    trials = {row.trial_id: row for row in rows if row.repeats is None}
    finished: dict[str, dict[int, TrialRow]] = {}
    for row in rows:
        if row.repeats is not None and row.status == "finished":
            finished.setdefault(row.repeats, {})[row.seed] = row
    finalists = {}
    for key, by_seed in finished.items():
        baseline = _baseline_of(next(iter(by_seed.values())), finished)
        common = sorted(by_seed.keys() & baseline.keys())
        ours = tuple(by_seed[number] for number in common or sorted(by_seed))
        mean = _mean(key, trials, ours)
        theirs = () if mean.is_baseline else tuple(baseline[number] for number in common)
        finalists[mean] = Finalist(
            mean=mean,
            repeats=ours,
            baseline_mean=_mean(str(theirs[0].repeats), trials, theirs) if theirs else None,
            baseline_repeats=theirs,
            interval=interval_between(ours, theirs) if len(theirs) > 1 else None,
        )
    return tuple(finalists[mean] for mean in ranked(finalists, mode))


def interval_between(ours: Sequence[TrialRow], theirs: Sequence[TrialRow]) -> Interval | None:
    """Test score of ``ours`` minus that of ``theirs``: a trial each, or one for each of the same seeds.

    Returns:
        None unless all kept their predictions, on one and the same test set.
    """
    labels = np.asarray(ours[0].test_labels)
    kept = [row.test_predictions for row in (*ours, *theirs) if row.test_predictions is not None]
    if labels.ndim < 1 or len(labels) == 0 or len(kept) < len(ours) + len(theirs):
        return None
    if not all(np.array_equal(labels, np.asarray(row.test_labels)) for row in (*ours, *theirs)):
        return None
    groups = groups_of((*ours, *theirs))
    return paired_over_seeds(labels, kept[: len(ours)], kept[len(ours) :], metric=ours[0].metric, groups=groups)


def _baseline_of(row: TrialRow, finished: Mapping[str, Mapping[int, TrialRow]]) -> Mapping[int, TrialRow]:
    """The repeats by seed of the baseline that differs from a trial in nothing but which blocks train."""
    for by_seed in finished.values():
        other = next(iter(by_seed.values()))
        if other.is_baseline and not other_differences(row, other):
            return by_seed
    return {}


def _mean(name: str, trials: Mapping[str, TrialRow], repeats: Sequence[TrialRow]) -> TrialRow:
    """The trial as it is on average over seeds; what not every repeat measured is None."""
    # A baseline at the settings of a finalist need not have run in the search.
    alone = replace(repeats[0], trial_id=name, name=repeats[0].strategy, repeats=None)
    trial = trials.get(name, alone)
    values = {name: [getattr(row, name) for row in repeats] for name in _MEASURED}
    means = {name: None if None in found else float(np.mean(found)) for name, found in values.items()}
    test_set = {"test_labels": repeats[0].test_labels, "test_groups": groups_of(repeats)}
    return replace(trial, status="finished", test_predictions=None, **test_set, **means)  # type: ignore[arg-type]
