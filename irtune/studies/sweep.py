"""A sweep from file to answer: the driver that starts Ray, runs the trials and owns what MLflow says of them."""

import contextlib
import math
import shlex
import signal
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import ray
from optuna import Study
from ray import tune
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher
from rich.console import Console

from irtune.analysis.trials import BASELINE, TrialRow
from irtune.config.load import explicit, without_login
from irtune.config.sweep_schema import SweepConfig
from irtune.redaction import public_address
from irtune.search.list_source import ListedTrial, ListSearcher
from irtune.search.optuna_source import STUDY, EndedTrial, OptunaAskTell, ended_trials, open_study, requeue_interrupted
from irtune.search.stopping import Asha, build_scheduler
from irtune.search.warm_start import warm_start
from irtune.studies.artifacts import keep_trace
from irtune.studies.callback import SweepCallback
from irtune.studies.conclusion import Outcome, conclude
from irtune.studies.finalists import choose_repeats
from irtune.studies.matched import matched_baseline, may_differ
from irtune.studies.plan import PLAN, num_beside, num_searched, predict, refuse_what_fails, trials_at_once
from irtune.studies.preflight import Sweep, prepare
from irtune.studies.progress import SweepProgress, Ticker
from irtune.studies.resume import Resume, new_folder, resume_command, sweep_to_resume, write_identity
from irtune.studies.trial_table import TrialRecord
from irtune.tracking.heartbeat import Heartbeat, is_live
from irtune.tracking.left_behind import close_dead
from irtune.tracking.mlflow_tracker import MlflowTracker
from irtune.tracking.outbox import sync, write_address
from irtune.tracking.run_record import RunRecord
from irtune.tracking.uploader import Uploader
from irtune.training.rehearsal import Rehearsal
from irtune.training.run import RESULT
from irtune.workers import cluster
from irtune.workers.execution import Execution
from irtune.workers.node_watch import LOST, NodeWatch
from irtune.workers.storage_check import check_shared_storage
from irtune.workers.worker import TrialSetup

AWAY = ", which does not answer: records wait in the sweep's folder until it does"
DRAIN_S = 120.0
SYNC_S = 30.0
DRAIN_KILLED_S = 8.0


class _Killed(SystemExit):
    """SIGTERM, as ``ray job stop`` sends it."""


class _TimeIsUp(SystemExit):
    """``tune.time_budget_s`` is over."""


def run_sweep(config: SweepConfig, source: str, console: Console, resume: Resume, rehearsal: Rehearsal) -> Outcome:
    """Check, search, and conclude.

    Args:
        config: The sweep.
        source: The file it came from, for messages.
        console: Where progress and the answer are shown.
        resume: Whether to go on with an earlier sweep of the same name.
        rehearsal: Of its experiment, from which the sweep's end is predicted.

    Raises:
        ConfigError: If settings are wrong, the cluster can never run a trial, a node lacks the storage, or what is to
            be resumed is another sweep.
        DataError: If rows cannot be used.
        TrackingError: If MLflow cannot be used, or not be reached at the start of a sweep that is new.
    """
    config = cluster.with_absolute_paths(config)
    with _status(console, "checking settings, model, data and tracking"):
        ready = prepare(config, source)
    # From here on the login is in ``ready.tracking_uri`` alone, which is never written.
    config = without_login(config)
    fingerprint = ready.dataset.fingerprint()
    folder = sweep_to_resume(config, fingerprint, resume, source=source, console=console, is_live=is_live)
    ready.check_away(config.tracking, is_new=folder is None)
    folder = folder or new_folder(config)
    sweep = Sweep(folder.name, folder, config, ready, source)
    with Heartbeat(folder, cluster.job_id()):
        with _status(console, "tokenising the data, and sending to MLflow what dead sweeps left"):
            lengths = ready.inputs.keep(config, folder / "encoded")
            write_identity(folder, config, fingerprint)
            write_address(folder, ready.tracking_uri, config.tracking.experiment)
            close_dead(folder.parent, ready.tracking_uri)
        _announce(sweep, console)
        if not (folder / PLAN).is_file():
            with _status(console, "trying a few steps of the model"):
                # Before Ray's processes start, which would slow them down.
                refuse_what_fails(rehearsal, source)
        cluster.connect()
        # Ray has put a handler of its own in place, which may print a stack and go on.
        before = signal.signal(signal.SIGTERM, _raise_killed)
        watch = NodeWatch(lambda what: _say_lost(what, sweep, console))
        try:
            with watch:
                console.print(f"Ray      {cluster.describe()}", highlight=False, soft_wrap=True, markup=False)
                at_once = _checked_trials_at_once(sweep)
                predict(sweep, lengths, rehearsal, at_once, console)
                return _search(sweep, at_once, watch, console)
        except BaseException as error:
            # Whatever fails after Ray's node has died fails for that.
            if watch.lost():
                raise SystemExit(LOST) from None
            if isinstance(error, SystemExit):
                # Where the signal found Ray waiting, Ray has put an exit of its own in place of ours.
                raise _Killed(128 + signal.SIGTERM) from None
            raise
        finally:
            ray.shutdown()
            signal.signal(signal.SIGTERM, before)


