"""The driver's thread that follows what every trial measures and sends it on to MLflow, whatever the network does."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from irtune.files import ROOM_S, once_there_is_room
from irtune.redaction import redact
from irtune.tracking.mlflow_tracker import MlflowTracker
from irtune.tracking.run_record import Ended, Opened, RunRecord, RunStatus, now_ms
from irtune.training.record import Record, RecordReader, size_bytes

logger = logging.getLogger(__name__)

_RECORDS_PER_CALL = 2000
_FIRST_DELAY_S = 0.5
_LONGEST_DELAY_S = 5.0
_ROOM_S = 30.0

_Found = TypeVar("_Found")


@dataclass
class _Run:
    """A run on its way.

    Args:
        record: What the driver knows of it.
        start: What to open it with; None once it is open.
        end: How it ended, once that is known.
        is_new: MLflow cannot have it yet.
    """

    record: RunRecord
    start: Opened | None
    end: Ended | None = None
    is_new: bool = False
    run_id: str = ""
    in_hand: list[Record] = field(default_factory=list)
    num_sent: int = 0

    def __post_init__(self) -> None:
        self.unsent = RecordReader(self.record.folder)

    def num_unsent(self) -> int:
        """Records that MLflow lacks; the run's end counts as one."""
        return len(self.in_hand) + self.unsent.num_left() + (self.end is not None)


