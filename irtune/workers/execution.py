"""The two ways to run a trial: in Ray Tune's own process, or in a worker group of the pool."""

from collections.abc import Mapping
from typing import Any

import ray
from ray import tune

from irtune.config.study_schema import StudyConfig
from irtune.workers.cluster import HEAD_NODE
from irtune.workers.pool import Pool
from irtune.workers.worker import TrialSetup, train_rank

CLOSE_S = 60.0


class Execution:
    """The way in which the trials of a sweep run, for Tune.

    Args:
        config: The study.
        setup: What its trials share.
        at_once: Trials at once.
    """

    def __init__(self, config: StudyConfig, setup: TrialSetup, at_once: int) -> None:
        self.at_once = at_once
        self._engine, self._setup = config.engine, setup
        self._pool: Any = None
        if config.tune.execution_of(config.engine) == "pool":
            # What it was doing is lost with it, but trials come back by Tune's retries.
            actor = ray.remote(max_restarts=-1, num_cpus=0, resources=dict(HEAD_NODE))(Pool)
            self._pool = actor.remote(setup, at_once, config.tune.renew_after)
            # Worker groups start while the driver prepares the rest.
            self._pool.start.remote()

    def trainable(self) -> Any:
        """The function that Tune calls for every trial, with what it has to reserve for that."""
        if self._pool is None:
            function = tune.with_parameters(_in_process, setup=self._setup)
            resources = {"CPU": self._engine.cpus_per_worker, "GPU": self._engine.gpus_per_worker}
            return tune.with_resources(function, resources)
        # A worker group's resources are Ray Train's to reserve.
        function = tune.with_parameters(_in_pool, pool=self._pool)
        return tune.with_resources(function, tune.PlacementGroupFactory([dict(HEAD_NODE)]))

    def forget(self, trial: str) -> None:
        """Tell the pool that Tune is done with a trial, whatever became of it."""
        if self._pool is not None:
            self._pool.stop.remote(trial)

    def close(self) -> None:
        """End the pool, none of whose worker groups may be at work on a trial any more."""
        if self._pool is not None:
            # One that is slow to start is no reason for a sweep to fail that has all it wanted.
            ray.wait([self._pool.close.remote()], timeout=CLOSE_S)
            ray.kill(self._pool)


def _in_process(suggestion: Mapping[str, Any], setup: TrialSetup) -> None:
    train_rank(suggestion["name"], suggestion["overrides"], setup, lambda metrics: tune.report(dict(metrics)))


def _in_pool(suggestion: Mapping[str, Any], pool: Any) -> None:
    """Pass on to Tune what a worker group reports of a trial."""
    name = suggestion["name"]
    heard = ray.get(pool.submit.remote(name, suggestion["overrides"]))
    try:
        while (event := ray.get(pool.next_event.remote(name, heard))).kind == "report":
            # Raises SystemExit where the scheduler stops the trial.
            tune.report(event.content)
            heard += 1
    except BaseException:
        pool.stop.remote(name)
        raise
    if event.kind == "failed":
        # The traceback of the rank that failed first, or what became of its worker group.
        raise RuntimeError(event.content)
