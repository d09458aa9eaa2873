"""The three ways to run a trial: in Tune's own process, in a slot, or in a worker group of its own."""

from collections.abc import Callable, Mapping
from typing import Any
from uuid import uuid4

import ray
from ray import tune

from irtune.config.sweep_schema import SweepConfig
from irtune.workers import cluster
from irtune.workers.pool import Desk, Job, SlotPlan, relay
from irtune.workers.worker import TrialSetup, own_rank, train_rank, worker_group

CLOSE_S = 60.0


class Execution:
    """How the trials of a sweep run, as Tune is to be told.

    Args:
        config: The sweep.
        setup: What its trials share.
        at_once: Trials at once.
    """

    def __init__(self, config: SweepConfig, setup: TrialSetup, at_once: int) -> None:
        self.at_once = at_once
        self.mode = config.tune.execution_of(config.engine)
        self._config = config
        self._setup = setup
        self._desk: Any = None
        if self.mode == "slots":
            # What it was doing is lost with it, but trials come back by Tune's retries.
            desk = ray.remote(max_restarts=-1, num_cpus=0, resources=dict(cluster.HEAD_NODE))(Desk)
            self._desk = desk.remote()
            self._plan = SlotPlan(setup, at_once, config.tune.renew_slots_after)
            # Worker groups start while the driver prepares the rest.
            self._desk.start.remote(self._plan)

    def trainable(self) -> Any:
        """What Tune calls for every trial, with what it has to reserve for that."""
        is_slot = self.mode == "slots"
        parameters = {"desk": self._desk, "plan": self._plan} if is_slot else {"setup": self._setup}
        function = tune.with_parameters(_FUNCTIONS[self.mode], **parameters)
        return tune.with_resources(function, self._resources())

    @property
    def reuses_actors(self) -> bool:
        """Whether one process of Tune's takes trial after trial."""
        return self.mode != "isolated"

    def forget(self, trial: str) -> None:
        """Tune is done with a trial, whatever became of it."""
        if self._desk is not None:
            self._desk.stop.remote(trial)

    def close(self) -> None:
        """End the slots, none of which may be at work on a trial any more."""
        if self._desk is not None:
            ray.get(self._desk.close.remote(), timeout=CLOSE_S)
            ray.kill(self._desk)

    def _resources(self) -> Any:
        """What Tune reserves for a trial's own process; a worker group's resources are Ray Train's to reserve."""
        if self.mode != "in_process":
            return tune.PlacementGroupFactory([dict(cluster.HEAD_NODE)])
        engine = self._config.engine
        return {"CPU": engine.cpus_per_worker, "GPU": engine.gpus_per_worker}


def _in_process(suggestion: Mapping[str, Any], setup: TrialSetup) -> None:
    train_rank(suggestion["overrides"], suggestion["trial"], setup, lambda metrics: tune.report(dict(metrics)), rank=0)


def _in_slot(suggestion: Mapping[str, Any], desk: Any, plan: SlotPlan) -> None:
    relay(Job(suggestion["trial"], suggestion["overrides"]), desk, plan, tune.report)


def _isolated(suggestion: Mapping[str, Any], setup: TrialSetup) -> None:
    from ray.tune.integration.ray_train import TuneReportCallback

    worker_group(
        setup,
        _train_worker,
        {"suggestion": dict(suggestion), "setup": setup},
        # Ray Train would go on with a run of the same name, and tries are Tune's to count.
        name=f"{suggestion['trial']}_{uuid4().hex[:8]}",
        callbacks=[TuneReportCallback()],
    ).fit()


def _train_worker(config: Mapping[str, Any]) -> None:
    """What every worker of an isolated trial's group runs."""
    from ray import train

    from irtune.training.distributed import left_at_end

    suggestion = config["suggestion"]
    with left_at_end():
        train_rank(
            suggestion["overrides"],
            suggestion["trial"],
            config["setup"],
            lambda metrics: train.report(dict(metrics)),
            rank=own_rank(),
        )


_FUNCTIONS: Mapping[str, Callable[..., None]] = {
    "in_process": _in_process,
    "slots": _in_slot,
    "isolated": _isolated,
}
