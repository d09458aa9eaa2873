"""One trial of a sweep as the analysis sees it, and which of several is ahead."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from irtune.analysis.groups import Groups
from irtune.analysis.metrics import MACRO_F1, Metric, Mode

BASELINE = "all"
"""The strategy, and the policy's name, that trains every block: what selecting blocks is compared with."""

_WHERE_NOT_WHAT = frozenset({"name", "seed", "storage", "tracking"})
_SELECTION = frozenset({"method", "selection", "importance"})

Setting = TypeVar("Setting")
Status = Literal["finished", "pruned", "failed", "killed"]


@dataclass(frozen=True, eq=False, kw_only=True)
class TrialRow:
    """What one trial was and what it measured; a measurement that was never taken is None.

    Args:
        trial_id: The tracker's or the study's id.
        name: What a person calls it.
        strategy: Name of the method or the selection policy; ``all`` is the baseline.
        status: How it ended. Only a finished trial is ever chosen.
        num_blocks: L, the blocks of the model.
        mean_active: Mean number of blocks training at a step, the effective k, in 1..L.
        k: The configured number of blocks; None for a policy that decides its own.
        reselect_every: Optimizer steps between two refreshes; 0 means chosen once.
        within_block: Aggregation of a block's tensors into its score; None where nothing is scored.
        metric: What the next two are scores of.
        validation_score: On validation.
        test_score: On test; None unless finished.
        train_loss: Training loss at the end.
        seconds: Seconds spent training.
        flops: Floating point operations of the training.
        trainable_share: Mean trainable parameters over those with all blocks active, in 0..1.
        mean_lowest_active: Mean index of the lowest active block, where the backward pass ends.
        peak_memory_bytes: Peak memory of the device.
        step_s: Mean seconds of an optimizer step.
        tokens_per_s: Tokens trained on in a second.
        refresh_flops_share: FLOPs that measuring blocks adds, over those of training without it.
        refresh_time_share: Time that measuring blocks adds, over that of training without it, by the steps that don't
            measure; None where every step does. Below 0 only by chance.
        seed: Seed of the run.
        test_labels: Class indices ``(N,)`` of the test set.
        test_predictions: What was predicted for it, as ``metric`` reads it; mostly class indices ``(N,)``.
        test_groups: Documents that examples of the test set share; None where each stands for itself.
        test_classes: The class index that was predicted for each test example ``(N,)``, whatever ``metric`` reads.
        params: The configuration by dotted key, such as ``training.learning_rate``.
        objective: What the sweep searches for where that is not ``metric``; None: ``validation_score``.
        objectives: All metrics of a sweep that has several, the first one first; NaN where not measured.
        broken: The constraints that a finished trial breaks, in words; such a trial is never chosen.
        attempts: How often its training was begun: 1, and one more for each time that it was interrupted.
        repeats: The ``trial_id`` of the trial that it repeats with another seed; None for a trial of the search.
        classes: What macro scores are over where a split lacks classes: ``{"test": "3 of 4 classes"}``.

    Example:
        >>> from irtune.analysis.trials import TrialRow, chosen
        >>> same = {"status": "finished", "num_blocks": 30, "seed": 0, "reselect_every": 10}
        >>> baseline = TrialRow(trial_id="baseline", name="baseline", strategy="all", validation_score=0.6, **same)
        >>> trial = TrialRow(trial_id="trial_0000", name="trial", strategy="top_k", k=4, validation_score=0.7, **same)
        >>> chosen([baseline, trial]).k
        4
    """

    trial_id: str
    name: str
    strategy: str
    status: Status
    num_blocks: int
    seed: int
    reselect_every: int
    k: int | None = None
    within_block: str | None = None
    mean_active: float | None = None
    metric: Metric = MACRO_F1
    validation_score: float | None = None
    test_score: float | None = None
    train_loss: float | None = None
    seconds: float | None = None
    flops: float | None = None
    trainable_share: float | None = None
    mean_lowest_active: float | None = None
    peak_memory_bytes: float | None = None
    step_s: float | None = None
    tokens_per_s: float | None = None
    refresh_flops_share: float | None = None
    refresh_time_share: float | None = None
    test_labels: NDArray[np.integer[Any]] | None = None
    test_predictions: NDArray[np.integer[Any]] | None = None
    test_groups: Groups | None = None
    test_classes: NDArray[np.integer[Any]] | None = None
    params: Mapping[str, object] = field(default_factory=dict)
    attempts: int = 1
    objective: float | None = None
    objectives: Mapping[str, float] = field(default_factory=dict)
    broken: tuple[str, ...] = ()
    repeats: str | None = None
    classes: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_baseline(self) -> bool:
        """Whether every block trains at every step."""
        return self.strategy == BASELINE

    @property
    def score(self) -> float | None:
        """What the sweep compares on validation; None if never measured or not a number."""
        value = self.validation_score if self.objective is None else self.objective
        return None if value is None or math.isnan(value) else value


