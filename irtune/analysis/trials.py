"""One trial of a sweep as the analysis sees it, and which of several is ahead."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

BASELINE = "all"
"""The strategy that trains every block: what selecting blocks is compared with."""

_WHERE_NOT_WHAT = frozenset({"name", "seed", "storage", "tracking"})
_SELECTION = frozenset({"method", "selection", "importance"})

Mode = Literal["max", "min"]
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
        validation_f1: Macro-F1 on validation, in 0..1.
        test_f1: Macro-F1 on test, in 0..1; None unless finished.
        train_loss: Training loss at the end.
        seconds: Seconds spent training.
        flops: Floating point operations of the training.
        trainable_share: Mean trainable parameters over those with all blocks active, in 0..1.
        mean_lowest_active: Mean index of the lowest active block, where the backward pass ends.
        peak_memory_bytes: Peak memory of the device.
        seed: Seed of the run.
        test_labels: Class indices ``(N,)`` of the test set.
        test_predictions: Class indices ``(N,)`` predicted for it.
        params: The configuration by dotted key, such as ``training.learning_rate``.
        objective: The sweep's first metric where that is not macro-F1 on validation; None: ``validation_f1``.
        objectives: All metrics of a sweep that has several, the first one first; NaN where not measured.
        broken: The constraints that a finished trial breaks, in words; such a trial is never chosen.
        attempts: How often its training was begun: 1, and one more for each time that it was interrupted.
        repeats: The ``trial_id`` of the trial that it repeats with another seed; None for a trial of the search.
        classes: What macro scores are over where a split lacks classes: ``{"test": "3 of 4 classes"}``.
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
    validation_f1: float | None = None
    test_f1: float | None = None
    train_loss: float | None = None
    seconds: float | None = None
    flops: float | None = None
    trainable_share: float | None = None
    mean_lowest_active: float | None = None
    peak_memory_bytes: float | None = None
    test_labels: NDArray[np.integer[Any]] | None = None
    test_predictions: NDArray[np.integer[Any]] | None = None
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
        value = self.validation_f1 if self.objective is None else self.objective
        return None if value is None or math.isnan(value) else value


def ranked(rows: Iterable[TrialRow], mode: Mode = "max") -> list[TrialRow]:
    """The rows by validation score, best first; of equals the one with fewer FLOPs; without a score last.

    Raises:
        ValueError: If ``mode`` is neither ``max`` nor ``min``, or is ``min`` for rows that have only a macro-F1.
    """
    rows = list(rows)
    if mode not in ("max", "min"):
        raise ValueError(f"mode must be 'max' or 'min', found {mode!r}")
    without = [row.name for row in rows if row.objective is None and row.score is not None]
    if mode == "min" and without:
        raise ValueError(
            f"mode is 'min', but macro-F1 is the better the higher: give the sweep's metric as objective of {without}"
        )
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


def same_configuration(row: TrialRow, rows: Iterable[TrialRow]) -> list[TrialRow]:
    """The finished rows, ``row`` among them, that differ from it at most in their seed."""
    return [other for other in rows if other.status == "finished" and _configuration(other) == _configuration(row)]


def other_differences(row: TrialRow, other: TrialRow) -> dict[str, tuple[object, object]]:
    """Settings by dotted key that differ between two trials and are not about selecting blocks."""
    ignored = _SELECTION | _WHERE_NOT_WHAT
    keys = [key for key in {**row.params, **other.params} if key.split(".")[0] not in ignored]
    pairs = {key: (row.params.get(key), other.params.get(key)) for key in sorted(keys)}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def _configuration(row: TrialRow) -> tuple[object, ...]:
    params = {key: repr(value) for key, value in row.params.items() if key.split(".")[0] not in _WHERE_NOT_WHAT}
    return (row.strategy, row.num_blocks, row.k, row.reselect_every, row.within_block, tuple(sorted(params.items())))


def over_classes(rows: Iterable[TrialRow]) -> Mapping[str, str]:
    """Return what macro scores of a sweep's trials are over, by split, where that split lacks classes."""
    return next((row.classes for row in rows if row.classes), {})