class Uploader(threading.Thread):
    """Sends of each run what was measured, in order, then what the driver made of it, then its end.

    Nothing that goes wrong here reaches the sweep: all of it lies in the run's folder, and is tried again after a delay
    that grows from 0.5 to 5 s. What the driver says of a run goes into the run's record before MLflow hears of it, so
    that ``irtune.tracking.outbox`` can go on where this driver dies.

    Args:
        tracker: Where to send; from now on only this thread should send and finish.
        interval_s: Seconds between two looks at what is new.
    """

    def __init__(self, tracker: MlflowTracker, interval_s: float = 1.0) -> None:
        super().__init__(name="irtune-uploader", daemon=True)
        self._tracker = tracker
        self._interval_s = interval_s
        self._runs: dict[str, _Run] = {}
        self._changed = threading.Condition()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._num_rounds = 0
        self._delay_s = 0.0
        self._retry_at_s = 0.0

    def add(self, folder: Path, opened: Opened, *, is_new: bool = False) -> None:
        """Follow a run from its beginning; MLflow opens it as soon as it answers.

        Args:
            folder: The run's folder; it may not exist yet.
            opened: What to open it with.
            is_new: Nobody can have told MLflow of this run before, so it need not be looked for.
        """
        record = RunRecord(folder)
        run = _Run(record, _tolerant(record, lambda: record.begin(opened), opened, ROOM_S), is_new=is_new)
        with self._changed:
            self._runs[opened.key] = run

    def finish(self, key: str, status: RunStatus, tags: Mapping[str, Any], error_text: str | None = None) -> None:
        """End a run after the last of its records; the trial must write no more.

        Args:
            key: What the run is known by.
            status: FINISHED, FAILED or KILLED.
            tags: Tags to add, such as ``irtune.pruned``.
            error_text: Why it failed.

        Raises:
            KeyError: No such run is followed.
        """
        run = self._runs[key]
        texts = {tag: str(value) for tag, value in tags.items()}
        end = Ended(status, texts, None if error_text is None else redact(error_text), now_ms())
        _tolerant(run.record, lambda: run.record.finish(end), None)
        run.end = end
        self._wake.set()

    def resend(self, record: RunRecord) -> None:
        """Follow a run again that has ended: the driver made more of it, or an earlier one could not send it.

        Its end stays as it was.

        Args:
            record: The run's; without an end nothing is sent before a later driver finds one.

        Raises:
            ValueError: The record is damaged.
        """
        start, end = record.start(), record.end()
        with self._changed:
            # One that is still followed is read to its end before it is closed.
            if end is not None and start.key not in self._runs:
                self._runs[start.key] = _Run(record, start, end)

    def settle(self, record: RunRecord) -> int:
        """Send, in the calling thread, a run whose driver is gone, and end it as its record says.

        Args:
            record: The run's, with an end.

        Returns:
            The number of records of what was measured.

        Raises:
            ValueError: The record is damaged, or has no end.
            MlflowException: MLflow cannot be reached, or what else the tracker raises.
        """
        start, end = record.start(), record.end()
        if end is None:
            raise ValueError(f"{record.folder}: how this run ended is not known")
        run = _Run(record, start, end)
        self._send(start.key, run)
        return run.num_sent

    def drain(self, timeout_s: float) -> dict[str, int]:
        """Wait until all that there is now is sent.

        Args:
            timeout_s: Wait no longer.

        Returns:
            For each run of which something is left: how many records, its end counting as one.
        """
        deadline_s = time.monotonic() + timeout_s
        self._retry_at_s = 0.0
        with self._changed:
            # The round under way may have passed the newest records; the one after it sees them.
            target = self._num_rounds + 2
        while self.is_alive() and time.monotonic() < deadline_s:
            self._wake.set()
            with self._changed:
                if self._num_rounds >= target and not self._unsent():
                    break
                self._changed.wait(0.2)
        return self._unsent()

    def close(self, timeout_s: float = 5.0) -> None:
        """Stop, without sending more; a call under way is waited for at most ``timeout_s``."""
        self._closing.set()
        self._wake.set()
        if self.is_alive():
            self.join(timeout_s)

    def run(self) -> None:
        """What the thread does: send what is new, wait, until it is closed."""
        while not self._closing.is_set():
            if time.monotonic() >= self._retry_at_s:
                self._send_all(self._followed())
            with self._changed:
                self._num_rounds += 1
                self._changed.notify_all()
            self._wake.wait(self._interval_s)
            self._wake.clear()

    def _followed(self) -> dict[str, _Run]:
        with self._changed:
            return dict(self._runs)

    def _unsent(self) -> dict[str, int]:
        counts = {key: run.num_unsent() for key, run in self._followed().items()}
        return {key: count for key, count in counts.items() if count}

    def _send_all(self, runs: Mapping[str, _Run]) -> None:
        for key, run in runs.items():
            try:
                self._send(key, run)
            # Whatever it is, the records are safe in the run's folder, and the sweep goes on.
            except Exception as error:
                self._back_off(key, error)
                return
        if self._delay_s:
            logger.info("MLflow answers again")
        self._delay_s = 0.0

    def _send(self, key: str, run: _Run) -> None:
        # Taken first: what the trial wrote before its end was announced is then sent before the end.
        end = run.end
        num_bytes = 0 if end is None else size_bytes(run.record.folder)
        if (start := run.start) is not None:
            # A call that failed may have taken effect.
            is_new, run.is_new = run.is_new, False
            run.run_id = self._tracker.start_run(start, is_new=is_new)
            run.start = None
        # Those that did not get through come first.
        while records := run.in_hand or run.unsent.poll(_RECORDS_PER_CALL):
            run.in_hand = records
            self._tracker.send(key, records)
            run.num_sent += len(records)
            run.in_hand = []
        if end is not None:
            artifacts: list[Record] = _tolerant(run.record, run.record.artifacts, [])
            self._tracker.send(key, artifacts)
            self._tracker.finish(key, end)
            sent = (run.run_id, self._tracker.uri, num_bytes, len(artifacts))
            _tolerant(run.record, lambda: run.record.mark_sent(*sent), None)
            with self._changed:
                if self._runs.get(key) is run:
                    del self._runs[key]

    def _back_off(self, key: str, error: Exception) -> None:
        if not self._delay_s:
            reason = redact(f"{type(error).__name__}: {error}")[:500]
            logger.warning("%s cannot be written to MLflow, its records wait in its folder: %s", key, reason)
        self._delay_s = min(max(_FIRST_DELAY_S, 2 * self._delay_s), _LONGEST_DELAY_S)
        self._retry_at_s = time.monotonic() + self._delay_s
        with self._changed:
            # To the end of the line, so that one run that always fails holds up no other.
            self._runs[key] = self._runs.pop(key)


def _tolerant(record: RunRecord, use: Callable[[], _Found], otherwise: _Found, room_s: float = _ROOM_S) -> _Found:
    """What ``use`` of a record returns; where it cannot be used, that must not end the sweep."""
    try:
        return once_there_is_room(use, record.folder, room_s)
    except (OSError, ValueError) as error:
        logger.warning("%s: the run's record cannot be used, its tracking goes on: %s", record.folder, error)
        return otherwise
