"""A sweep from file to answer: checks, the phases of its trials, and what is concluded from them."""

import contextlib
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from irtune.analysis.answer import Answer
from irtune.analysis.trials import BASELINE
from irtune.config.load import ConfigError, storage_path, without_login
from irtune.config.sweep_schema import SweepConfig
from irtune.redaction import public_address
from irtune.search.optuna_source import STUDY, OptunaSource, open_study, requeue_interrupted
from irtune.search.source import BASELINE_SPEC, ListSource, Together
from irtune.search.warm_start import warm_start
from irtune.studies.conclusion import conclude
from irtune.studies.driver import DRAIN_S, Driver, Phase, known_end, on_ray
from irtune.studies.finalists import choose_repeats
from irtune.studies.matched import matched_baseline, may_differ
from irtune.studies.plan import PLAN, Plan, make_plan, num_beside, predict
from irtune.studies.preflight import Sweep, prepare
from irtune.studies.resume import Resume, new_folder, sweep_to_resume, write_identity
from irtune.tracking.address import requires_server
from irtune.tracking.heartbeat import Heartbeat
from irtune.tracking.left_behind import close_dead
from irtune.tracking.outbox import write_address
from irtune.training.rehearsal import Rehearsal, RehearsalError
from irtune.workers import cluster
from irtune.workers.node_watch import NodeWatch
from irtune.workers.storage_check import check_shared_storage
from irtune.workers.worker import TrialSetup

AWAY = ", which does not answer: records wait in the sweep's folder until it does"


def run_sweep(config: SweepConfig, source: str, console: Console, resume: Resume, rehearsal: Rehearsal) -> Answer:
    """Check, search, and conclude.

    Args:
        config: The sweep.
        source: The file it came from, for messages.
        console: Where progress and the answer are shown.
        resume: Whether to go on with an earlier sweep of the same name.
        rehearsal: Of its experiment, from which the sweep's end is predicted.

    Returns:
        What was found; ``best`` is None if no trial ran to its end and kept to the constraints.

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
    fingerprint = ready.inputs.dataset.fingerprint()
    folder = sweep_to_resume(config, fingerprint, resume, source=source, console=console)
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
        with on_ray(sweep, console) as watch:
            console.out(f"Ray      {cluster.describe()}", highlight=False)
            at_once = _checked_trials_at_once(sweep)
            predict(sweep, lengths, rehearsal, at_once, console)
            return _search(sweep, at_once, watch, console)


def plan_sweep(config: SweepConfig, source: str, console: Console, resume: Resume, rehearsal: Rehearsal) -> Plan:
    """Check a sweep as ``run_sweep`` does, and say what that would do; nothing is started, and nothing written.

    Only a model that is not in the cache yet is put there.

    Args:
        config: The sweep.
        source: The file it came from, for messages.
        console: Where notes are shown.
        resume: Whether to go on with an earlier sweep of the same name.
        rehearsal: Of its experiment.

    Raises:
        ConfigError: If settings are wrong, the cluster can never run a trial, or what is to be resumed is another
            sweep.
        DataError: If rows cannot be used.
        TrackingError: If MLflow cannot be reached.
    """
    config = cluster.with_absolute_paths(config)
    ready = prepare(config, source, makes_store=False)
    config = without_login(config)
    for doubt in ready.doubts:
        console.out(f"note: {source}: {doubt}", highlight=False)
    # Without a terminal nobody is asked; what would be gone on with is only said.
    told = Console(file=console.file, width=console.width, force_terminal=False)
    fingerprint = ready.inputs.dataset.fingerprint()
    folder = sweep_to_resume(config, fingerprint, resume, source=source, console=told)
    ready.check_away(config.tracking, is_new=folder is None)
    folder = folder or storage_path(config) / f"{config.name}-<date>-<time>"
    sweep = Sweep(folder.name, folder, config, ready, source)
    at_once = trials_at_once(sweep, cluster.future_nodes())
    refuse_what_fails(rehearsal, source)
    with tempfile.TemporaryDirectory(prefix="irtune-plan-") as encoded:
        return make_plan(sweep, ready.inputs.keep(config, Path(encoded)), rehearsal, at_once)


def _search(sweep: Sweep, at_once: int, watch: NodeWatch, console: Console) -> Answer:
    with Driver(sweep, at_once, watch, console) as driver:
        is_complete = driver.run(_phases(sweep, driver.setup))
        answer = conclude(sweep, driver.table, driver.uploader, driver.tracker, console)
        driver.uploader.drain(DRAIN_S)
        if is_complete:
            write_identity(sweep.folder, sweep.config, sweep.ready.inputs.dataset.fingerprint(), complete=True)
        return answer


def _phases(sweep: Sweep, setup: TrialSetup) -> list[Phase]:
    """The baseline beside the search; then the baseline at the winner's other settings; then repeats over seeds."""
    config, ended = sweep.config, partial(known_end, setup=setup)
    study = open_study(sweep.folder / STUDY, sweep.name, config.tune)
    requeue_interrupted(study)
    warm_start(study, sweep.ready.earlier)
    search = Together([ListSource([BASELINE_SPEC], ended), OptunaSource(study, config.space, config.tune)])
    phases = [Phase(lambda rows: search, search.num_trials, may_stop=True)]
    if may_differ(config):
        phases.append(Phase(lambda rows: ListSource(matched_baseline(study, rows, config), ended), 1))
    if config.tune.finalists is not None:
        most = num_beside(config) - may_differ(config)
        phases.append(Phase(lambda rows: ListSource(choose_repeats(study, rows, config), ended), most))
    return phases


def _status(console: Console, text: str) -> contextlib.AbstractContextManager[Any]:
    return console.status(text) if console.is_terminal else contextlib.nullcontext()


def trials_at_once(sweep: Sweep, nodes: Sequence[cluster.Node]) -> int:
    """How many trials run at a time.

    Raises:
        ConfigError: If none fits onto the nodes, or MLflow's store is a file and there are several nodes.
    """
    config, uri = sweep.config, sweep.ready.tracking_uri
    fits = cluster.concurrency(config.engine, nodes)
    if len(nodes) > 1 and requires_server(uri):
        raise ConfigError(
            sweep.source,
            [
                f"tracking.uri: {public_address(uri)} is a file, and the cluster has {len(nodes)} nodes; start `mlflow "
                "server` and set MLFLOW_TRACKING_URI to its address"
            ],
        )
    return min(fits, config.tune.max_concurrent_trials or fits, config.tune.num_trials + 1)


def _checked_trials_at_once(sweep: Sweep) -> int:
    nodes = cluster.alive_nodes()
    at_once = trials_at_once(sweep, nodes)
    if len(nodes) > 1:
        workers = [node for node in nodes if node.is_head or node.room(sweep.config.engine)]
        check_shared_storage(sweep.folder, workers)
    return at_once


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


def _announce(sweep: Sweep, console: Console) -> None:
    for doubt in sweep.ready.doubts:
        console.out(f"note: {sweep.source}: {doubt}", highlight=False)
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
        console.out(f"{label:8} {fact}", highlight=False)
