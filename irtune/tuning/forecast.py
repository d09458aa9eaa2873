"""What trials and a sweep of them take: the sweep is played through on a clock of its own, ASHA included."""

import heapq
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
from ray.tune.schedulers import TrialScheduler

from irtune.config.schema import AshaConfig, SweepConfig
from irtune.training.estimate import IN_FLOPS, Times
from irtune.training.workload import Workload
from irtune.tuning.scheduler import TIME_ATTR, build_scheduler
from irtune.tuning.space import size

MAX_TRIALS = 200
"""How many trials are played through; of a longer sweep the rest is taken to be like them."""

MAX_REPETITIONS, MAX_REPORTS = 50, 5_000
"""How often a sweep is played through, and how many reports of trials that may take."""

SCORE, STOP = "score", TrialScheduler.STOP
OVER = -1


@dataclass(frozen=True)
class TrialCost:
    """What a trial takes that is not stopped.

    Args:
        step_s: Seconds of an optimizer step; None where no time can be given.
        seconds: From its start to its end; likewise.
        train_flops: FLOPs of its training, over all workers.
    """

    step_s: float | None
    seconds: float | None
    train_flops: float

    @classmethod
    def of(cls, work: Workload, times: Times | None, num_workers: int, *, is_first: bool = False) -> "TrialCost":
        """The cost of one trial. The first one starts the process that others go on in, and workers start anew."""
        flops = work.step_flops * work.max_steps * num_workers
        if times is None:
            return cls(None, None, flops)
        starting_s = times.process_s if is_first or num_workers > 1 else 0.0
        return cls(times.step(work), starting_s + times.whole(work), flops)

    @classmethod
    def mean(cls, trials: "Sequence[TrialCost]") -> "TrialCost":
        """The average of several, which were all measured or all not."""
        return cls(
            _mean([trial.step_s for trial in trials]),
            _mean([trial.seconds for trial in trials]),
            float(np.mean([trial.train_flops for trial in trials])),
        )


@dataclass(frozen=True)
class SweepCost:
    """What a sweep takes.

    Args:
        wall_s: From its first trial's start to its last trial's end; None where no time can be given.
        trials_s: Of all trials together; likewise.
        flops: Of training and evaluation, over all workers.
        stopped: Trials that are stopped early.
    """

    wall_s: float | None
    trials_s: float | None
    flops: float
    stopped: float

    @classmethod
    def of(
        cls,
        config: SweepConfig,
        baseline: Workload,
        others: Sequence[Workload],
        times: Times | None,
        at_once: int | None,
        asha: AshaConfig | None,
    ) -> "SweepCost":
        """The cost of a sweep.

        Args:
            config: The sweep.
            baseline: Its first trial.
            others: Trials of its space.
            times: What a worker takes; None if that is not known.
            at_once: Trials at a time; None if that is not known.
            asha: None to stop no trial.
        """
        num_workers = config.engine.num_workers

        def played(clock: Times) -> Duration:
            return play(
                baseline,
                others,
                num_planned(config),
                clock,
                at_once=at_once or 1,
                asha=asha,
                fresh_processes=num_workers > 1,
            )

        in_flops = played(IN_FLOPS)
        if times is None:
            return cls(None, None, in_flops.busy * num_workers, in_flops.stopped)
        in_s = played(times)
        return cls(in_s.wall if at_once else None, in_s.busy, in_flops.busy * num_workers, in_s.stopped)


def num_planned(config: SweepConfig) -> int:
    """Trials of a sweep, the baseline included; fewer than were asked for if the space has no more."""
    return 1 + min(config.tune.num_trials, size(config.space) or sys.maxsize)


@dataclass(frozen=True)
class Duration:
    """What a sweep takes, in the unit of the clock that it was played through with.

    Args:
        wall: From its first trial's start to its last trial's end.
        busy: Of all trials together.
        stopped: Trials that ASHA stopped.
    """

    wall: float
    busy: float
    stopped: float


def play(
    baseline: Workload,
    others: Sequence[Workload],
    num_trials: int,
    times: Times,
    *,
    at_once: int,
    asha: AshaConfig | None,
    fresh_processes: bool,
) -> Duration:
    """Play a sweep through, several times, and average.

    ASHA's decisions are its own; the scores that it decides on are random, one a trial, so that trials are in no order.

    Args:
        baseline: The first trial, which is never stopped.
        others: Trials of the space, of which each repetition draws some.
        num_trials: The baseline included.
        times: The clock: seconds, or FLOPs.
        at_once: Trials at a time.
        asha: None stops no trial.
        fresh_processes: Whether each trial starts a process of its own; else those of ended trials go on.
    """
    shown = min(num_trials, MAX_TRIALS)
    reports = sum(1 + work.max_steps / work.eval_every for work in others) / len(others) * shown
    played = []
    for repetition in range(max(1, min(MAX_REPETITIONS, int(MAX_REPORTS / reports)))):
        generator = np.random.default_rng(repetition)
        trials = [baseline, *(others[index] for index in generator.integers(len(others), size=shown - 1))]
        scores = generator.permutation(shown).astype(float)
        stopper = _Stopper(asha, max(work.max_steps for work in trials), scores)
        played.append(_play_once(trials, times, at_once, stopper, fresh_processes))
    return Duration(*(float(value) * num_trials / shown for value in np.mean(played, axis=0)))


def _play_once(
    trials: Sequence[Workload], times: Times, at_once: int, stopper: "_Stopper", fresh_processes: bool
) -> tuple[float, float, float]:
    started_at: list[float] = []
    now, busy, stopped, running = 0.0, 0.0, 0, 0
    # When something happens to a trial, which it is, and the step after which it reports, or that it is over.
    events: list[tuple[float, int, int]] = []
    while True:
        while running < at_once and (index := len(started_at)) < len(trials):
            is_fresh = fresh_processes or index < at_once
            first = _next_report(trials[index], 0)
            begun = now + times.start_s + times.process_s * is_fresh
            heapq.heappush(events, (begun + times.between(trials[index], 0, first), index, first))
            started_at.append(now)
            running += 1
        if not events:
            return now, busy, stopped
        now, index, step = heapq.heappop(events)
        work = trials[index]
        if step == OVER:
            running -= 1
            busy += now - started_at[index]
        elif step == work.max_steps:
            heapq.heappush(events, (now + times.finishing(work), index, OVER))
        elif stopper.stops(index, step):
            stopped += 1
            heapq.heappush(events, (now, index, OVER))
        else:
            following = _next_report(work, step)
            heapq.heappush(events, (now + times.between(work, step, following), index, following))


def _next_report(work: Workload, step: int) -> int:
    return min((step // work.eval_every + 1) * work.eval_every, work.max_steps)


class _Stopper:
    """Asks ASHA about trials that Tune knows nothing of."""

    def __init__(self, asha: AshaConfig | None, max_steps: int, scores: np.ndarray) -> None:
        self._scores = scores
        self._scheduler = build_scheduler(asha, max_steps=max_steps, metric=SCORE, mode="max") if asha else None
        self._known: set[int] = set()

    def stops(self, index: int, step: int) -> bool:
        """Whether the trial ``index`` is stopped after ``step``."""
        if self._scheduler is None:
            return False
        trial: Any = SimpleNamespace(trial_id=str(index), config={"is_baseline": index == 0})
        if index not in self._known:
            self._known.add(index)
            self._scheduler.on_trial_add(None, trial)
        result = {TIME_ATTR: step, SCORE: self._scores[index]}
        return bool(self._scheduler.on_trial_result(None, trial, result) == STOP)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
