"""A sweep from file to answer: the driver that starts Ray, runs the trials and owns what MLflow says of them."""

import contextlib
import logging
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import ray
from ray import tune
from rich.console import Console

from irtune.config.load import ConfigError, explicit, storage_path, with_overrides
from irtune.config.schema import BASELINE, SweepConfig
from irtune.tracking.address import redact, requires_server
from irtune.tracking.mlflow_tracker import MlflowTracker
from irtune.tracking.shipper import Shipper
from irtune.tracking.spool import Record
from irtune.tuning import cluster
from irtune.tuning.artifacts import keep_trace
from irtune.tuning.book import TrialEntry, config_hash, trial_name
from irtune.tuning.forecast import num_planned
from irtune.tuning.plan import Prediction
from irtune.tuning.preflight import Ready, prepare
from irtune.tuning.progress import SweepProgress
from irtune.tuning.provenance import git_commit
from irtune.tuning.scheduler import build_scheduler
from irtune.tuning.searcher import OptunaAskTell, open_study
from irtune.tuning.summary import Outcome, conclude
from irtune.tuning.worker import SPOOL, TrialSetup, run_trial

DRAIN_S = 120.0
DRAIN_KILLED_S = 8.0
STUDY = "study.journal"


@dataclass(frozen=True)
class Sweep:
    """A sweep that is ready to run.

    Args:
        name: Its name with the time it was started, which tags its runs in MLflow.
        folder: Its folder on storage.
        config: What to do.
        ready: What was checked and read before.
        source: The file it came from, for messages.
    """

    name: str
    folder: Path
    config: SweepConfig
    ready: Ready
    source: str


class _Killed(SystemExit):
    """SIGTERM, as ``ray job stop`` sends it."""


class SweepCallback(tune.Callback):  # type: ignore[misc]
    """Keeps the book of trials, and tells MLflow when one starts and how it ends."""

    def __init__(self, sweep: Sweep, setup: TrialSetup, shipper: Shipper) -> None:
        self.sweep = sweep
        self.trials = setup
        self.shipper = shipper
        self.entries: dict[str, TrialEntry] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles callbacks for a restore of its own, while ours hold on to threads."""
        return {}

    def take(self, key: str, records: list[Record]) -> None:
        """New records of a trial, from the shipper's thread."""
        entry = self.entries.get(key.rpartition("/")[2])
        if entry is not None:
            entry.take(records)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Open the trial's run; a restarted trial goes on in the same."""
        if trial.trial_id in self.entries:
            return
        config = with_overrides(self.sweep.config.experiment(), trial.config["overrides"])
        folder = self.trials.trial_folder(trial.trial_id)
        entry = TrialEntry(trial.trial_id, trial_name(config), config, folder, trial.config["is_baseline"])
        entry.num_blocks = self.sweep.ready.num_blocks
        entry.started_at = time.time()
        self.entries[trial.trial_id] = entry
        tags = {
            "irtune.sweep": self.sweep.name,
            "irtune.kind": "trial",
            "irtune.strategy": config.strategy,
            "irtune.baseline": str(entry.is_baseline).lower(),
            "irtune.seed": str(config.seed),
            "irtune.config_hash": config_hash(config),
            "irtune.git_commit": git_commit(),
            "irtune.trial_folder": str(folder),
        }
        self.shipper.add(self._key(entry), folder / SPOOL, name=entry.name, tags=tags)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The trial ran to its end, or the scheduler stopped it."""
        finished = bool(trial.last_result.get("final"))
        self._end(trial.trial_id, "finished" if finished else "pruned", None)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The trial failed for good."""
        text = Path(trial.error_file).read_text(errors="replace") if trial.error_file else "no error was recorded"
        self._end(trial.trial_id, "failed", text)

    def close_open(self) -> None:
        """Whatever still runs is being killed with the driver."""
        for entry in self.entries.values():
            if entry.status is None:
                self._end(entry.trial_id, "killed", None)

    def _end(self, trial_id: str, status: Any, error: str | None) -> None:
        entry = self.entries[trial_id]
        entry.status, entry.error, entry.ended_at = status, error, time.time()
        keep_trace(entry)
        state = {"finished": "FINISHED", "pruned": "FINISHED", "failed": "FAILED", "killed": "KILLED"}[status]
        tags = {"irtune.pruned": str(status == "pruned").lower()}
        self.shipper.finish(self._key(entry), state, tags, error)  # type: ignore[arg-type]

    def _key(self, entry: TrialEntry) -> str:
        return f"{self.sweep.name}/{entry.trial_id}"


def run_sweep(config: SweepConfig, source: str, console: Console) -> Outcome:
    """Check, search, and conclude.

    Args:
        config: The sweep.
        source: The file it came from, for messages.
        console: Where progress and the answer are shown.

    Raises:
        ConfigError: If settings are wrong, or the cluster can never run a trial.
        DataError: If rows cannot be used.
        TrackingError: If MLflow cannot be reached at the start.
    """
    config = cluster.with_absolute_paths(config)
    name = f"{config.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder = storage_path(config) / name
    with Prediction(config) as prediction:
        with (
            console.status("checking settings, model, data and tracking")
            if console.is_terminal
            else contextlib.nullcontext()
        ):
            sweep = Sweep(name, folder, config, prepare(config, source, folder / "encoded"), source)
        _announce(sweep, console)
        prediction.make(sweep.ready, folder, console)
    cluster.connect()
    try:
        return _search(sweep, console)
    finally:
        ray.shutdown()


