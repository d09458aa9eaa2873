"""A study's folder as it grows: who is at work on it, its trials, how far each is, and what it measured so far."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from irtune.files import read_json
from irtune.studies.progress import PROGRESS, Outlook, Tally
from irtune.studies.recorded import aim_of
from irtune.studies.resume import Identity, read_identity
from irtune.studies.trial_record import TrialRecord
from irtune.tracking.heartbeat import Sign, last_sign

State = Literal["running", "finished", "stopped", "dead"]
"""``stopped`` was ended in order before its end, ``dead`` was killed: nobody said that it ended."""


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
    trials: tuple[TrialRecord, ...]
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
        self._trials: dict[str, TrialRecord] = {}

    def look(self) -> Look:
        """Read on from the last look."""
        # Before the trials: of a study that is over all is there to be read.
        sign, identity = last_sign(self.folder), read_identity(self.folder)
        state = state_of(identity, sign)
        for place in _trial_folders(self.folder):
            if place.name not in self._trials:
                self._trials[place.name] = TrialRecord.of(place, self.metric)
        tally = Tally()
        for trial in self._trials.values():
            self._look_at(trial)
            tally.add(trial, self.aim, trial.name)
        trials = sorted(self._trials.values(), key=lambda trial: (trial.began_ms, trial.name))
        outlook = _outlook(self.folder)
        planned = max(len(trials), outlook.num_trials if outlook else 0)
        return Look(state, sign, tuple(trials), tally, outlook if state == "running" else None, planned)

    def _look_at(self, trial: TrialRecord) -> None:
        try:
            trial.look(briefly=not self._reads_all)
        except (OSError, ValueError) as error:
            trial.damage = f"{error}"
        except (KeyError, TypeError) as error:
            trial.damage = f"its record lacks what it should hold ({type(error).__name__}: {error})"
        else:
            trial.damage = None
            if trial.status in ("finished", "pruned"):
                trial.settle()


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
