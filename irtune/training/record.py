"""What a trial measured: one file of JSON lines in its folder, whose last line is its result.

Rank 0 appends and never waits for a server; the driver reads on from where it stopped. Every line says which attempt
wrote it, so that a worker of an earlier attempt, cut off but alive, is not taken for the present one.
"""

import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from irtune.config.tree import flatten
from irtune.files import once_there_is_room, open_alone, open_lines
from irtune.redaction import redacted

if TYPE_CHECKING:
    from irtune.layers import SelectionRecord

logger = logging.getLogger(__name__)

MEASURED = "measured.jsonl"
ADAPTER = "adapter"
"""The folder of a trial's adapter in its own, and among its artifacts."""

Record = dict[str, Any]
"""One line: ``kind``, ``attempt``, ``time_ms``, and what the kind holds."""

Report = Callable[[Mapping[str, Any]], None]
"""Tells whoever started a run the metrics of each evaluation; every rank calls it, and it may raise to end the run."""

_RESULT = b'{"kind":"result",'
_TAIL_BYTES = 2**18


class RecordWriter:
    """Appends what one attempt measures; for one thread of one process.

    A record is handed to the operating system at once, so that the death of the process loses none; only the result
    is forced to the disk, so that writing costs microseconds.

    Args:
        folder: The trial's folder; made if absent. A last line that an earlier attempt left torn is cut off.

    Attributes:
        attempt: The number of this attempt, counted from 0; attempts that wrote nothing don't count.

    Raises:
        ValueError: What lies in the file's place is a link, has a second name, or is none.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._path = folder / MEASURED
        self._file = once_there_is_room(lambda: open_lines(self._path), self._path)
        self.attempt = 1 + max((record["attempt"] for record in RecordReader(folder)), default=-1)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers measured at an optimizer step; NaN and infinities are kept."""
        self._write("metrics", step=int(step), values={key: _encode(value) for key, value in values.items()})

    def params(self, settings: Mapping[str, Any]) -> None:
        """What was configured, as a JSON-able tree: kept as it is, and as text by dotted key."""
        self._write("params", values=_texts(flatten(settings)), settings=redacted(settings))

    def tags(self, values: Mapping[str, Any]) -> None:
        """What the run is found by; values become text, a later one replaces an earlier one."""
        self._write("tags", values=_texts(values))

    def artifact(self, path: Path, artifact_folder: str) -> None:
        """A complete file or folder to keep, under ``artifact_folder`` ("" = the root) of the run's artifacts.

        It is copied later, so it must stay. Only what lies in the trial's folder is uploaded.

        Raises:
            ValueError: It lies elsewhere.
        """
        self._write("artifact", path=path_inside(self._folder, path), artifact_folder=artifact_folder)

    def write(self, record: "SelectionRecord") -> None:
        """One choice of blocks; this makes it a ``TraceSink``."""
        self._write("selection", **record.to_json())

    def resumed(self, step: int) -> None:
        """This attempt goes on from a checkpoint taken at ``step``."""
        self._write("resumed", step=int(step))

    def result(self, values: Mapping[str, Any]) -> None:
        """What the finished trial found, last of all; it then also survives that the machine loses power."""
        counts = {key: value for key, value in values.items() if isinstance(value, int)}
        self._write("result", values={key: _encode(value) for key, value in values.items()} | counts)
        once_there_is_room(lambda: os.fsync(self._file.fileno()), self._path)

    def close(self) -> None:
        """Write no more; closing twice is harmless."""
        self._file.close()

    def _write(self, kind: str, **content: Any) -> None:
        record = {"kind": kind, "attempt": self.attempt, "time_ms": time.time_ns() // 1_000_000, **content}
        unwritten = memoryview((json.dumps(record, allow_nan=False, separators=(",", ":")) + "\n").encode())
        while unwritten:
            # What fits is written, and the rest of the line when there is room again.
            unwritten = unwritten[once_there_is_room(partial(self._file.write, unwritten), self._path) :]


class NoRecorder:
    """Takes every measurement and keeps none; what ranks above 0 record to."""

    def write(self, record: "SelectionRecord") -> None:
        """Take one choice of blocks."""

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: None


Recorder = RecordWriter | NoRecorder
"""Where a run's measurements go as they are made."""


class RecordReader:
    """Reads what a trial measured while it measures, each record once, and remembers how far it got.

    Args:
        folder: The trial's folder; it may not exist yet.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._offset = 0

    def poll(self, limit: int | None = None) -> list[Record]:
        """The complete lines that are new, at most ``limit`` of them.

        A last line without its end is left until it is complete; where its writer is dead, it never is, and the next
        attempt cuts it off. A complete line that is not a record is skipped with a warning.
        """
        return list(islice(self, limit))

    def num_left(self) -> int:
        """How many complete lines are new."""
        opened = _open(self._folder)
        if opened is None:
            return 0
        with opened as file:
            file.seek(self._offset)
            return sum(line.endswith(b"\n") for line in file)

    def __iter__(self) -> Iterator[Record]:
        # Opened anew each time: on a network file system opening is what makes other machines' writes visible.
        opened = _open(self._folder)
        if opened is None:
            return
        with opened as file:
            start = file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._offset = start + len(line)
                record = _parse(line, self._folder)
                if record is None:
                    logger.warning("%s, byte %d: not a record, skipped", self._folder / MEASURED, start)
                else:
                    yield record
                start += len(line)


def result_of(folder: Path) -> dict[str, Any] | None:
    """The result of a trial that has finished, whoever heard of it; None for one that has not.

    Only the end of its record is read: what may follow a result is the beginning of an attempt that found it there.
    """
    opened = _open(folder)
    if opened is None:
        return None
    with opened as file:
        start = max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES)
        file.seek(start)
        *whole, _ = file.read().split(b"\n")
    for line in reversed(whole):
        record = _parse(line, folder) if line.startswith(_RESULT) else None
        if record is not None:
            values: dict[str, Any] = record["values"]
            return values
    return None


def size_bytes(folder: Path) -> int:
    """How much a trial has written of what it measured."""
    found = _stat(folder)
    return 0 if found is None else found.st_size


def last_written_ms(folder: Path) -> int | None:
    """When a trial last wrote of what it measured, since the epoch; None for one that never ran."""
    found = _stat(folder)
    return None if found is None else found.st_mtime_ns // 1_000_000


def path_inside(folder: Path, path: Path) -> str:
    """An artifact's path relative to its run's folder.

    Raises:
        ValueError: It lies elsewhere.
    """
    folder, absolute = folder.resolve(), path.resolve()
    if not absolute.is_relative_to(folder):
        raise ValueError(f"{path}: lies outside of {folder}; copy it there first")
    return absolute.relative_to(folder).as_posix()


def _open(folder: Path) -> BinaryIO | None:
    """What a trial measured, to read; None if there is nothing, or something else in its place."""
    try:
        return open_alone(folder / MEASURED)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def _stat(folder: Path) -> os.stat_result | None:
    opened = _open(folder)
    if opened is None:
        return None
    with opened as file:
        return os.fstat(file.fileno())


def _parse(line: bytes, folder: Path) -> Record | None:
    try:
        record: Record = json.loads(line)
        record["attempt"] = int(record["attempt"])
        if record["kind"] == "metrics":
            record["values"] = {key: float(value) for key, value in record["values"].items()}
        elif record["kind"] == "result":
            texts = {key: float(value) for key, value in record["values"].items() if isinstance(value, str)}
            record["values"] |= texts
        elif record["kind"] == "selection":
            record["scores"] = [None if score is None else float(score) for score in record["scores"]]
        elif record["kind"] == "artifact":
            # Beginning at which folder, is not for the record to say.
            record["folder"] = str(folder.resolve())
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return record


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    """Values as they may be read by whoever looks at MLflow."""
    return {key: str(redacted(value, key)) for key, value in values.items()}


def _encode(value: float) -> float | str:
    number = float(value)
    return number if math.isfinite(number) else str(number)
