"""The study's journal, which one driver at a time writes: it outlives a kill in mid-line and a full disk."""

import os
from collections.abc import Container
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from irtune.files import once_there_is_room


class StudyStorage(JournalStorage):
    """Optuna's storage over such a file, in which asking for a trial takes as long in a long study.

    Args:
        path: The file; made if absent.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(StudyJournal(path))
        self._begun: dict[int, int] = {}

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Like Optuna's; each ``ask`` looks for waiting trials, and what has begun never waits again."""
        if deepcopy or states != (TrialState.WAITING,):
            return super().get_all_trials(study_id, deepcopy, states)
        waiting: list[FrozenTrial] = []
        number = self._begun.get(study_id, 0)
        while True:
            try:
                trial = self.get_trial(self.get_trial_id_from_study_id_trial_number(study_id, number))
            except KeyError:
                return waiting
            number += 1
            if trial.state == TrialState.WAITING:
                waiting.append(trial)
            elif not waiting:
                self._begun[study_id] = number


class StudyJournal(JournalFileBackend):
    """Optuna's journal file, of which every line is whole.

    Args:
        path: The file; made if absent. A last line that a killed driver left torn is cut off, since Optuna would go on
            behind it and could read none of it afterwards.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        if path.is_file():
            content = path.read_bytes()
            os.truncate(path, content.rfind(b"\n") + 1)
        super().__init__(str(path))

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append whole lines, and wait while the disk is full.

        Raises:
            OSError: If the file cannot be written, or there is no room for too long.
        """
        size = self._path.stat().st_size

        def append() -> None:
            try:
                super(StudyJournal, self).append_logs(logs)
            except OSError:
                os.truncate(self._path, size)
                raise

        once_there_is_room(append, self._path)