def _search(sweep: Sweep, console: Console) -> Outcome:
    config = sweep.config
    at_once = _trials_at_once(sweep)
    setup = TrialSetup(
        explicit(config.experiment()),
        sweep.folder,
        ray.put(sweep.ready.dataset),
        config.tune.max_failures,
    )
    study = open_study(sweep.folder / STUDY, sweep.name, config.tune)
    callback: SweepCallback
    tracker = MlflowTracker(sweep.ready.tracking_uri, config.tracking.experiment)
    shipper = Shipper(tracker, on_records=lambda key, records: callback.take(key, records))
    callback = SweepCallback(sweep, setup, shipper)
    searcher = OptunaAskTell(
        study, config.space, num_trials=config.tune.num_trials, metric=config.tune.metric, mode=config.tune.mode
    )
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(run_trial, setup=setup), _trial_resources(config)),
        tune_config=tune.TuneConfig(
            num_samples=-1,
            search_alg=searcher,
            scheduler=build_scheduler(
                config.tune.scheduler, max_steps=_most_steps(config), metric=config.tune.metric, mode=config.tune.mode
            ),
            max_concurrent_trials=at_once,
            reuse_actors=config.engine.num_workers == 1,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(sweep.folder),
            callbacks=[callback],
            failure_config=tune.FailureConfig(max_failures=config.tune.max_failures),
            verbose=0,
        ),
    )
    shipper.start()
    try:
        _fit(tuner, callback, console, config)
        entries = list(callback.entries.values())
        shipper.drain(DRAIN_S)
        return conclude(sweep, entries, shipper, tracker, console)
    finally:
        callback.close_open()
        unsent = shipper.drain(DRAIN_KILLED_S)
        shipper.close()
        if unsent:
            console.print(
                f"{sum(unsent.values())} records did not reach MLflow; they are in the spools under {sweep.folder}",
                markup=False,
            )


def _fit(tuner: tune.Tuner, callback: SweepCallback, console: Console, config: SweepConfig) -> None:
    """Run the search under a progress display; SIGTERM ends it at once."""
    # Ray replaces handlers that were there before it started.
    before = signal.signal(signal.SIGTERM, _raise_killed)
    planned = num_planned(config)
    with SweepProgress(console, planned, _most_steps(config), config.tune.metric, config.tune.mode) as progress:
        ticker = _Ticker(lambda: progress.update(callback.entries.values()))
        try:
            tuner.fit()
        finally:
            ticker.stop()
            signal.signal(signal.SIGTERM, before)


def _raise_killed(number: int, frame: FrameType | None) -> None:
    raise _Killed(128 + number)


def _trials_at_once(sweep: Sweep) -> int:
    config = sweep.config
    fits = cluster.concurrency(config.engine, ray.cluster_resources())
    if cluster.num_nodes() > 1 and requires_server(sweep.ready.tracking_uri):
        raise ConfigError(
            sweep.source,
            [
                f"tracking.uri: {redact(sweep.ready.tracking_uri)} is a file, and the cluster has "
                f"{cluster.num_nodes()} nodes; start `mlflow server` and set MLFLOW_TRACKING_URI to its address"
            ],
        )
    return min(fits, config.tune.max_concurrent_trials or fits, config.tune.num_trials + 1)


def _trial_resources(config: SweepConfig) -> Any:
    """What Tune reserves for a trial's own process; a worker group's resources are Ray Train's to reserve."""
    if config.engine.num_workers > 1:
        return tune.PlacementGroupFactory([dict(cluster.HEAD_NODE)])
    return {"CPU": config.engine.cpus_per_worker, "GPU": config.engine.gpus_per_worker}


def _most_steps(config: SweepConfig) -> int:
    dimension = config.space.get("training.max_steps")
    if dimension is None:
        return config.training.max_steps
    return int(max(float(value) for value in (dimension.high, *(dimension.choices or ())) if value is not None))


def _announce(sweep: Sweep, console: Console) -> None:
    for doubt in sweep.ready.doubts:
        console.print(f"note: {sweep.source}: {doubt}", highlight=False, soft_wrap=True, markup=False)
    config, dataset = sweep.config, sweep.ready.dataset
    sizes = ", ".join(f"{len(revisions)} {split}" for split, revisions in dataset.splits.items())
    facts = {
        "sweep": sweep.name,
        "model": f"{config.model.name}, {sweep.ready.num_blocks} blocks",
        "data": f"{dataset.name}: {sizes}" + (f"; {dataset.skipped_rows} rows skipped" if dataset.skipped_rows else ""),
        "trials": f"{config.tune.num_trials} and the baseline ({BASELINE}) of {config.training.max_steps} steps",
        "results": str(sweep.folder),
        "MLflow": redact(sweep.ready.tracking_uri),
    }
    for label, fact in facts.items():
        console.print(f"{label:8} {fact}", highlight=False, soft_wrap=True, markup=False)


class _Ticker:
    """Calls a function every second from a thread, until stopped; what it raises is logged."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="irtune-progress", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Call it a last time and stop."""
        self._over.set()
        self._thread.join(5)
        self._call()

    def _run(self) -> None:
        while not self._over.wait(1.0):
            try:
                self._call()
            except Exception:
                logging.getLogger(__name__).exception("progress could not be shown")