def ranked(rows: Iterable[TrialRow], mode: Mode = "max") -> list[TrialRow]:
    """The rows by validation score, best first; of equals the one with fewer FLOPs; without a score last."""
    sign = -1.0 if mode == "max" else 1.0

    def key(row: TrialRow) -> tuple[float, float]:
        flops = math.inf if row.flops is None else row.flops
        return (math.inf if row.score is None else sign * row.score, flops)

    return sorted(rows, key=key)


def chosen(rows: Iterable[TrialRow], mode: Mode = "max", *, baseline: bool | None = None) -> TrialRow | None:
    """The best finished row on validation, among baselines only (True), selective ones only (False) or all (None).

    None of them breaks a constraint, unless only baselines are asked for: that is what the others are compared with.
    """
    return next(iter(best_first(rows, mode, baseline=baseline)), None)


def best_first(rows: Iterable[TrialRow], mode: Mode = "max", *, baseline: bool | None = None) -> list[TrialRow]:
    """The rows that may be ``chosen``, ranked."""
    finished = [row for row in rows if row.status == "finished" and row.score is not None]
    if baseline is not None:
        finished = [row for row in finished if row.is_baseline == baseline]
    if not baseline:
        finished = [row for row in finished if not row.broken]
    return ranked(finished, mode)


def beside_selection(params: Mapping[str, Setting]) -> dict[str, Setting]:
    """Of settings by dotted key those that are not about selecting blocks, nor about where a trial lies."""
    ignored = _SELECTION | _WHERE_NOT_WHAT
    return {key: value for key, value in params.items() if key.split(".")[0] not in ignored}


def other_differences(row: TrialRow, other: TrialRow) -> dict[str, tuple[object, object]]:
    """Settings by dotted key that differ between two trials and are not about selecting blocks."""
    ours, theirs = beside_selection(row.params), beside_selection(other.params)
    pairs = {key: (ours.get(key), theirs.get(key)) for key in sorted({**ours, **theirs})}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def baseline_for(row: TrialRow, rows: Iterable[TrialRow], mode: Mode = "max") -> TrialRow | None:
    """The finished baseline that a trial can be compared with: all blocks train, and all else is as in the trial."""
    alike = [other for other in rows if other.repeats == row.repeats and not other_differences(row, other)]
    return chosen(alike, mode, baseline=True)


def metric_of(rows: Iterable[TrialRow]) -> Metric:
    """Return what the scores of a sweep's trials are of."""
    return next((row.metric for row in rows), MACRO_F1)


def over_classes(rows: Iterable[TrialRow]) -> Mapping[str, str]:
    """Return what macro scores of a sweep's trials are over, by split, where that split lacks classes."""
    return next((row.classes for row in rows if row.classes and row.metric.is_macro), {})


def groups_of(rows: Iterable[TrialRow]) -> Groups | None:
    """Return the groups of the test set that trials have in common; None where none of them recorded any."""
    return next((row.test_groups for row in rows if row.test_groups is not None), None)
