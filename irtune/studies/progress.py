"""Progress of a sweep and the time that is left: a bar on a terminal, a line now and then in a log, and in a file."""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from irtune.analysis.tables import duration, worded
from irtune.config.study_schema import Aim
from irtune.files import write_json

if TYPE_CHECKING:
    from irtune.studies.trial_record import TrialRecord

LINE_EVERY_S = 20.0
SILENCE_S = 60.0
PROGRESS = "progress.json"
KEPT_EVERY_S = 5.0


@dataclass(frozen=True)
class Outlook:
    """What the driver of a study expects, as ``progress.json`` in the study's folder says it while it is at work.

    Args:
        num_trials: Trials planned.
        total_steps: Optimizer steps of all of them, without those that stopped trials leave out.
        left_s: Seconds until they are done; None before the first step.
        silent_s: Seconds since a step was last seen done.
    """

    num_trials: int
    total_steps: int
    left_s: float | None
    silent_s: float


@dataclass
class Tally:
    """Trials counted up; ``best`` is a score and whose it is."""

    over: int = 0
    stopped: int = 0
    failed: int = 0
    steps: int = 0
    steps_of_over: int = 0
    best: tuple[float, str] | None = None

    def add(self, entry: "TrialRecord", aim: Aim, called: str) -> None:
        """Count one more, that people know as ``called``."""
        self.steps += entry.step
        if entry.status is not None:
            self.over += 1
            self.steps_of_over += entry.step
            self.stopped += entry.status == "pruned"
            self.failed += entry.status == "failed"
        metric, mode = aim.first_objective
        score = None if entry.broken(aim.constraints) else entry.score(metric)
        if score is not None:
            known = [(score, called)] if self.best is None else [self.best, (score, called)]
            self.best = (max if mode == "max" else min)(known)

    def in_words(self, num_trials: int, total_steps: int | None) -> list[str]:
        """Return how many trials are over, of how many, and how; ``total_steps`` is None where it is not known."""
        stopped, failed = self.stopped, self.failed
        parts = [f"{self.over}/{num_trials} trials", f"step {self.steps}" + (f"/{total_steps}" if total_steps else "")]
        return parts + [f"{stopped} stopped early"] * bool(stopped) + [f"{failed} failed"] * bool(failed)

    def best_in_words(self, aim: Aim) -> str:
        """Return the best score and whose it is, to follow what is said before; "" where there is none."""
        metric, _ = aim.first_objective
        return "" if self.best is None else f"; best {metric} {worded(metric, self.best[0])} ({self.best[1]})"


@dataclass
class SweepProgress:
    """Shows steps done of all trials, trials ended, the best score so far, and the time left.

    Args:
        console: Where to show it.
        num_trials: Trials planned, the baseline included.
        steps_per_trial: Optimizer steps of a trial that is not stopped.
        aim: What trials are judged by; shown is the first objective.
        steps_before: Optimizer steps that an earlier driver has seen done, which say nothing about the time left.
        folder: Of the study, to keep there what is expected; None keeps nothing.
    """

    console: Console
    num_trials: int
    steps_per_trial: int
    aim: Aim
    steps_before: int = 0
    folder: Path | None = None

    def __post_init__(self) -> None:
        self.started = time.monotonic()
        self.first_step_at: float | None = None
        self.moved_at = self.started
        self.last_line_at = 0.0
        self.kept_at = -KEPT_EVERY_S
        self.done = -1
        # Trials about which nothing will change are counted once, so that a look takes as long in a long sweep.
        self._past = Tally()
        self._recent: list[TrialRecord] = []
        self._num_seen = 0
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[status]}", markup=False),
            TimeElapsedColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._task = self._bar.add_task(
            "sweep", total=self.num_trials * self.steps_per_trial, status="starting workers"
        )

    def __enter__(self) -> "SweepProgress":
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def update(self, entries: "Sequence[TrialRecord]") -> None:
        """Show the state of the trials now; ``entries`` are all so far, in the order in which they began."""
        tally, running = self._count(entries)
        now = time.monotonic()
        # Steps that stopped trials left out will not be done.
        total = max(tally.steps_of_over + (self.num_trials - tally.over) * self.steps_per_trial, 1)
        done = tally.steps
        if done != self.done:
            self.done, self.moved_at = done, now
        if done > self.steps_before and self.first_step_at is None:
            self.first_step_at = now
        outlook = Outlook(self.num_trials, total, self._left_s(done, total, now), now - self.moved_at)
        self._keep(outlook, now)
        status = self._status(tally, running, outlook, now)
        self._bar.update(self._task, total=total, completed=done, status=status)
        if not self.console.is_terminal and now - self.last_line_at >= LINE_EVERY_S:
            self.last_line_at = now
            line = f"[{duration(now - self.started)}] {status}"
            self.console.out(line, highlight=False)

    def _count(self, entries: "Sequence[TrialRecord]") -> tuple[Tally, list[str]]:
        """All trials together, and the names of those that run."""
        # A slice alone, not a copy of all: of 10,000 trials that takes as long as the rest of this.
        recent = [*self._recent, *entries[self._num_seen :]]
        self._recent, self._num_seen = [], len(entries)
        for entry in recent:
            if entry.status is not None and entry.is_settled:
                self._past.add(entry, self.aim, entry.title)
            else:
                self._recent.append(entry)
        tally = replace(self._past)
        for entry in self._recent:
            tally.add(entry, self.aim, entry.title)
        return tally, [entry.title for entry in self._recent if entry.status is None]

    def _left_s(self, done: int, total: int, now: float) -> float | None:
        if self.first_step_at is None or now <= self.first_step_at or done <= self.steps_before:
            return None
        return (total - done) * (now - self.first_step_at) / (done - self.steps_before)

    def _keep(self, outlook: Outlook, now: float) -> None:
        if self.folder is None or now - self.kept_at < KEPT_EVERY_S:
            return
        self.kept_at = now
        # Whoever watches from elsewhere sees the last one that could be written.
        with contextlib.suppress(OSError):
            write_json(self.folder / PROGRESS, outlook, durable=False)

    def _status(self, tally: Tally, running: list[str], outlook: Outlook, now: float) -> str:
        total = outlook.total_steps
        parts = tally.in_words(self.num_trials, total)
        if self.first_step_at is None:
            parts.append(f"starting workers for {duration(now - self.started)}")
        elif outlook.left_s is not None:
            parts.append(f"{duration(outlook.left_s)} left")
        if self.first_step_at is not None and outlook.silent_s > SILENCE_S and tally.steps < total:
            parts.append(f"no step for {duration(outlook.silent_s)}, waiting for {', '.join(running) or 'workers'}")
        return ", ".join(parts) + tally.best_in_words(self.aim)
