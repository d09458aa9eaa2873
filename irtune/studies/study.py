"""A study from file to answer: checks, the phases of its trials, and what is concluded from them."""

import contextlib
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from rich.console import Console

from irtune.config.load import ConfigError, storage_path, without_login
from irtune.config.study_schema import StudyConfig
from irtune.data.dataset import Split
from irtune.redaction import public_address
from irtune.search.source import Outcome, TrialSpec
from irtune.studies.driver import DRAIN_S, Driver, Phase, known_end, on_ray
from irtune.studies.plan import PLAN, Plan, predict
from irtune.studies.preflight import Study, prepare
from irtune.studies.resume import Resume, is_tracked, new_folder, sweep_to_resume, write_identity
from irtune.studies.trial_table import TrialTable
from irtune.studies.winner import register_winner
from irtune.tracking.address import requires_server
from irtune.tracking.heartbeat import Heartbeat
from irtune.tracking.left_behind import close_dead
from irtune.tracking.mlflow_tracker import MlflowTracker
from irtune.tracking.outbox import write_address
from irtune.training.rehearsal import Rehearsal, RehearsalError
from irtune.workers import cluster
from irtune.workers.node_watch import NodeWatch
from irtune.workers.storage_check import check_shared_storage

AWAY = ", which does not answer: records wait in the {kind}'s folder until it does"

Config = TypeVar("Config", bound=StudyConfig)
Found = TypeVar("Found")
KnownEnd = Callable[[TrialSpec], Outcome | None]
"""The end of a trial under an earlier driver; None if there is work left."""


class StudyRunner(ABC, Generic[Config, Found]):
    """The way of studies of one kind; ``Found`` is what they conclude."""

    @abstractmethod
    def most_trials(self, config: Config) -> int:
        """The most trials that one phase has."""

    @abstractmethod
    def trials_in_words(self, config: Config) -> str:
        """Say what will be run."""

    @abstractmethod
    def phases(self, study: Study[Config], known_end: KnownEnd) -> list[Phase]:
        """Return what runs one after the other."""

    @abstractmethod
    def make_plan(
        self, study: Study[Config], lengths: Mapping[Split, np.ndarray], rehearsal: Rehearsal, at_once: int
    ) -> Plan:
        """Return what the study will do and take.

        Args:
            study: What was found out about it.
            lengths: Tokens ``(N,)`` of each split's examples.
            rehearsal: Of its experiment.
            at_once: Trials at a time.
        """

    @abstractmethod
    def conclude(self, study: Study[Config], table: TrialTable, tracker: MlflowTracker, console: Console) -> Found:
        """Answer, write, record, and then show."""

    @abstractmethod
    def succeeded(self, found: Found) -> bool:
        """Tell whether there is a result."""

    def run(self, config: Config, source: str, console: Console, resume: Resume, rehearsal: Rehearsal) -> Found:
        """Check, run all trials, and conclude.

        Args:
            config: The study.
            source: The file it came from, for messages.
            console: Where progress and the answer are shown.
            resume: Whether to go on with an earlier study of the same name.
            rehearsal: Of its experiment, from which the study's end is predicted.

        Raises:
            ConfigError: If settings are wrong, the cluster can never run a trial, a node lacks the storage, or what is
                to be resumed is another study.
            DataError: If rows cannot be used.
            TrackingError: If MLflow cannot be used, or not be reached at the start of a study that is new.
        """
        study, fingerprint = _checked(config, source, console, resume, is_planned=False)
        config, folder, ready = study.config, study.folder, study.ready
        if not (folder / PLAN).is_file():
            rehearsal.load()
        with Heartbeat(folder, cluster.job_id()):
            with _status(console, f"tokenising the data, and sending to MLflow what dead {config.kind}s left"):
                lengths = ready.inputs.keep(config, folder / "encoded")
                write_identity(folder, config, fingerprint)
                write_address(folder, ready.tracking_uri, config.tracking.experiment)
                close_dead(folder.parent, ready.tracking_uri)
            self._announce(study, console)
            if not (folder / PLAN).is_file():
                with _status(console, "trying a few steps of the model"):
                    # Before Ray's processes start, which would slow them down.
                    refuse_what_fails(rehearsal, source)
            with on_ray(study, console) as watch:
                console.out(f"Ray      {cluster.describe()}", highlight=False)
                nodes = cluster.alive_nodes()
                at_once = self.trials_at_once(study, nodes)
                if len(nodes) > 1:
                    workers = [node for node in nodes if node.is_head or node.room(config.engine)]
                    check_shared_storage(folder, workers)
                predict(study.folder, lambda: self.make_plan(study, lengths, rehearsal, at_once), console)
                return self._run(study, at_once, watch, console)

    def plan(self, config: Config, source: str, console: Console, resume: Resume, rehearsal: Rehearsal) -> Plan:
        """Check a study as ``run`` does, and say what that would do; nothing is started, and nothing written.

        Only a model that is not in the cache yet is put there. Arguments and errors are those of ``run``.
        """
        # Without a terminal nobody is asked; what would be gone on with is only said.
        console = Console(file=console.file, width=console.width, force_terminal=False)
        study, _ = _checked(config, source, console, resume, is_planned=True)
        rehearsal.load()
        at_once = self.trials_at_once(study, cluster.future_nodes())
        refuse_what_fails(rehearsal, source)
        with tempfile.TemporaryDirectory(prefix="irtune-plan-") as encoded:
            return self.make_plan(study, study.ready.inputs.keep(study.config, Path(encoded)), rehearsal, at_once)

    def trials_at_once(self, study: Study[Config], nodes: Sequence[cluster.Node]) -> int:
        """The number of trials that run at a time.

        Raises:
            ConfigError: If none fits onto the nodes, or MLflow's store is a file and there are several nodes.
        """
        config, uri = study.config, study.ready.tracking_uri
        fits = cluster.concurrency(config.engine, nodes)
        if len(nodes) > 1 and requires_server(uri):
            raise ConfigError(
                study.source,
                [
                    f"tracking.uri: {public_address(uri)} is a file, and the cluster has {len(nodes)} nodes; start "
                    "`mlflow server` and set MLFLOW_TRACKING_URI to its address"
                ],
            )
        return min(fits, config.tune.max_concurrent_trials or fits, self.most_trials(config))

    def _run(self, study: Study[Config], at_once: int, watch: NodeWatch, console: Console) -> Found:
        with Driver(study, at_once, watch, console) as driver:
            is_complete = driver.run(self.phases(study, partial(known_end, setup=driver.setup)))
            registered = register_winner(study, driver.uploader) if is_complete else None
            found = self.conclude(study, driver.table, driver.tracker, console)
            driver.uploader.drain(DRAIN_S)
            if registered:
                console.out(f"Registered {registered}", highlight=False)
            if is_complete:
                write_identity(study.folder, study.config, study.ready.fingerprint(), complete=True)
            return found

    def _announce(self, study: Study[Config], console: Console) -> None:
        config, inputs = study.config, study.ready.inputs
        away = "" if study.ready.away is None else AWAY.format(kind=config.kind)
        facts = {
            config.kind: study.name,
            "model": f"{config.model.name}, {inputs.num_blocks} blocks",
            **inputs.facts(),
            "trials": self.trials_in_words(config),
            "results": str(study.folder),
            "adapters": f"{config.tracking.keep_adapters} kept, {config.tracking.upload_adapters} uploaded",
            "MLflow": public_address(study.ready.tracking_uri) + away,
        }
        for label, fact in facts.items():
            console.out(f"{label:8} {fact}", highlight=False)


