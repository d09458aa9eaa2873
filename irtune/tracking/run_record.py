"""What the driver knows of a run: one file of JSON lines in the run's folder, which outlives the driver.

It holds what happened to the run, in order: ``opened`` before MLflow hears of it, ``artifact`` for each file that the
driver made of what was measured, ``ended`` as soon as the driver knows how, ``sent`` once MLflow has taken all of it.
"""

import json
import logging
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from irtune.files import open_lines, read_alone
from irtune.redaction import public_address
from irtune.training.record import Record, path_inside, size_bytes

logger = logging.getLogger(__name__)

DRIVER_RECORD = "driver.jsonl"

KEY_TAG = "irtune.key"
"""What a run is known by: its study's name and its own, as in ``sweep/trial_0007``."""

DATA_TAG, DIGEST_TAG = "irtune.data", "irtune.data.digest"
"""Name and fingerprint of the data of a run; one that has both has them as MLflow's dataset input too."""

FOLDER_TAG = "irtune.trial_folder"
"""Where a trial lies."""

RunStatus = Literal["FINISHED", "FAILED", "KILLED"]
"""How a run ended, in MLflow's words: FINISHED also where a scheduler stopped it, which a tag tells."""


def now_ms() -> int:
    """The time in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True)
class Opened:
    """What a run is opened with.

    Args:
        key: What the run is known by in its experiment: the sweep and the trial's number.
        name: What people see.
        tags: What it is found by, such as ``irtune.sweep``.
        start_time_ms: When it began for the first time, since the epoch.
        params: Parameters that the driver knows, and the run does not: what it is in its study.
    """

    key: str
    name: str
    tags: dict[str, str]
    start_time_ms: int
    params: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Ended:
    """How a run ended.

    Args:
        status: FINISHED, FAILED or KILLED.
        tags: Tags to add, such as ``irtune.pruned``.
        error_text: Why it failed.
        end_time_ms: When, since the epoch.
    """

    status: RunStatus
    tags: dict[str, str]
    error_text: str | None
    end_time_ms: int


_EVENTS: dict[str, TypeAdapter[Any]] = {"opened": TypeAdapter(Opened), "ended": TypeAdapter(Ended)}
_Event = tuple[str, Any]
"""Its kind, and ``Opened``, ``Ended`` or what a line holds of another."""

_APPENDING = threading.Lock()
"""Several threads of a driver write, and a line that another one still writes looks torn."""


class RunRecord:
    """The file of one run. Reading a damaged one raises a ``ValueError`` that names it.

    Args:
        folder: The run's folder; made if absent by whoever writes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / DRIVER_RECORD

    def begin(self, opened: Opened) -> Opened:
        """Note that the run goes on from here; another key than before makes it another run.

        A run that was noted before keeps its start. What was noted of its end holds no longer, if it was killed.
        """
        try:
            known = self._last_opened()
        except ValueError as error:
            logger.warning("%s; put aside, and written anew with a new start", error)
            self.file.replace(self.file.with_name(f"{DRIVER_RECORD}.damaged"))
            known = None
        if known is not None and known.key == opened.key:
            opened = replace(opened, start_time_ms=known.start_time_ms)
        self._append("opened", asdict(opened))
        return opened

    def add_artifact(self, path: Path, artifact_folder: str, register: str | None = None) -> None:
        """Note a complete file or folder to upload, under ``artifact_folder`` ("" = the root) of the run's artifacts.

        Args:
            path: What lies in the run's folder.
            artifact_folder: Where it goes.
            register: Of an adapter, the name under which its model is to be registered.

        Raises:
            ValueError: It lies outside of the run's folder.
        """
        content = {"path": path_inside(self.folder, path), "artifact_folder": artifact_folder}
        self._append("artifact", content | ({"register": register} if register else {}), durable=False)

    def finish(self, end: Ended) -> None:
        """Note how the run ended."""
        self._append("ended", asdict(end))

    def mark_sent(self, run_id: str, tracking_uri: str, num_bytes: int, num_artifacts: int) -> None:
        """Note that MLflow has the run and its end.

        Args:
            run_id: MLflow's id of it.
            tracking_uri: MLflow's address; logins in it are not written.
            num_bytes: How much of what was measured it has.
            num_artifacts: How many of the driver's artifacts.
        """
        content = {"run_id": run_id, "tracking_uri": public_address(tracking_uri)}
        counts = {"num_bytes": num_bytes, "num_artifacts": num_artifacts}
        # Losing the mark costs no more than sending again.
        self._append("sent", content | counts, durable=False)

    def is_opened(self) -> bool:
        """Whether a driver has opened the run; none has where it was taken over from another study."""
        return self._last_opened() is not None

    def start(self) -> Opened:
        """What the run was opened with; its folder is the one that it lies in now, also after a study has moved."""
        opened = self._last_opened()
        if opened is None:
            raise self._damaged("no line says what the run was opened with")
        here = {FOLDER_TAG: str(self.folder.absolute())}
        return replace(opened, tags=opened.tags | here) if FOLDER_TAG in opened.tags else opened

    def end(self) -> Ended | None:
        """How the run ended; None while it goes on, and for ever where its driver died."""
        end: Ended | None = None
        for kind, content in self._events():
            if kind == "ended":
                end = content
            elif kind == "opened" and end is not None and end.status == "KILLED":
                end = None
        return end

    def artifacts(self) -> list[Record]:
        """The driver's artifacts, as ``irtune.training.record`` has those of the trial."""
        return [content for kind, content in self._events() if kind == "artifact"]

    def is_sent(self) -> bool:
        """Whether MLflow has the run's end, all that was measured, and all of the driver's artifacts."""
        try:
            events = self._events()
        except ValueError:
            # Sending again is harmless.
            return False
        kind, sent = events[-1] if events else ("", {})
        num_artifacts = sum(kind == "artifact" for kind, _ in events)
        return kind == "sent" and (sent["num_bytes"], sent["num_artifacts"]) == (size_bytes(self.folder), num_artifacts)

    def _last_opened(self) -> Opened | None:
        return next((content for kind, content in reversed(self._events()) if kind == "opened"), None)

    def _events(self) -> list[_Event]:
        """What happened since the run was first opened under the key that it is known by now."""
        events: list[_Event] = []
        key = None
        for kind, content in self._read():
            if kind == "opened" and content.key != key:
                events, key = [], content.key
            events.append((kind, content))
        return events

    def _read(self) -> list[_Event]:
        try:
            content = read_alone(self.file)
        except FileNotFoundError:
            return []
        # What follows the last line end is a line that a killed driver left torn.
        *lines, _ = content.split(b"\n")
        return [self._event(number, line) for number, line in enumerate(lines, start=1)]

    def _event(self, number: int, line: bytes) -> _Event:
        try:
            content = json.loads(line)
            kind = content["kind"]
            if kind in _EVENTS:
                return kind, _EVENTS[kind].validate_python(content)
            if kind == "artifact":
                content |= {key: str(content[key]) for key in ("path", "artifact_folder")}
                content |= {key: str(content[key]) for key in ("register",) if key in content}
                content["time_ms"] = int(content["time_ms"])
                # Beginning at which folder, is not for the record to say.
                content["folder"] = str(self.folder.resolve())
            elif kind == "sent":
                content |= {"num_bytes": int(content["num_bytes"]), "num_artifacts": int(content["num_artifacts"])}
        except ValidationError as error:
            first = error.errors()[0]
            raise self._damaged(f"line {number}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise self._damaged(f"line {number} is no event of a run") from error
        return kind, content

    def _damaged(self, reason: str) -> ValueError:
        return ValueError(f"{self.file}: is damaged ({reason}); bring it back from a backup, or delete it")

    def _append(self, kind: str, content: Mapping[str, Any], *, durable: bool = True) -> None:
        """Write a whole line, or none."""
        event = {"kind": kind, "time_ms": now_ms(), **content}
        unwritten = memoryview((json.dumps(event, separators=(",", ":")) + "\n").encode())
        with _APPENDING, open_lines(self.file) as file:
            size = file.seek(0, os.SEEK_END)
            try:
                while unwritten:
                    unwritten = unwritten[file.write(unwritten) :]
                if durable:
                    os.fsync(file.fileno())
            except OSError:
                file.truncate(size)
                raise
