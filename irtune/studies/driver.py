"""The driver of a study: it asks what is to be tried, has workers train it, and tells how it went."""

import logging
import math
import shlex
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Self

import ray
from ray import tune
from ray.tune.schedulers import TrialScheduler
from rich.console import Console

from irtune.analysis.trials import TrialRow
from irtune.config.load import explicit
from irtune.config.study_schema import StudyConfig
from irtune.config.sweep_schema import AshaConfig
from irtune.search.source import BASELINE_SPEC, Outcome, TrialSource, TrialSpec
from irtune.search.stopping import Asha, InOrder
from irtune.studies.artifacts import keep_trace
from irtune.studies.preflight import Study
from irtune.studies.progress import SweepProgress
from irtune.studies.ray_tune import SourceSearcher, TableCallback
from irtune.studies.resume import command_line
from irtune.studies.trial_record import TrialRecord
from irtune.studies.trial_table import TrialTable
from irtune.tracking.mlflow_tracker import MlflowTracker
from irtune.tracking.run_record import RunRecord
from irtune.tracking.uploader import Uploader
from irtune.training.record import result_of
from irtune.workers import cluster
from irtune.workers.execution import Execution
from irtune.workers.node_watch import LOST, NodeWatch
from irtune.workers.worker import TrialSetup

LOOK_EVERY_S = 1.0
DRAIN_S = 120.0
DRAIN_KILLED_S = 8.0


class Killed(SystemExit):
    """SIGTERM, as ``ray job stop`` sends it."""


class TimeIsUp(SystemExit):
    """``tune.time_budget_s`` is over."""


@contextmanager
def on_ray(sweep: Study[StudyConfig], console: Console) -> Iterator[NodeWatch]:
    """Connect to Ray for the time of the block, and end it with one line where Ray's node dies, or with ``Killed``."""
    cluster.connect()
    # Ray has put a handler of its own in place, which may print a stack and go on.
    before = signal.signal(signal.SIGTERM, _raise_killed)
    watch = NodeWatch(lambda what: _say_lost(what, sweep, console))
    try:
        with watch:
            yield watch
    except BaseException as error:
        # Whatever fails after Ray's node has died fails for that.
        if watch.lost():
            raise SystemExit(LOST) from None
        if isinstance(error, SystemExit):
            # Where the signal found Ray waiting, Ray has put an exit of its own in place of ours.
            raise Killed(128 + signal.SIGTERM) from None
        raise
    finally:
        ray.shutdown()
        signal.signal(signal.SIGTERM, before)


@dataclass(frozen=True)
class Phase:
    """Trials that run side by side, once those of all phases before are over.

    Args:
        source: From all trials so far to the source of these.
        most: How many there are at most.
        stops: What may stop them early; nothing may stop a repeat, which would say nothing then.
    """

    source: Callable[[Sequence[TrialRow]], TrialSource]
    most: int
    stops: AshaConfig | None = None