def _checked(
    config: Config, source: str, console: Console, resume: Resume, *, is_planned: bool
) -> tuple[Study[Config], str]:
    """Check a study; returns it with its folder, which only one that runs has made, and its data's fingerprint.

    The login of MLflow is in ``ready.tracking_uri`` alone, which is never written.
    """
    config = cluster.with_absolute_paths(config)
    with _status(console, "checking settings, model, data and tracking"):
        ready = prepare(config, source, makes_store=not is_planned)
    config, fingerprint = without_login(config), ready.fingerprint()
    for doubt in ready.doubts:
        console.out(f"note: {source}: {doubt}", highlight=False)
    folder = sweep_to_resume(config, fingerprint, resume, source=source, console=console)
    ready.check_away(config.tracking, is_new=folder is None or not is_tracked(folder))
    if folder is None:
        folder = storage_path(config) / f"{config.name}-<date>-<time>" if is_planned else new_folder(config)
    return Study(folder.name, folder, config, ready, source), fingerprint


def _status(console: Console, text: str) -> contextlib.AbstractContextManager[Any]:
    return console.status(text) if console.is_terminal else contextlib.nullcontext()


def refuse_what_fails(rehearsal: Rehearsal, source: str) -> None:
    """Stop before anything starts if the steps that were tried failed in a way in which every trial would.

    Raises:
        ConfigError: With what was raised.
    """
    try:
        rehearsal.pace()
    except RehearsalError as error:
        if error.is_of_trials:
            told = "the experiment failed when its first steps were tried, and so would every trial"
            raise ConfigError(source, [f"{told}: {error}"]) from error
