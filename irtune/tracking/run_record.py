"""What the driver alone knows of a run, on disk beside the run's spool, so that it outlives the driver.

Three small files in the run's folder: ``run.json`` before MLflow hears of the run, ``end.json`` as soon as the driver
knows how the run ended, ``shipped.json`` once MLflow has taken that end.
"""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from irtune.files import read_json, write_json
from irtune.redaction import public_address
from irtune.tracking.spool import size_bytes

logger = logging.getLogger(__name__)

RUN = "run.json"

RunStatus = Literal["FINISHED", "FAILED", "KILLED"]
"""How a run ended, in MLflow's words: FINISHED also where a scheduler stopped it, which a tag tells."""


@dataclass(frozen=True)
class RunStart:
    """What a run is opened with.

    Args:
        key: What the run is known by in its experiment: the sweep and the trial's number.
        name: What people see.
        tags: What it is found by, such as ``irtune.sweep``.
        start_time_ms: When it began for the first time, since the epoch.
        spool: The name of the spool folder beside the run_record.
    """

    key: str
    name: str
    tags: dict[str, str]
    start_time_ms: int
    spool: str


@dataclass(frozen=True)
class RunEnd:
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


@dataclass(frozen=True)
class Shipped:
    """Where a run went, whole and with its end.

    Args:
        run_id: MLflow's id of it.
        tracking_uri: MLflow's address, without logins.
        spool_bytes: How much was in the spool; more than that is not shipped yet.
    """

    run_id: str
    tracking_uri: str
    spool_bytes: int


class RunRecord:
    """The three files of one run. Reading a damaged one raises a ``ValueError`` that names it.

    Args:
        folder: The run's folder; made by ``begin``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._run, self._end, self._shipped = folder / RUN, folder / "end.json", folder / "shipped.json"

    def begin(self, key: str, name: str, tags: Mapping[str, str], spool: str) -> RunStart:
        """Note that the run goes on from here.

        A run that was noted before keeps its start. What was noted of its end holds no longer, if it was killed.

        Args:
            key: What it is known by; another key than before makes it another run.
            name: What people see.
            tags: What it is found by.
            spool: The name of the spool folder.
        """
        known = self._known()
        if known is not None and known.key != key:
            known = None
        start_time_ms = time.time_ns() // 1_000_000 if known is None else known.start_time_ms
        start = RunStart(key, name, {tag: str(text) for tag, text in tags.items()}, start_time_ms, spool)
        self._shipped.unlink(missing_ok=True)
        if known is None or self._was_killed():
            self._end.unlink(missing_ok=True)
        if start != known:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self._run, start)
        return start

    def finish(self, end: RunEnd) -> None:
        """Note how the run ended."""
        write_json(self._end, end)

    def mark_shipped(self, run_id: str, tracking_uri: str, spool_bytes: int) -> None:
        """Note that MLflow has the run and its end, and ``spool_bytes`` of its spool."""
        # Losing the mark costs no more than sending again.
        write_json(self._shipped, Shipped(run_id, public_address(tracking_uri), spool_bytes), durable=False)

    def start(self) -> RunStart:
        """What the run was opened with."""
        return read_json(self._run, RunStart)

    def end(self) -> RunEnd | None:
        """How the run ended; None while it goes on, and for ever where its driver died."""
        try:
            return read_json(self._end, RunEnd)
        except FileNotFoundError:
            return None

    def spool(self) -> Path:
        """The run's spool folder.

        Raises:
            ValueError: The run_record names something else than a folder beside it.
        """
        name = self.start().spool
        spool = self.folder / name
        if name in ("", ".", "..") or "/" in name or spool.is_symlink():
            raise ValueError(
                f"{self.folder / RUN}: its spool {name!r} is no folder beside it; take the run's folder away"
            )
        return spool

    def is_shipped(self) -> bool:
        """Whether MLflow has the run's end and all that is in its spool."""
        try:
            return read_json(self._shipped, Shipped).spool_bytes == size_bytes(self.spool())
        except (FileNotFoundError, ValueError):
            # Shipping again is harmless.
            return False

    def _known(self) -> RunStart | None:
        try:
            return self.start()
        except FileNotFoundError:
            return None
        except ValueError as error:
            logger.warning("%s; written anew, with a new start", error)
            return None

    def _was_killed(self) -> bool:
        try:
            end = self.end()
        except ValueError:
            return True
        return end is not None and end.status == "KILLED"
