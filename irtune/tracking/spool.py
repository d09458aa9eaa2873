"""What a trial measures, on disk first: one file of JSON lines an attempt, written by the trial, read by the driver.

The training process appends and never waits for a server; the driver reads on from where it stopped. A killed trial
leaves at most one torn line behind, and the next attempt writes to a file of its own.
"""

import json
import logging
import math
import re
import stat
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from irtune.files import once_there_is_room
from irtune.redaction import redacted

logger = logging.getLogger(__name__)

Record = dict[str, Any]
"""One line: ``kind``, ``time_ms``, and what the kind holds; the reader adds ``attempt``."""

_ATTEMPT = re.compile(r"attempt_(\d+)\.jsonl")


class SpoolWriter:
    """Appends the records of one attempt; for one thread of one process.

    A record is handed to the operating system at once, so that the death of the process loses none; it is not forced
    to the disk, so that writing costs microseconds.

    Args:
        directory: The trial's spool folder; made if absent. Its parent is the trial's folder.
        attempt: The number of this attempt, from ``next_attempt``.

    Raises:
        FileExistsError: The attempt has a file already, and so perhaps another writer.
    """

    def __init__(self, directory: Path, attempt: int) -> None:
        self._trial = directory.resolve().parent
        once_there_is_room(lambda: directory.mkdir(parents=True, exist_ok=True), directory)
        self._path = _path(directory, attempt)
        self._file = self._path.open("xb", buffering=0)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers measured at an optimizer step; NaN and infinities are kept."""
        self._write("metrics", step=int(step), values={key: _encode(value) for key, value in values.items()})

    def params(self, values: Mapping[str, Any]) -> None:
        """What was configured, by dotted key; values become text."""
        self._write("params", values=_texts(values))

    def tags(self, values: Mapping[str, Any]) -> None:
        """What the run is found by; values become text, a later one replaces an earlier one."""
        self._write("tags", values=_texts(values))

    def artifact(self, path: Path, artifact_folder: str) -> None:
        """A complete file or folder to keep, under ``artifact_folder`` ("" = the root) of the run's artifacts.

        It is copied later, so it must stay. Only what lies in the trial's folder is uploaded.

        Raises:
            ValueError: It lies elsewhere.
        """
        absolute = path.resolve()
        if not absolute.is_relative_to(self._trial):
            raise ValueError(f"{path}: lies outside of {self._trial}; copy it there first")
        self._write("artifact", path=absolute.relative_to(self._trial).as_posix(), artifact_folder=artifact_folder)

    def selection(self, record: Mapping[str, Any]) -> None:
        """One choice of blocks: step, active, scores, measured_at, trainable_parameters, lowest_active."""
        self._write(
            "selection",
            step=int(record["step"]),
            active=[int(block) for block in record["active"]],
            scores=[None if score is None else _encode(score) for score in record["scores"]],
            measured_at=[None if step is None else int(step) for step in record["measured_at"]],
            trainable_parameters=int(record["trainable_parameters"]),
            lowest_active=int(record["lowest_active"]),
        )

    def resumed(self, step: int) -> None:
        """This attempt goes on from a checkpoint taken at ``step``."""
        self._write("resumed", step=int(step))

    def close(self) -> None:
        """Write no more; closing twice is harmless."""
        self._file.close()

    def _write(self, kind: str, **content: Any) -> None:
        record = {"kind": kind, "time_ms": time.time_ns() // 1_000_000, **content}
        unwritten = memoryview((json.dumps(record, allow_nan=False, separators=(",", ":")) + "\n").encode())
        while unwritten:
            # What fits is written, and the rest of the line when there is room again.
            unwritten = unwritten[once_there_is_room(partial(self._file.write, unwritten), self._path) :]


class SpoolReader:
    """Reads a trial's records while they are written, each once, and remembers how far it got.

    Args:
        directory: The trial's spool folder; it may not exist yet.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._offsets: dict[int, int] = {}

    def poll(self, limit: int | None = None) -> list[Record]:
        """The complete lines that are new, attempt after attempt, at most ``limit`` of them.

        A last line without its end is left until it is complete; where its writer is dead, it never is, and the next
        attempt goes on without it. A complete line that is not a record is skipped with a warning.
        """
        records: list[Record] = []
        for attempt in _attempts(self._directory):
            for record in self._unread(attempt):
                records.append(record)
                if len(records) == limit:
                    return records
        return records

    def _unread(self, attempt: int) -> Iterator[Record]:
        path = _path(self._directory, attempt)
        # Opened anew each time: on a network file system opening is what makes other machines' writes visible.
        with path.open("rb") as file:
            start = file.seek(self._offsets.get(attempt, 0))
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._offsets[attempt] = start + len(line)
                record = self._parse(line)
                if record is None:
                    logger.warning("%s, byte %d: not a record, skipped", path, start)
                else:
                    yield record | {"attempt": attempt}
                start += len(line)

    def _parse(self, line: bytes) -> Record | None:
        try:
            record: Record = json.loads(line)
            if record["kind"] == "metrics":
                record["values"] = {key: float(value) for key, value in record["values"].items()}
            elif record["kind"] == "selection":
                record["scores"] = [None if score is None else float(score) for score in record["scores"]]
            elif record["kind"] == "artifact":
                # Beginning at which folder, is not for the record to say.
                record["folder"] = str(self._directory.resolve().parent)
        except (ValueError, KeyError, TypeError, AttributeError):
            return None
        return record


def next_attempt(directory: Path) -> int:
    """The number after the last attempt that has a file; 0 for a trial that never ran."""
    return max(_attempts(directory), default=-1) + 1


def size_bytes(directory: Path) -> int:
    """How much all attempts have written."""
    return sum(_path(directory, attempt).stat().st_size for attempt in _attempts(directory))


def last_written_ms(directory: Path) -> int | None:
    """When an attempt last wrote, since the epoch; None for a trial that never ran."""
    times_ns = (_path(directory, attempt).stat().st_mtime_ns for attempt in _attempts(directory))
    latest_ns = max(times_ns, default=None)
    return None if latest_ns is None else latest_ns // 1_000_000


def _path(directory: Path, attempt: int) -> Path:
    return directory / f"attempt_{attempt}.jsonl"


def _attempts(directory: Path) -> list[int]:
    files = (path for path in directory.glob("attempt_*.jsonl") if stat.S_ISREG(path.lstat().st_mode))
    return sorted(int(match[1]) for path in files if (match := _ATTEMPT.fullmatch(path.name)))


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    """Values as they may be read by whoever looks at MLflow."""
    return {key: str(redacted(value, key)) for key, value in values.items()}


def _encode(value: float) -> float | str:
    number = float(value)
    return number if math.isfinite(number) else str(number)
