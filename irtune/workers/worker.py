"""One rank of a trial, and the Ray Train worker group that ranks live in."""

import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.util.placement_group import get_current_placement_group

from irtune.config.load import build, with_overrides, with_threads
from irtune.config.schema import ExperimentConfig
from irtune.data.dataset import DatasetConfig, LabelledDataset
from irtune.redaction import raised_publicly
from irtune.training.record import NoRecorder, RecordWriter, Report

if TYPE_CHECKING:
    from ray.train.torch import TorchTrainer


Objective = Callable[..., Any]
"""The work of a trial, which every rank calls as ``train`` is called: training, or something that stands for it."""


def train(config: ExperimentConfig, **surroundings: Any) -> None:
    """The training run; what it is called with, ``irtune.training.run.run`` says."""
    from irtune.training.run import run

    run(config, **surroundings)


@dataclass(frozen=True)
class TrialSetup:
    """The setup that all trials of a sweep share; travels to workers.

    Args:
        experiment: What was said of the experiment that trials vary, as a JSON-able tree.
        folder: The sweep's folder on storage that all nodes share.
        dataset: The data that most trials train on, in Ray's object store.
        objective: The work of a trial.
        data: What ``dataset`` was loaded from; None: as ``experiment`` says.
        at_once: Trials at once; None: as many as the cluster holds.
    """

    experiment: Mapping[str, Any]
    folder: Path
    dataset: "ray.ObjectRef[LabelledDataset]"
    objective: Objective = train
    data: DatasetConfig | None = None
    at_once: int | None = None

    def config(self, overrides: Mapping[str, Any]) -> ExperimentConfig:
        """The configuration of one trial."""
        return with_overrides(build(ExperimentConfig, self.experiment, "sweep"), overrides)

    def trial_folder(self, trial: str) -> Path:
        """The folder of the trial of this name, in which whoever goes on with it finds its state."""
        return self.folder / "trials" / trial


def train_rank(trial: str, overrides: Mapping[str, Any], setup: TrialSetup, report: Report) -> None:
    """Be one rank of a trial; rank 0 records what the trial measures."""
    from irtune.layers.collectives import gather, rank

    config = _with_threads_here(setup.config(overrides), setup.at_once)
    folder = setup.trial_folder(trial)
    shared = setup.config({}).data if setup.data is None else setup.data
    dataset = ray.get(setup.dataset) if config.data == shared else config.data.load()
    nodes = gather(ray.util.get_node_ip_address())
    recorder: Any = RecordWriter(folder) if rank() == 0 else NoRecorder()
    try:
        recorder.tags({f"irtune.engine.node.rank_{number}": node for number, node in enumerate(nodes)})
        with _with_node_metrics(config, report, recorder, nodes) as report_all:
            setup.objective(
                config,
                folder=folder,
                recorder=recorder,
                report=report_all,
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


def _with_node_metrics(
    config: ExperimentConfig, report: Report, recorder: Any, nodes: Sequence[str]
) -> AbstractContextManager[Report]:
    if not config.tracking.system_metrics:
        return nullcontext(report)
    # Only who asks for it has MLflow in workers.
    from irtune.tracking.node_metrics import with_node_metrics

    return with_node_metrics(report, recorder, nodes)


def _with_threads_here(config: ExperimentConfig, at_once: int | None) -> ExperimentConfig:
    """The configuration with the number of threads that this node has for a worker, while so many trials run."""
    from irtune.workers.cluster import alive_nodes

    engine, here = config.engine, ray.get_runtime_context().get_node_id()
    node = next((node for node in alive_nodes() if node.id == here), None)
    if node is None or at_once is None:
        return with_threads(config, at_once)
    busy = min(max(1, node.room(engine)), at_once * engine.num_workers)
    return with_threads(config, busy, node.resources.get("CPU", 1.0))


class _TrialStoppedError(Exception):
    """The scheduler has stopped the trial that this rank trains."""


def serve(config: Mapping[str, Any]) -> None:
    """Be one rank of a worker group: train trial after trial, and leave the other ranks in the end."""
    from irtune.layers.collectives import broadcast, rank
    from irtune.training.distributed import leave_at_exit, leave_process_group

    pool, group, setup = config["pool"], config["group"], config["setup"]

    def report(metrics: Mapping[str, Any]) -> None:
        """Rank 0 passes on what was measured; all ranks learn whether to go on."""
        if not broadcast(ray.get(pool.report.remote(group, metrics)) if rank() == 0 else None):
            raise _TrialStoppedError

    leave_at_exit()
    try:
        if rank() == 0:
            ray.get(pool.started.remote(group, get_current_placement_group()))
        while (trial := ray.get(pool.next_trial.remote(group))) is not None:
            name, overrides = trial
            try:
                train_rank(name, overrides, setup, report)
            except _TrialStoppedError:
                continue
            except BaseException:
                ray.get(pool.failed.remote(group, traceback.format_exc()))
                raise
    finally:
        leave_process_group()


def worker_group(setup: TrialSetup, pool: Any, name: str) -> "TorchTrainer":
    """A Ray Train worker group that serves a pool; ``fit`` starts it once and waits for its end.

    Args:
        setup: The sweep, all of whose trials have the same workers.
        pool: The actor that has trials for it.
        name: Of the group; Ray would go on with an earlier one of the same name.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from irtune.workers.network import torch_config

    engine = setup.config({}).engine
    resources = {"CPU": engine.cpus_per_worker} | ({"GPU": engine.gpus_per_worker} if engine.gpus_per_worker else {})
    return TorchTrainer(
        serve,
        train_loop_config={"pool": pool, "group": name, "setup": setup},
        torch_config=torch_config(engine),
        scaling_config=ScalingConfig(
            num_workers=engine.num_workers, use_gpu=engine.gpus_per_worker > 0, resources_per_worker=resources
        ),
        run_config=RunConfig(
            name=name,
            storage_path=str(setup.folder / "train"),
            # The pool starts another. Without a limit, a group that cannot start is retried without end.
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=1),
        ),
    )