def _search(sweep: Sweep, at_once: int, watch: NodeWatch, console: Console) -> Outcome:
    config = sweep.config
    setup = TrialSetup(
        explicit(config.experiment()),
        sweep.folder,
        ray.put(sweep.ready.dataset),
    )
    execution = Execution(config, setup, at_once)
    study = open_study(sweep.folder / STUDY, sweep.name, config.tune)
    requeue_interrupted(study)
    warm_start(study, sweep.ready.earlier)
    callback: SweepCallback
    is_away = sweep.ready.away is not None
    tracker = MlflowTracker(sweep.ready.tracking_uri, config.tracking.experiment, may_be_away=is_away)
    sync(sweep.folder, tracker, close_open=False, timeout_s=SYNC_S)
    uploader = Uploader(tracker, lambda key, records: callback.take(key, records), lambda key: callback.take_last(key))
    callback = SweepCallback(sweep, setup, uploader, execution.forget, _raise_at(config.tune.time_budget_s))
    searcher = OptunaAskTell(study, config.space, config.tune)
    metric, mode = config.stops_by
    scheduler = build_scheduler(config.tune.scheduler, max_steps=_most_steps(config), metric=metric, mode=mode)
    for name, scores in callback.restore(ended_trials(study)).items():
        if isinstance(scheduler, Asha):
            scheduler.remember(name, scores)
    tuner = _tuner(sweep, execution, searcher, scheduler, callback)
    uploader.start()
    try:
        try:
            _fit(tuner, callback, console, config, 1 + num_searched(config) + num_beside(config))
            is_complete = searcher.is_exhausted and all(entry.status for entry in callback.entries.values())
            for listed in (_matched_baseline, _finalists):
                if is_complete:
                    # The book is to hold all that was measured; MLflow may hear of it later.
                    uploader.drain(0.0)
                    rows = [entry.row(config.tune, sweep.metric) for entry in callback.entries.values()]
                    is_complete = _run_listed(sweep, listed(study, rows, config), execution, callback, console)
            execution.close()
        except _TimeIsUp:
            is_complete = False
            stopped = callback.close_open()
            _say_time_is_up(sweep, stopped, console)
            # What still trains ends with Ray.
            watch.stop()
            ray.shutdown()
            for entry in stopped:
                keep_trace(entry)
        callback.wait()
        entries = list(callback.entries.values())
        uploader.drain(DRAIN_S)
        # A trial may have ended so late that nobody has looked at what it measured last.
        for entry in entries:
            if not entry.is_settled and entry.status == "finished":
                callback.take_last(entry.trial_id)
        outcome = conclude(sweep, entries, callback.adapters, uploader, tracker, console)
        uploader.drain(DRAIN_S)
        if is_complete:
            write_identity(sweep.folder, config, sweep.ready.dataset.fingerprint(), complete=True)
        return outcome
    finally:
        killed = callback.close_open()
        unsent = uploader.drain(DRAIN_KILLED_S)
        uploader.close()
        for entry in killed:
            # MLflow has the trial's end; its drawing is sent at the next chance.
            keep_trace(entry)
        if unsent:
            console.print(
                f"{sum(unsent.values())} records did not reach MLflow; they are in the spools, and "
                f"`irtune sync {shlex.quote(str(sweep.folder))}` sends them",
                soft_wrap=True,
                markup=False,
            )


def _matched_baseline(study: Study, rows: Sequence[TrialRow], config: SweepConfig) -> list[ListedTrial]:
    """The baseline at the winner's other settings, where no baseline has these."""
    overrides = {trial.name: trial.overrides for trial in ended_trials(study)}
    found = matched_baseline(config, rows, overrides, config.tune.first_objective[1])
    return [] if found is None else [found]


def _finalists(study: Study, rows: Sequence[TrialRow], config: SweepConfig) -> list[ListedTrial]:
    return [] if config.tune.finalists is None else choose_repeats(study, rows, config)


def _run_listed(
    sweep: Sweep,
    listed: Sequence[ListedTrial],
    execution: Execution,
    callback: SweepCallback,
    console: Console,
) -> bool:
    """Run what is listed, as far as that is not done; returns whether it is now."""
    callback.restore([over for trial in listed if (over := ended(trial, callback.trials)) is not None])
    left = [trial for trial in listed if trial.name not in callback.entries]
    if left:
        # A trial that is stopped early says nothing about its configuration.
        tuner = _tuner(sweep, execution, ListSearcher(left), FIFOScheduler(), callback)
        _fit(tuner, callback, console, sweep.config, len(callback.entries) + len(left))
    return all(trial.name in callback.entries and callback.entries[trial.name].status for trial in listed)


