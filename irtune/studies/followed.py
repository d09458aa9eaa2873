"""A study's folder as it grows: who is at work on it, its trials, how far each is, and what it measured so far."""

import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from irtune.analysis.trials import Status
from irtune.config.study_schema import Constraint
from irtune.files import read_json
from irtune.search import objectives
from irtune.studies.progress import PROGRESS, Outlook, Tally
from irtune.studies.recorded import aim_of
from irtune.studies.resume import Identity, read_identity
from irtune.tracking.heartbeat import Sign, last_sign
from irtune.tracking.run_record import RunRecord
from irtune.training.record import Record, RecordReader, result_of

State = Literal["running", "finished", "stopped", "dead"]
"""``stopped`` was ended in order before its end, ``dead`` was killed: nobody said that it ended."""

_OF_RUN: Mapping[str, Status | None] = {"FINISHED": "finished", "FAILED": "failed", "KILLED": None}


@dataclass
class FollowedTrial:
    """A trial by its two records, which others may be writing.

    Args:
        folder: Its folder.
        metric: What its curve is of.
        reads_all: Whether to read all that it measures, or of one that finished its result alone.
        shown: Its name for people.
        began_ms: When, since the epoch; as late as can be before its driver has said so.
        status: How it ended; None while it runs, and where it was killed, since it may go on.
        was_killed: Whether its record says so.
        error: Why it failed.
        damage: Why its records cannot be read.
        step: Optimizer steps done.
        max_steps: Of those it would do; None before it says so.
        latest: What it measured last, by metric.
        curve: The metric by step.
        active: Blocks that train now.
        num_blocks: L; 0 before the first choice.
    """

    folder: Path
    metric: str
    reads_all: bool = True
    shown: str = ""
    began_ms: int = sys.maxsize
    status: Status | None = None
    was_killed: bool = False
    error: str | None = None
    damage: str | None = None
    step: int = 0
    max_steps: int | None = None
    latest: dict[str, Any] = field(default_factory=dict)
    curve: dict[int, float] = field(default_factory=dict)
    active: tuple[int, ...] = ()
    num_blocks: int = 0
    _attempt: int = 0
    _is_settled: bool = False

    def __post_init__(self) -> None:
        self._reader, self._run = RecordReader(self.folder), RunRecord(self.folder)

    @property
    def name(self) -> str:
        """Its name in its study."""
        return self.folder.name

    def look(self) -> None:
        """Read on from the last look."""
        if self._is_settled:
            return
        try:
            # How it ended is looked at first: a trial that is over measures no more.
            self._read_driver()
            if self.reads_all:
                self._take(self._reader.poll())
            elif self.status == "finished":
                self.latest = result_of(self.folder) or {}
        except (OSError, ValueError) as error:
            self.damage = f"{error}"
        except (KeyError, TypeError) as error:
            self.damage = f"its record lacks what it should hold ({type(error).__name__}: {error})"
        else:
            self.damage, self._is_settled = None, self.status in ("finished", "pruned")

    def score(self, metric: str) -> float | None:
        """A metric: of the best weights if it finished, else as last measured."""
        return objectives.measured(self.latest, metric)

    def broken(self, constraints: Mapping[str, Constraint]) -> tuple[str, ...]:
        """The constraints that the trial, if it finished, breaks."""
        return objectives.broken(self.latest, constraints) if self.status == "finished" else ()

    def _read_driver(self) -> None:
        if not self._run.file.exists():
            return
        opened, end = self._run.start(), self._run.end()
        self.shown, self.began_ms = opened.name, opened.start_time_ms
        self.status = None if end is None else _OF_RUN[end.status]
        self.error = None if end is None else end.error_text
        self.was_killed = end is not None and end.status == "KILLED"
        if end is not None and end.tags.get("irtune.pruned") == "true":
            self.status = "pruned"

    def _take(self, records: Iterable[Record]) -> None:
        for record in records:
            if record["attempt"] < self._attempt:
                # A worker that was cut off writes on, while another has taken its place.
                continue
            self._attempt, values = record["attempt"], record.get("values", {})
            if record["kind"] == "metrics":
                self.latest.update(values)
                self.step = max(self.step, record["step"])
                if self.metric in values:
                    self.curve[record["step"]] = values[self.metric]
            elif record["kind"] == "selection":
                self.active, self.num_blocks = tuple(record["active"]), len(record["scores"])
            elif record["kind"] == "params":
                self.max_steps = int(values["training.max_steps"])


@dataclass(frozen=True)
class Look:
    """A study at one time.

    Args:
        state: Of the study.
        sign: Of life, of whoever is at work on it or died over it; None if there is nobody.
        trials: In the order in which they began.
        tally: Of them.
        outlook: What its driver expects; None where nobody is at work, or it has said nothing yet.
        num_trials: Trials planned, as far as is known.
    """

    state: State
    sign: Sign | None
    trials: tuple[FollowedTrial, ...]
    tally: Tally
    outlook: Outlook | None
    num_trials: int

    @property
    def is_running(self) -> bool:
        """Whether somebody is at work on it."""
        return self.state == "running"


class FollowedStudy:
    """A study by the files in its folder, of which none is written.

    Args:
        folder: Its folder.
        reads_all: Whether to read all that its trials measure, or of those that finished the results alone.

    Raises:
        ValueError: It is of another version of irtune, or does not say what it is.
    """

    def __init__(self, folder: Path, *, reads_all: bool = True) -> None:
        self.folder = folder
        identity = read_identity(folder)
        self.kind, self.aim = identity.kind, aim_of(identity.settings)
        metric = identity.settings.get("metric")
        self.metric = f"eval/{metric}" if metric else self.aim.first_objective[0]
        self._reads_all = reads_all
        self._trials: dict[str, FollowedTrial] = {}

    def look(self) -> Look:
        """Read on from the last look."""
        # Before the trials: of a study that is over all is there to be read.
        sign, identity = last_sign(self.folder), read_identity(self.folder)
        state = state_of(identity, sign)
        for place in _trial_folders(self.folder):
            if place.name not in self._trials:
                self._trials[place.name] = FollowedTrial(place, self.metric, self._reads_all)
        tally = Tally()
        for trial in self._trials.values():
            trial.look()
            tally.add(trial, self.aim)
        trials = sorted(self._trials.values(), key=lambda trial: (trial.began_ms, trial.name))
        outlook = _outlook(self.folder)
        planned = max(len(trials), outlook.num_trials if outlook else 0)
        return Look(state, sign, tuple(trials), tally, outlook if state == "running" else None, planned)


def state_of(identity: Identity, sign: Sign | None) -> State:
    """The state of a study; what is complete and has somebody at work on it is only being sent to MLflow."""
    if identity.complete:
        return "finished"
    if sign is None:
        return "stopped"
    return "running" if sign.is_live else "dead"


def _trial_folders(folder: Path) -> list[Path]:
    """The trials of a study; what is being copied begins with a dot."""
    try:
        entries = list(os.scandir(folder / "trials"))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [folder / "trials" / each.name for each in entries if each.is_dir() and not each.name.startswith(".")]


def _outlook(folder: Path) -> Outlook | None:
    try:
        return read_json(folder / PROGRESS, Outlook)
    except (OSError, ValueError):
        return None
