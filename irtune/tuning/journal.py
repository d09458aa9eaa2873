"""The study's journal, which one driver at a time writes: it outlives a kill in mid-line and a full disk."""

import os
from pathlib import Path
from typing import Any

from optuna.storages.journal import JournalFileBackend

from irtune.files import once_there_is_room


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