def ended(trial: ListedTrial, setup: TrialSetup) -> EndedTrial | None:
    """How a listed trial ended under an earlier driver; None if there is work left."""
    folder = setup.trial_folder(trial.name)
    end = RunRecord(folder).end()
    if end is not None and end.status == "FAILED":
        return EndedTrial(trial.name, trial.overrides, "failed", end.error_text, trial.repeats)
    if end is not None and end.status == "FINISHED" and (folder / RESULT).is_file():
        return EndedTrial(trial.name, trial.overrides, "finished", repeats=trial.repeats)
    return None


def _tuner(
    sweep: Sweep,
    execution: Execution,
    searcher: Searcher,
    scheduler: tune.schedulers.TrialScheduler,
    callback: SweepCallback,
) -> tune.Tuner:
    config = sweep.config
    return tune.Tuner(
        execution.trainable(),
        tune_config=tune.TuneConfig(
            num_samples=-1,
            search_alg=searcher,
            scheduler=scheduler,
            max_concurrent_trials=execution.at_once,
            reuse_actors=execution.reuses_actors,
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


def _fit(tuner: tune.Tuner, callback: SweepCallback, console: Console, config: SweepConfig, planned: int) -> None:
    """Run trials under a progress display that counts to ``planned``."""
    steps_before = sum(entry.step for entry in callback.entries.values())
    with SweepProgress(console, planned, _most_steps(config), config.tune, steps_before) as progress:
        ticker = Ticker(lambda: progress.update(callback.entries.values()))
        try:
            tuner.fit()
        finally:
            ticker.stop()


def _status(console: Console, text: str) -> contextlib.AbstractContextManager[Any]:
    return console.status(text) if console.is_terminal else contextlib.nullcontext()


def _raise_killed(number: int, frame: FrameType | None) -> None:
    raise _Killed(128 + number)


def _raise_at(budget_s: float | None) -> Callable[[], None]:
    """What raises once a sweep that begins now has had its time."""
    ends_at = math.inf if budget_s is None else time.monotonic() + budget_s

    def look() -> None:
        if time.monotonic() >= ends_at:
            raise _TimeIsUp

    return look


def _say_lost(what: str, sweep: Sweep, console: Console) -> None:
    _say(
        console,
        f"error: {what}: it was killed (look whether memory ran out), or has crashed, and the sweep ends. What was "
        f"measured is in {sweep.folder}; the trials in flight go on from their checkpoints with: {resume_command()}",
    )


def _say_time_is_up(sweep: Sweep, stopped: Sequence[TrialRecord], console: Console) -> None:
    running = ", ".join(f"{entry.trial_id} ({entry.name}) at step {entry.step}" for entry in stopped) or "none"
    _say(
        console,
        f"\nThe sweep has had its tune.time_budget_s={sweep.config.tune.time_budget_s:g} and ends here. Trials stopped "
        f"on their way, KILLED until they go on: {running}. To go on, for as long again: {resume_command()}",
    )


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True, markup=False)


def _checked_trials_at_once(sweep: Sweep) -> int:
    nodes = cluster.alive_nodes()
    at_once = trials_at_once(sweep, nodes)
    if len(nodes) > 1:
        workers = [node for node in nodes if node.is_head or node.room(sweep.config.engine)]
        check_shared_storage(sweep.folder, workers)
    return at_once


def _most_steps(config: SweepConfig) -> int:
    dimension = config.space.get("training.max_steps")
    if dimension is None:
        return config.training.max_steps
    return int(max(float(value) for value in (dimension.high, *(dimension.choices or ())) if value is not None))


def _announce(sweep: Sweep, console: Console) -> None:
    for doubt in sweep.ready.doubts:
        console.print(f"note: {sweep.source}: {doubt}", highlight=False, soft_wrap=True, markup=False)
    config, inputs = sweep.config, sweep.ready.inputs
    finalists = config.tune.finalists
    repeated = f"; the best {finalists.top} and it again on {finalists.seeds} seeds" if finalists else ""
    repeated += "; the baseline again at the settings of the best" if may_differ(config) else ""
    facts = {
        "sweep": sweep.name,
        "model": f"{config.model.name}, {inputs.num_blocks} blocks",
        **inputs.facts(),
        "trials": f"{config.tune.num_trials} and the baseline ({BASELINE}) of {config.training.max_steps} steps"
        + repeated,
        "results": str(sweep.folder),
        "adapters": f"{config.tracking.keep_adapters} kept, {config.tracking.upload_adapters} uploaded",
        "MLflow": public_address(sweep.ready.tracking_uri) + ("" if sweep.ready.away is None else AWAY),
    }
    for label, fact in facts.items():
        console.print(f"{label:8} {fact}", highlight=False, soft_wrap=True, markup=False)
