"""Early stopping: successive halving that leaves the baseline alone."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler

from irtune.config.sweep import AshaConfig

TIME_ATTR = "step"
"""The entry of a result that counts optimizer steps; unlike Ray's iterations they go on when a trial is restarted."""


class Asha(AsyncHyperBandScheduler):  # type: ignore[misc]
    """Asynchronous successive halving that stops neither the baseline nor a trial at its last step.

    A rung keeps a trial whose metric is among the best ``1 / reduction_factor`` of all that reached it so far. The
    baseline counts at each rung, and runs on in any case, since everything is compared with its final result. A trial
    at its last step has nothing left to save; stopping it would only make a full run look like a stopped one.

    Source: Li et al., MLSys 2020 (arXiv 1810.05934), the variant of Ray Tune that stops trials and never resumes them.
    """

    def __init__(self, config: AshaConfig, max_steps: int, metric: str, mode: str) -> None:
        super().__init__(
            time_attr=TIME_ATTR,
            metric=metric,
            mode=mode,
            max_t=max_steps,
            grace_period=min(config.grace_steps, max_steps),
            reduction_factor=config.reduction_factor,
            stop_last_trials=False,
        )
        self.max_steps = max_steps

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """``STOP`` or ``CONTINUE`` for a trial that reported ``result``."""
        decision: str = super().on_trial_result(tune_controller, trial, result)
        spared = trial.config.get("is_baseline", False) or result.get(TIME_ATTR, 0) >= self.max_steps
        return str(TrialScheduler.CONTINUE) if spared else decision

    def remember(self, name: str, scores: Mapping[int, float]) -> None:
        """Count a trial of an earlier driver at the rungs that it reached.

        Args:
            name: The trial's.
            scores: Its metric by optimizer step.
        """
        trial = SimpleNamespace(trial_id=name, config={})
        self.on_trial_add(None, trial)
        for step, score in sorted(scores.items()):
            super().on_trial_result(None, trial, {TIME_ATTR: step, self._metric: score})


def build_scheduler(config: AshaConfig | None, *, max_steps: int, metric: str, mode: str) -> TrialScheduler:
    """What decides about stopping trials early.

    Args:
        config: None lets every trial run to its end.
        max_steps: Optimizer steps of a trial; where they vary, of the longest.
        metric: Entry of a trial's results.
        mode: ``max`` or ``min``.
    """
    return FIFOScheduler() if config is None else Asha(config, max_steps, metric, mode)
