"""Early stopping: successive halving that leaves the baseline alone, and takes as long in a sweep of any length."""

import math
from bisect import insort
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from irtune.analysis.metrics import Mode
from irtune.config.sweep_schema import AshaConfig
from irtune.search.source import TrialSpec

TIME_ATTR = "step"
"""The entry of a result that counts optimizer steps; unlike Ray's iterations they go on when a trial is restarted."""


class InOrder(FIFOScheduler):  # type: ignore[misc]
    """Lets every trial run to its end, the earliest first.

    Ray's looks through all trials that there ever were, several times for each result; this one through those that are
    not over.
    """

    def __init__(self) -> None:
        super().__init__()
        self._num_added = 0
        self._place: dict[str, int] = {}

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Note a trial's place in the order; one that failed and is tried again is added anew."""
        self._place[trial.trial_id] = self._num_added
        self._num_added += 1

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """The earliest trial that waits, a new one before one that was paused; None if none waits."""
        waiting = [
            trial for trial in tune_controller.get_live_trials() if trial.status in (Trial.PENDING, Trial.PAUSED)
        ]
        return min(
            waiting,
            key=lambda trial: (trial.status != Trial.PENDING, self._place.get(trial.trial_id, -1)),
            default=None,
        )


@dataclass
class Rung:
    """A step at which trials are compared with those that reached it before.

    Args:
        milestone: The optimizer step.
        reached: Trials that were judged here.
        scores: Theirs, in ascending order, more is better; NaN is left out.
    """

    milestone: float
    reached: set[str] = field(default_factory=set)
    scores: list[float] = field(default_factory=list)

    def cutoff(self, reduction_factor: float) -> float:
        """What the best ``1 / reduction_factor`` score at least, interpolated; minus infinity if none was here."""
        if not self.scores:
            return -math.inf
        place = (1 - 1 / reduction_factor) * (len(self.scores) - 1)
        below = int(place)
        low, high = self.scores[below], self.scores[min(below + 1, len(self.scores) - 1)]
        return low if low == high else low + (place - below) * (high - low)

    def record(self, name: str, score: float) -> None:
        """Count a trial."""
        self.reached.add(name)
        if not math.isnan(score):
            insort(self.scores, score)


class Asha(InOrder):
    """Asynchronous successive halving that stops neither the baseline nor a trial at its last step.

    A rung keeps a trial whose metric is among the best ``1 / reduction_factor`` of all that reached it so far. The
    baseline counts at each rung, and runs on in any case, since everything is compared with its final result. A trial
    at its last step has nothing left to save; stopping it would only make a full run look like a stopped one.

    Source: Li et al., MLSys 2020 (arXiv 1810.05934), the variant of Ray Tune that stops trials and never resumes them
        (``AsyncHyperBandScheduler``). That sorts all scores of a rung anew for each trial; here they stay sorted.

    Args:
        config: Rungs, and how many go on.
        max_steps: Optimizer steps of a trial; where they vary, of the longest.
        metric: Entry of a trial's results.
        mode: ``max`` or ``min``.
    """

    def __init__(self, config: AshaConfig, max_steps: int, metric: str, mode: Mode) -> None:
        super().__init__()
        grace_steps = min(config.grace_steps, max_steps)
        num_rungs = int(math.log(max_steps / grace_steps) / math.log(config.reduction_factor) + 1)
        milestones = [grace_steps * config.reduction_factor**place for place in range(num_rungs)]
        self.max_steps = max_steps
        self.reduction_factor = config.reduction_factor
        self.rungs = [Rung(milestone) for milestone in reversed(milestones)]
        self._metric = metric
        self._sign = 1 if mode == "max" else -1

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """``STOP`` or ``CONTINUE`` for a trial that reported ``result``."""
        goes_on = self._goes_on(trial.trial_id, result)
        spared = TrialSpec(**trial.config).is_baseline or result.get(TIME_ATTR, 0) >= self.max_steps
        return str(TrialScheduler.CONTINUE if spared or goes_on else TrialScheduler.STOP)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Count the last result of a trial, which is not judged any more."""
        self._goes_on(trial.trial_id, result)

    def remember(self, name: str, scores: Mapping[int, float]) -> None:
        """Count a trial of an earlier driver at the rungs that it reached.

        Args:
            name: The trial's.
            scores: Its metric by optimizer step.
        """
        for step, score in sorted(scores.items()):
            self._goes_on(name, {TIME_ATTR: step, self._metric: score})

    def _goes_on(self, name: str, result: Mapping[str, Any]) -> bool:
        """Count a result at the highest rung that its step reached, unless the trial was there before."""
        step, score = result.get(TIME_ATTR), result.get(self._metric)
        if step is None or score is None:
            return True
        rung = next((rung for rung in self.rungs if step >= rung.milestone), None)
        if rung is None or name in rung.reached:
            return True
        score *= self._sign
        is_below = score < rung.cutoff(self.reduction_factor)
        rung.record(name, score)
        return not is_below
