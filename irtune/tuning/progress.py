"""How far a sweep is and how long it will take: a bar on a terminal, a line now and then in a log."""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from irtune.analysis.tables import duration, worded
from irtune.config.schema import TuneConfig
from irtune.tuning.book import TrialEntry

LINE_EVERY_S = 20.0
SILENCE_S = 60.0


class SweepProgress:
    """Shows steps done of all trials, trials ended, the best score so far, and the time left.

    Args:
        console: Where to show it.
        num_trials: Trials planned, the baseline included.
        steps_per_trial: Optimizer steps of a trial that is not stopped.
        tune: What the sweep searches for; shown is the first objective.
        steps_before: Optimizer steps that an earlier driver has seen done, which say nothing about the time left.
    """

    def __init__(
        self,
        console: Console,
        num_trials: int,
        steps_per_trial: int,
        tune: TuneConfig,
        steps_before: int = 0,
    ) -> None:
        self.console = console
        self.num_trials = num_trials
        self.steps_per_trial = steps_per_trial
        self.tune = tune
        self.steps_before = steps_before
        self.started = time.monotonic()
        self.first_step_at: float | None = None
        self.moved_at = self.started
        self.last_line_at = 0.0
        self.done = -1
        self._lock = threading.Lock()
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[status]}", markup=False),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("sweep", total=num_trials * steps_per_trial, status="starting workers")

    def __enter__(self) -> "SweepProgress":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def update(self, entries: Iterable[TrialEntry]) -> None:
        """Show the state of the trials now."""
        with self._lock:
            entries = list(entries)
            now = time.monotonic()
            total, done = self._steps(entries)
            if done != self.done:
                self.done, self.moved_at = done, now
            if done > self.steps_before and self.first_step_at is None:
                self.first_step_at = now
            status = self._status(entries, total, done, now)
            self._bar.update(self._task, total=total, completed=done, status=status)
            if not self.console.is_terminal and now - self.last_line_at >= LINE_EVERY_S:
                self.last_line_at = now
                line = f"[{duration(now - self.started)}] {status}"
                self.console.print(line, highlight=False, soft_wrap=True, markup=False)

    def _steps(self, entries: list[TrialEntry]) -> tuple[int, int]:
        """All steps that will be done, those of stopped trials left out, and those done."""
        over = [entry for entry in entries if entry.status is not None]
        total = sum(entry.step for entry in over) + (self.num_trials - len(over)) * self.steps_per_trial
        return max(total, 1), sum(entry.step for entry in entries)

    def _status(self, entries: list[TrialEntry], total: int, done: int, now: float) -> str:
        over = [entry for entry in entries if entry.status is not None]
        parts = [f"{len(over)}/{self.num_trials} trials", f"step {done}/{total}"]
        stopped = sum(entry.status == "pruned" for entry in over)
        failed = sum(entry.status == "failed" for entry in over)
        parts += [f"{stopped} stopped early"] * bool(stopped) + [f"{failed} failed"] * bool(failed)
        if self.first_step_at is None:
            parts.append(f"starting workers for {duration(now - self.started)}")
        elif now > self.first_step_at and done > self.steps_before:
            step_s = (now - self.first_step_at) / (done - self.steps_before)
            parts.append(f"{duration((total - done) * step_s)} left")
        if self.first_step_at is not None and now - self.moved_at > SILENCE_S and done < total:
            running = [entry.name for entry in entries if entry.status is None]
            parts.append(f"no step for {duration(now - self.moved_at)}, waiting for {', '.join(running) or 'workers'}")
        return ", ".join(parts) + self._best(entries)

    def _best(self, entries: list[TrialEntry]) -> str:
        metric, mode = self.tune.first_objective
        scores = [(e.score(metric), e.name) for e in entries if not e.broken(self.tune.constraints)]
        scored = [(score, name) for score, name in scores if score is not None]
        if not scored:
            return ""
        score, name = (max if mode == "max" else min)(scored)
        return f"; best {metric} {worded(metric, score)} ({name})"


class Ticker:
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
