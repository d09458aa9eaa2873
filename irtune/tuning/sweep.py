"""A sweep from file to answer: the driver that starts Ray, runs the trials and owns what MLflow says of them."""

import contextlib
import shlex
import signal
import time
from types import FrameType
from typing import Any

import ray
from ray import tune
from rich.console import Console

from irtune.config.load import ConfigError, explicit, storage_path
from irtune.config.schema import BASELINE, SweepConfig
from irtune.tracking.address import redact, requires_server
from irtune.tracking.heartbeat import Heartbeat, is_live
from irtune.tracking.janitor import close_dead
from irtune.tracking.mlflow_tracker import MlflowTracker
from irtune.tracking.shipper import Shipper
from irtune.tracking.sync import open_tracker, sync, write_address
from irtune.training.rehearsal import Rehearsal
from irtune.tuning import cluster
from irtune.tuning.callback import SweepCallback
from irtune.tuning.plan import num_planned, predict
from irtune.tuning.preflight import Sweep, prepare, tokenise
from irtune.tuning.progress import SweepProgress, Ticker
from irtune.tuning.resume import Resume, sweep_to_resume, write_identity
from irtune.tuning.scheduler import Asha, build_scheduler
from irtune.tuning.searcher import OptunaAskTell, ended_trials, open_study, requeue_interrupted
from irtune.tuning.summary import Outcome, conclude
from irtune.tuning.worker import TrialSetup, run_trial

DRAIN_S = 120.0
SYNC_S = 30.0
DRAIN_KILLED_S = 8.0
STUDY = "study.journal"


class _Killed(SystemExit):
    """SIGTERM, as ``ray job stop`` sends it."""


def run_sweep(config: SweepConfig, source: str, console: Console, resume: Resume, rehearsal: Rehearsal) -> Outcome:
    """Check, search, and conclude.

    Args:
        config: The sweep.
        source: The file it came from, for messages.
        console: Where progress and the answer are shown.
        resume: Whether to go on with an earlier sweep of the same name.
        rehearsal: Of its experiment, from which the sweep's end is predicted.

    Raises:
        ConfigError: If settings are wrong, the cluster can never run a trial, or what is to be resumed is another
            sweep.
        DataError: If rows cannot be used.
        TrackingError: If MLflow cannot be reached at the start.
    """
    config = cluster.with_absolute_paths(config)
    with _status(console, "checking settings, model, data and tracking"):
        ready = prepare(config, source)
    fingerprint = ready.dataset.fingerprint()
    folder = sweep_to_resume(config, fingerprint, resume, source=source, console=console, is_live=is_live)
    folder = folder or storage_path(config) / f"{config.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    sweep = Sweep(folder.name, folder, config, ready, source)
    with Heartbeat(folder, cluster.job_id()):
        with _status(console, "tokenising the data, and sending to MLflow what dead sweeps left"):
            lengths = tokenise(config, ready, folder / "encoded")
            write_identity(folder, config, fingerprint)
            write_address(folder, ready.tracking_uri, config.tracking.experiment)
            close_dead(storage_path(config), lambda other: open_tracker(other, own_uri=ready.tracking_uri))
        _announce(sweep, console)
        cluster.connect()
        try:
            at_once = _trials_at_once(sweep)
            with _status(console, "trying a few steps of the model"):
                predict(sweep, lengths, rehearsal, at_once, console)
            return _search(sweep, at_once, console)
        finally:
            ray.shutdown()


def _search(sweep: Sweep, at_once: int, console: Console) -> Outcome:
    config = sweep.config
    setup = TrialSetup(
        explicit(config.experiment()),
        sweep.folder,
        ray.put(sweep.ready.dataset),
        config.tune.max_failures,
    )
    study = open_study(sweep.folder / STUDY, sweep.name, config.tune)
    requeue_interrupted(study)
    callback: SweepCallback
    tracker = MlflowTracker(sweep.ready.tracking_uri, config.tracking.experiment)
    sync(sweep.folder, tracker, close_open=False, timeout_s=SYNC_S)
    shipper = Shipper(tracker, on_records=lambda key, records: callback.take(key, records))
    callback = SweepCallback(sweep, setup, shipper)
    searcher = OptunaAskTell(
        study, config.space, num_trials=config.tune.num_trials, metric=config.tune.metric, mode=config.tune.mode
    )
    scheduler = build_scheduler(
        config.tune.scheduler, max_steps=_most_steps(config), metric=config.tune.metric, mode=config.tune.mode
    )
    for name, scores in callback.restore(ended_trials(study)).items():
        if isinstance(scheduler, Asha):
            scheduler.remember(name, scores)
    tuner = _tuner(sweep, setup, searcher, scheduler, callback, at_once)
    shipper.start()
    try:
        _fit(tuner, callback, console, config)
        entries = list(callback.entries.values())
        if searcher.is_exhausted and all(entry.status for entry in entries):
            write_identity(sweep.folder, config, sweep.ready.dataset.fingerprint(), complete=True)
        shipper.drain(DRAIN_S)
        return conclude(sweep, entries, shipper, tracker, console)
    finally:
        callback.close_open()
        unsent = shipper.drain(DRAIN_KILLED_S)
        shipper.close()
        if unsent:
            console.print(
                f"{sum(unsent.values())} records did not reach MLflow; they are in the spools, and "
                f"`irtune sync {shlex.quote(str(sweep.folder))}` sends them",
                soft_wrap=True,
                markup=False,
            )


def _tuner(
    sweep: Sweep,
    setup: TrialSetup,
    searcher: OptunaAskTell,
    scheduler: tune.schedulers.TrialScheduler,
    callback: SweepCallback,
    at_once: int,
) -> tune.Tuner:
    config = sweep.config
    return tune.Tuner(
        tune.with_resources(tune.with_parameters(run_trial, setup=setup), _trial_resources(config)),
        tune_config=tune.TuneConfig(
            num_samples=-1,
            search_alg=searcher,
            scheduler=scheduler,
            max_concurrent_trials=at_once,
            reuse_actors=config.engine.num_workers == 1,
        ),
        run_config=tune.RunConfig(
            # What Tune keeps of its own is of no use to another driver.
            name=f"tune_{len(list(sweep.folder.glob('tune_*')))}",
            storage_path=str(sweep.folder),
            callbacks=[callback],
            failure_config=tune.FailureConfig(max_failures=config.tune.max_failures),
            verbose=0,
        ),
    )


def _fit(tuner: tune.Tuner, callback: SweepCallback, console: Console, config: SweepConfig) -> None:
    """Run the search under a progress display; SIGTERM ends it at once."""
    planned = num_planned(config)
    # Ray replaces handlers that were there before it started.
    before = signal.signal(signal.SIGTERM, _raise_killed)
    steps_before = sum(entry.step for entry in callback.entries.values())
    with SweepProgress(
        console, planned, _most_steps(config), config.tune.metric, config.tune.mode, steps_before
    ) as progress:
        ticker = Ticker(lambda: progress.update(callback.entries.values()))
        try:
            tuner.fit()
        finally:
            ticker.stop()
            signal.signal(signal.SIGTERM, before)


def _status(console: Console, text: str) -> contextlib.AbstractContextManager[Any]:
    return console.status(text) if console.is_terminal else contextlib.nullcontext()


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
