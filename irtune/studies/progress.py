"""Progress of a sweep and the time that is left: a bar on a terminal, a line now and then in a log."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from irtune.analysis.tables import duration, worded
from irtune.config.study_schema import Aim
from irtune.studies.trial_record import TrialRecord

LINE_EVERY_S = 20.0
SILENCE_S = 60.0


@dataclass
class _Tally:
    """Trials counted up; ``best`` is a score and whose it is."""

    over: int = 0
    stopped: int = 0
    failed: int = 0
    steps: int = 0
    steps_of_over: int = 0
    best: tuple[float, str] | None = None

    def add(self, entry: TrialRecord, aim: Aim) -> None:
        self.steps += entry.step
        if entry.status is not None:
            self.over += 1
            self.steps_of_over += entry.step
            self.stopped += entry.status == "pruned"
            self.failed += entry.status == "failed"
        metric, mode = aim.first_objective
        score = None if entry.broken(aim.constraints) else entry.score(metric)
        if score is not None:
            known = [(score, entry.name)] if self.best is None else [self.best, (score, entry.name)]
            self.best = (max if mode == "max" else min)(known)


@dataclass
class SweepProgress:
    """Shows steps done of all trials, trials ended, the best score so far, and the time left.

    Args:
        console: Where to show it.
        num_trials: Trials planned, the baseline included.
        steps_per_trial: Optimizer steps of a trial that is not stopped.
        aim: What trials are judged by; shown is the first objective.
        steps_before: Optimizer steps that an earlier driver has seen done, which say nothing about the time left.
    """

    console: Console
    num_trials: int
    steps_per_trial: int
    aim: Aim
    steps_before: int = 0

    def __post_init__(self) -> None:
        self.started = time.monotonic()
        self.first_step_at: float | None = None
        self.moved_at = self.started
        self.last_line_at = 0.0
        self.done = -1
        # Trials about which nothing will change are counted once, so that a look takes as long in a long sweep.
        self._past = _Tally()
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

    def update(self, entries: Sequence[TrialRecord]) -> None:
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
        status = self._status(tally, running, total, now)
        self._bar.update(self._task, total=total, completed=done, status=status)
        if not self.console.is_terminal and now - self.last_line_at >= LINE_EVERY_S:
            self.last_line_at = now
            line = f"[{duration(now - self.started)}] {status}"
            self.console.out(line, highlight=False)

    def _count(self, entries: Sequence[TrialRecord]) -> tuple[_Tally, list[str]]:
        """All trials together, and the names of those that run."""
        # A slice alone, not a copy of all: of 10,000 trials that takes as long as the rest of this.
        recent = [*self._recent, *entries[self._num_seen :]]
        self._recent, self._num_seen = [], len(entries)
        for entry in recent:
            if entry.status is not None and entry.is_settled:
                self._past.add(entry, self.aim)
            else:
                self._recent.append(entry)
        tally = replace(self._past)
        for entry in self._recent:
            tally.add(entry, self.aim)
        return tally, [entry.name for entry in self._recent if entry.status is None]

    def _status(self, tally: _Tally, running: list[str], total: int, now: float) -> str:
        done = tally.steps
        parts = [f"{tally.over}/{self.num_trials} trials", f"step {done}/{total}"]
        stopped, failed = tally.stopped, tally.failed
        parts += [f"{stopped} stopped early"] * bool(stopped) + [f"{failed} failed"] * bool(failed)
        if self.first_step_at is None:
            parts.append(f"starting workers for {duration(now - self.started)}")
        elif now > self.first_step_at and done > self.steps_before:
            step_s = (now - self.first_step_at) / (done - self.steps_before)
            parts.append(f"{duration((total - done) * step_s)} left")
        if self.first_step_at is not None and now - self.moved_at > SILENCE_S and done < total:
            parts.append(f"no step for {duration(now - self.moved_at)}, waiting for {', '.join(running) or 'workers'}")
        if tally.best is not None:
            metric, (score, name) = self.aim.first_objective[0], tally.best
            parts[-1] += f"; best {metric} {worded(metric, score)} ({name})"
        return ", ".join(parts)
