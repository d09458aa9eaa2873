"""What one rank of a trial does, and the Ray Train worker group that ranks live in."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import ray

from irtune.config.load import build, with_overrides
from irtune.config.schema import ExperimentConfig
from irtune.data.dataset import LabelledDataset
from irtune.redaction import raised_publicly
from irtune.tracking.spool import SpoolWriter, next_attempt
from irtune.training.recorder import NoRecorder, Recorder, Report

if TYPE_CHECKING:
    from ray.train.torch import TorchTrainer

SPOOL = "spool"


class Objective(Protocol):
    """What a trial does: training, or something that stands for it. Every rank calls it."""

    def __call__(
        self,
        config: ExperimentConfig,
        *,
        folder: Path,
        recorder: Recorder,
        report: Report,
        encoded_folder: Path,
        dataset: LabelledDataset,
    ) -> Any:
        """Record and report what was measured; see ``irtune.training.run.run``."""
        ...


def train(config: ExperimentConfig, **surroundings: Any) -> None:
    """The training run."""
    from irtune.training.run import run

    run(config, **surroundings)


@dataclass(frozen=True)
class TrialSetup:
    """What all trials of a sweep share; travels to workers.

    Args:
        experiment: What was said of the experiment that trials vary, as a JSON-able tree.
        folder: The sweep's folder on storage that all nodes share.
        dataset: The data of ``experiment``, in Ray's object store.
        objective: What a trial does.
    """

    experiment: Mapping[str, Any]
    folder: Path
    dataset: "ray.ObjectRef[LabelledDataset]"
    objective: Objective = train

    def config(self, overrides: Mapping[str, Any]) -> ExperimentConfig:
        """The configuration of one trial."""
        return with_overrides(build(ExperimentConfig, self.experiment, "sweep"), overrides)

    def trial_folder(self, trial: str) -> Path:
        """Where the trial of this name keeps what is its own, and whoever goes on with it finds that."""
        return self.folder / "trials" / trial


def train_rank(overrides: Mapping[str, Any], trial: str, setup: TrialSetup, report: Report, rank: int) -> None:
    """Be one rank of a trial; rank 0 writes the trial's spool."""
    from irtune.layers.collectives import gather

    config = setup.config(overrides)
    folder = setup.trial_folder(trial)
    same_data = config.data == build(ExperimentConfig, setup.experiment, "sweep").data
    dataset = ray.get(setup.dataset) if same_data else config.data.load()
    nodes = gather(ray.util.get_node_ip_address())
    recorder: Any = SpoolWriter(folder / SPOOL, next_attempt(folder / SPOOL)) if rank == 0 else NoRecorder()
    try:
        recorder.tags({f"irtune.engine.node.rank_{rank}": node for rank, node in enumerate(nodes)})
        setup.objective(
            config,
            folder=folder,
            recorder=recorder,
            report=report,
            encoded_folder=setup.folder / "encoded",
            dataset=dataset,
        )
    except Exception as error:
        # Ray and Tune write down whatever is raised here.
        public = raised_publicly(error)
        if public is error:
            raise
        raise public from None
    finally:
        recorder.close()


def worker_group(
    setup: TrialSetup,
    loop: Callable[[dict[str, Any]], None],
    loop_config: Mapping[str, Any],
    *,
    name: str,
    callbacks: list[Any],
) -> "TorchTrainer":
    """A Ray Train worker group that runs ``loop`` on every rank; ``fit`` starts it once and waits for its end.

    Args:
        setup: The sweep, all of whose trials have the same workers.
        loop: What a rank does.
        loop_config: The argument of ``loop``.
        name: Of the Train run; Ray goes on with one of the same name.
        callbacks: Of the Train run.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from irtune.workers.network import torch_config

    engine = setup.config({}).engine
    resources = {"CPU": engine.cpus_per_worker} | ({"GPU": engine.gpus_per_worker} if engine.gpus_per_worker else {})
    return TorchTrainer(
        loop,
        train_loop_config=dict(loop_config),
        torch_config=torch_config(engine),
        scaling_config=ScalingConfig(
            num_workers=engine.num_workers, use_gpu=engine.gpus_per_worker > 0, resources_per_worker=resources
        ),
        run_config=RunConfig(
            name=name,
            storage_path=str(setup.folder / "train"),
            # Whoever calls ``fit`` tries again. Without a limit, a group that cannot start is retried without end.
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=1),
            callbacks=callbacks,
        ),
    )


def own_rank() -> int:
    """This worker's rank in its group; also tells PyTorch and DeepSpeed its rank among those of its node."""
    from ray import train

    os.environ.setdefault("LOCAL_RANK", str(train.get_context().get_local_rank()))
    return int(train.get_context().get_world_rank())
