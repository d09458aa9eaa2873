"""One trial as Ray Tune runs it: in the trial's own process, or in a Ray Train worker group of its own."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import ray

from irtune.config.load import build, with_overrides
from irtune.config.schema import ExperimentConfig
from irtune.data.base import RevisionDataset
from irtune.tracking.spool import SpoolWriter, next_attempt
from irtune.training.loop import Report

SPOOL = "spool"


@dataclass(frozen=True)
class TrialSetup:
    """What all trials of a sweep share; travels to workers.

    Args:
        experiment: What was said of the experiment that trials vary, as a JSON-able tree.
        folder: The sweep's folder on storage that all nodes share.
        dataset: The data of ``experiment``, in Ray's object store.
        max_failures: How often a worker group is started again from the last checkpoint.
    """

    experiment: Mapping[str, Any]
    folder: Path
    dataset: "ray.ObjectRef[RevisionDataset]"
    max_failures: int

    def config(self, overrides: Mapping[str, Any]) -> ExperimentConfig:
        """The configuration of one trial."""
        return with_overrides(build(ExperimentConfig, self.experiment, "sweep"), overrides)

    def trial_folder(self, trial: str) -> Path:
        """Where the trial of this name keeps what is its own, and whoever goes on with it finds that."""
        return self.folder / "trials" / trial


def run_trial(suggestion: Mapping[str, Any], setup: TrialSetup) -> None:
    """The function that Ray Tune calls for every trial."""
    from ray import tune

    trial, overrides = suggestion["trial"], suggestion["overrides"]
    if setup.config(overrides).engine.num_workers == 1:
        train_rank(overrides, trial, setup, lambda metrics: tune.report(dict(metrics)), rank=0)
    else:
        # Ray Train goes on with a run of the same name, which must be one of this driver's.
        _run_worker_group(overrides, trial, setup, run_name=f"{trial}_{tune.get_context().get_trial_id()}")


def train_rank(overrides: Mapping[str, Any], trial: str, setup: TrialSetup, report: Report, rank: int) -> None:
    """Train as one rank of a trial; rank 0 writes the trial's spool."""
    from irtune.training.run import NoRecorder, run

    config = setup.config(overrides)
    folder = setup.trial_folder(trial)
    same_data = config.data == build(ExperimentConfig, setup.experiment, "sweep").data
    dataset = ray.get(setup.dataset) if same_data else config.data.load()
    recorder: Any = SpoolWriter(folder / SPOOL, next_attempt(folder / SPOOL)) if rank == 0 else NoRecorder()
    try:
        run(
            config,
            folder=folder,
            recorder=recorder,
            report=report,
            encoded_folder=setup.folder / "encoded",
            dataset=dataset,
        )
    finally:
        recorder.close()


def _run_worker_group(overrides: Mapping[str, Any], trial: str, setup: TrialSetup, run_name: str) -> None:
    """Start a Ray Train worker group for this trial alone, and start it again from a checkpoint if a worker dies."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    engine = setup.config(overrides).engine
    TorchTrainer(
        _train_worker,
        train_loop_config={"overrides": dict(overrides), "trial": trial, "setup": setup},
        torch_config=TorchConfig(
            backend="nccl" if engine.gpus_per_worker else "gloo",
            timeout_s=int(timedelta(seconds=engine.process_group_timeout_s).total_seconds()),
        ),
        scaling_config=ScalingConfig(
            num_workers=engine.num_workers,
            use_gpu=engine.gpus_per_worker > 0,
            resources_per_worker={"CPU": engine.cpus_per_worker}
            | ({"GPU": engine.gpus_per_worker} if engine.gpus_per_worker else {}),
        ),
        run_config=RunConfig(
            name=run_name,
            storage_path=str(setup.folder / "train"),
            # Without a limit, a group that cannot start is retried without end.
            failure_config=FailureConfig(max_failures=setup.max_failures, controller_failure_limit=1),
            callbacks=[TuneReportCallback()],
        ),
    ).fit()


def _train_worker(trial: Mapping[str, Any]) -> None:
    """What every worker of a group runs."""
    from ray import train

    os.environ.setdefault("LOCAL_RANK", str(train.get_context().get_local_rank()))
    train_rank(
        trial["overrides"],
        trial["trial"],
        trial["setup"],
        lambda metrics: train.report(dict(metrics)),
        rank=train.get_context().get_world_rank(),
    )