class Driver:
    """Runs the trials of a study, and owns what MLflow says of them; a context manager.

    Args:
        sweep: What is to be done.
        at_once: Trials at a time.
        watch: Notices the death of Ray's node.
        console: Where progress is shown.
    """

    def __init__(self, sweep: Study[StudyConfig], at_once: int, watch: NodeWatch, console: Console) -> None:
        config, ready = sweep.config, sweep.ready
        self._sweep, self._watch, self._console = sweep, watch, console
        experiment, data = explicit(config.experiment()), ready.inputs.data
        self.setup = TrialSetup(experiment, sweep.folder, ray.put(ready.inputs.dataset), data=data, at_once=at_once)
        self._execution = Execution(config, self.setup, at_once)
        self.tracker = MlflowTracker(ready.tracking_uri, config.tracking.experiment, may_be_away=ready.away is not None)
        self.uploader = Uploader(self.tracker)
        self.table = TrialTable(sweep, self.setup, self.uploader)
        self._callback = TableCallback(self.table, self._execution.forget, self._on_step)
        self._ends_at_s = time.monotonic() + (config.tune.time_budget_s or math.inf)

    def __enter__(self) -> Self:
        self.uploader.start()
        return self

    def __exit__(self, *exception: object) -> None:
        killed = self.table.close_open()
        unsent = self.uploader.drain(DRAIN_KILLED_S)
        self.uploader.close()
        for record in killed:
            # MLflow has the trial's end; its drawing is sent at the next chance.
            keep_trace(record)
        if unsent:
            self._console.out(
                f"{sum(unsent.values())} records did not reach MLflow; they are in the trials' folders, and "
                f"`irtune sync {shlex.quote(str(self._sweep.folder))}` sends them",
                highlight=False,
            )

    def run(self, phases: Sequence[Phase]) -> bool:
        """Run one phase after the other, as far as an earlier driver has not; returns whether all came to their end."""
        try:
            is_complete = all(self._run(phase, phases[index + 1 :]) for index, phase in enumerate(phases))
            self._execution.close()
        except TimeIsUp:
            is_complete = False
            stopped = self.table.close_open()
            self._say_time_is_up(stopped)
            # What still trains ends with Ray.
            self._watch.stop()
            ray.shutdown()
            for record in stopped:
                keep_trace(record)
        self.table.wait()
        self.table.read()
        self.uploader.drain(DRAIN_S)
        return is_complete

    def _run(self, phase: Phase, later: Sequence[Phase]) -> bool:
        self.table.read()
        config, before = self._sweep.config, len(self.table.records)
        source = phase.source(self.table.rows())
        metric, mode = config.stops_by
        stops = phase.stops
        scheduler = InOrder() if stops is None else Asha(stops, config.most_steps, metric, mode)
        for name, scores in self.table.restore(source.ended()).items():
            if isinstance(scheduler, Asha):
                scheduler.remember(name, scores)
        if not source.is_exhausted:
            planned = before + source.num_trials + sum(each.most for each in later)
            self._fit(source, scheduler, planned)
        return source.is_exhausted and all(record.status for record in self.table.records.values())

    def _fit(self, source: TrialSource, scheduler: TrialScheduler, planned: int) -> None:
        """Run what a source asks for under a progress display that counts to ``planned``."""
        config, folder = self._sweep.config, self._sweep.folder
        tuner = tune.Tuner(
            self._execution.trainable(),
            tune_config=tune.TuneConfig(
                num_samples=-1,
                search_alg=SourceSearcher(source),
                scheduler=scheduler,
                max_concurrent_trials=self._execution.at_once,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                # What Tune keeps of its own is of no use to another driver.
                name=f"tune_{len(list(folder.glob('tune_*')))}",
                storage_path=str(folder),
                callbacks=[self._callback],
                failure_config=tune.FailureConfig(max_failures=config.tune.max_failures),
                verbose=0,
            ),
        )
        self._looks_at_s = time.monotonic() + LOOK_EVERY_S
        steps_before = sum(record.step for record in self.table.in_order)
        progress = SweepProgress(self._console, planned, config.most_steps, config.aim, steps_before, folder)
        with progress as self._progress:
            try:
                tuner.fit()
            finally:
                self._look()

    def _on_step(self) -> None:
        """Look around now and then as Tune's loop goes round; raises once the sweep has had its time."""
        now_s = time.monotonic()
        if now_s >= self._ends_at_s:
            raise TimeIsUp
        if now_s >= self._looks_at_s:
            self._looks_at_s = now_s + LOOK_EVERY_S
            self._look()

    def _look(self) -> None:
        try:
            self.table.read()
            self._progress.update(self.table.in_order)
        # A sweep goes on that cannot be shown.
        except Exception:
            logging.getLogger(__name__).exception("progress could not be shown")

    def _say_time_is_up(self, stopped: Sequence[TrialRecord]) -> None:
        running = ", ".join(f"{one.name} ({one.title}) at step {one.step}" for one in stopped) or "none"
        config = self._sweep.config
        self._console.out(
            f"\nThe {config.kind} has had its tune.time_budget_s={config.tune.time_budget_s:g} and ends here. Trials "
            f"stopped on their way, KILLED until they go on: {running}. To go on, for as long again: "
            f"{command_line('--resume')}",
            highlight=False,
        )


def known_end(spec: TrialSpec, setup: TrialSetup) -> Outcome | None:
    """Return the end of a trial by its records; None if there is work left, as with a baseline that failed."""
    folder = setup.trial_folder(spec.name)
    end = RunRecord(folder).end()
    if end is not None and end.status == "FAILED" and spec != BASELINE_SPEC:
        return Outcome("failed", reason=end.error_text)
    if end is not None and end.status == "FINISHED" and result_of(folder) is not None:
        return Outcome("finished")
    return None


def _raise_killed(number: int, frame: FrameType | None) -> None:
    raise Killed(128 + number)


def _say_lost(what: str, sweep: Study[StudyConfig], console: Console) -> None:
    console.out(
        f"error: {what}: it was killed (look whether memory ran out), or has crashed, and the sweep ends. What was "
        f"measured is in {sweep.folder}; the trials in flight go on from their checkpoints with: "
        f"{command_line('--resume')}",
        highlight=False,
    )
