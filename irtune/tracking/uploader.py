"""The driver's thread that follows every trial's spool and sends it on to MLflow, whatever the network does.

A second thread only reads, so that what a person sees of the sweep never waits for an upload or an absent server.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from irtune.files import once_there_is_room
from irtune.redaction import redact
from irtune.tracking.mlflow_tracker import MlflowTracker
from irtune.tracking.run_record import RunEnd, RunRecord, RunStart, RunStatus
from irtune.tracking.spool import Record, SpoolReader, size_bytes

logger = logging.getLogger(__name__)

_RECORDS_PER_CALL = 2000
_FIRST_DELAY_S = 0.5
_LONGEST_DELAY_S = 5.0
_ROOM_S = 30.0


@dataclass
class _Spool:
    """One trial's spool, followed twice, so that an outage delays what is shipped but not what is shown."""

    directory: Path
    start: RunStart | None
    run_record: RunRecord | None = None
    end: RunEnd | None = None
    is_new: bool = False
    run_id: str = ""
    in_hand: list[Record] = field(default_factory=list)
    num_shown: int = 0
    num_shipped: int = 0
    is_shown: bool = False

    def __post_init__(self) -> None:
        self.shown, self.unshipped = SpoolReader(self.directory), SpoolReader(self.directory)

    def next_records(self) -> list[Record]:
        """The records to ship next: those that did not get through, else new ones."""
        self.in_hand = self.in_hand or self.unshipped.poll(_RECORDS_PER_CALL)
        return self.in_hand

    def num_unsent(self) -> int:
        """Records that MLflow lacks; the run's end counts as one."""
        return max(0, self.num_shown - self.num_shipped) + (self.end is not None)


class Uploader(threading.Thread):
    """Ships each trial's records in order, and each run's end after its last record.

    Nothing that goes wrong here reaches the sweep: the records lie in the spools, and are tried again after a delay
    that grows from 0.5 to 5 s. What the driver says of a run goes into the run's record, beside its spool, before
    MLflow hears of it, so that ``irtune.tracking.outbox`` can go on where this driver dies.

    Args:
        tracker: Where to ship; from now on only this thread should ship and finish.
        on_records: Told a trial's key and its new records, once each, from a thread of the uploader's.
        on_last: Told the key of a trial that ended, once all of its records were shown, from the same thread.
        interval_s: Seconds between two looks at the spools.
    """

    def __init__(
        self,
        tracker: MlflowTracker,
        on_records: Callable[[str, list[Record]], None] | None = None,
        on_last: Callable[[str], None] | None = None,
        interval_s: float = 1.0,
    ) -> None:
        super().__init__(name="irtune-uploader", daemon=True)
        self._tracker = tracker
        self._on_records = on_records
        self._on_last = on_last
        self._interval_s = interval_s
        self._spools: dict[str, _Spool] = {}
        self._changed = threading.Condition()
        self._showing = threading.Lock()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._num_rounds = 0
        self._delay_s = 0.0
        self._retry_at_s = 0.0

    def add(
        self,
        key: str,
        spool_directory: Path,
        name: str | None = None,
        tags: Mapping[str, str] | None = None,
        *,
        is_new: bool = False,
    ) -> None:
        """Follow a trial's spool from its beginning.

        Args:
            key: The key under which ``tracker.start_run`` opened the trial's run.
            spool_directory: The trial's spool folder; it may not exist yet.
            name: Where given, the run is not open yet: open it, with this name, as soon as MLflow answers.
            tags: The tags to open it with.
            is_new: Nobody can have told MLflow of this run before, so it need not be looked for.

        Raises:
            KeyError: No name is given, and no run is open under this key.
        """
        if name is None:
            self._tracker.run_id(key)
            spool = _Spool(spool_directory, None)
        else:
            run_record = RunRecord(spool_directory.parent)
            start = _begin(run_record, key, name, tags or {}, spool_directory.name)
            spool = _Spool(spool_directory, start, run_record, is_new=is_new)
        with self._changed:
            self._spools[key] = spool

    def finish(self, key: str, status: RunStatus, tags: Mapping[str, Any], error_text: str | None = None) -> None:
        """End a trial's run after the last of its records; the trial must write no more.

        Args:
            key: The trial's key.
            status: FINISHED, FAILED or KILLED.
            tags: Tags to add, such as ``irtune.pruned``.
            error_text: Why it failed.

        Raises:
            KeyError: No such trial is followed.
        """
        spool = self._spools[key]
        texts = {tag: str(value) for tag, value in tags.items()}
        end = RunEnd(status, texts, None if error_text is None else redact(error_text), time.time_ns() // 1_000_000)
        if spool.run_record is not None:
            _note(spool.run_record, lambda run_record: run_record.finish(end))
        spool.end = end
        self._wake.set()

    def resend(self, key: str, run_record: RunRecord) -> None:
        """Follow a run again that has ended, since more was spooled of it; its end stays as it was.

        Args:
            key: The trial's key.
            run_record: The run's; without an end nothing is sent before a later driver finds one.

        Raises:
            ValueError: The run_record is damaged.
        """
        start, end = run_record.start(), run_record.end()
        with self._changed:
            # One that is still followed is read to its end before it is closed.
            if end is not None and key not in self._spools:
                self._spools[key] = _Spool(run_record.spool(), start, run_record, end, is_shown=True)

    def settle(self, run_record: RunRecord) -> int:
        """Ship, in the calling thread, a run whose driver is gone, and end it as its record says.

        Args:
            run_record: The run's, with an end.

        Returns:
            The number of its records.

        Raises:
            ValueError: The run_record is damaged, or has no end.
            MlflowException: MLflow cannot be reached, or what else the tracker raises.
        """
        start, end = run_record.start(), run_record.end()
        if end is None:
            raise ValueError(f"{run_record.folder}: how this run ended is not known")
        spool = _Spool(run_record.spool(), start, run_record, end)
        self._ship(start.key, spool)
        return spool.num_shipped

    def drain(self, timeout_s: float) -> dict[str, int]:
        """Wait until all that is spooled now is shipped.

        Args:
            timeout_s: Wait no longer.

        Returns:
            For each trial of which something is left: how many records, its end counting as one.
        """
        deadline_s = time.monotonic() + timeout_s
        self._retry_at_s = 0.0
        with self._changed:
            # The round under way may have passed the newest records; the one after it sees them.
            target = self._num_rounds + 2
        while self.is_alive() and time.monotonic() < deadline_s:
            self._show_all()
            self._wake.set()
            with self._changed:
                if self._num_rounds >= target and not self._unsent():
                    break
                self._changed.wait(0.2)
        self._show_all()
        return self._unsent()

    def close(self, timeout_s: float = 5.0) -> None:
        """Stop, without shipping more; a call under way is waited for at most ``timeout_s``."""
        self._closing.set()
        self._wake.set()
        if self.is_alive():
            self.join(timeout_s)

    def run(self) -> None:
        """What the thread does: ship what is new, wait, until it is closed."""
        threading.Thread(target=self._keep_showing, name="irtune-measurements", daemon=True).start()
        while not self._closing.is_set():
            if time.monotonic() >= self._retry_at_s:
                self._ship_all(self._followed())
            with self._changed:
                self._num_rounds += 1
                self._changed.notify_all()
            self._wake.wait(self._interval_s)
            self._wake.clear()

    def _followed(self) -> dict[str, _Spool]:
        with self._changed:
            return dict(self._spools)

    def _unsent(self) -> dict[str, int]:
        counts = {key: spool.num_unsent() for key, spool in self._followed().items()}
        return {key: count for key, count in counts.items() if count}

    def _keep_showing(self) -> None:
        while not self._closing.wait(self._interval_s):
            self._show_all()

    def _show_all(self) -> None:
        for key, spool in self._followed().items():
            self._show(key, spool)

    def _show(self, key: str, spool: _Spool) -> None:
        with self._showing:
            # While MLflow is away, what ended would otherwise be looked at again and again.
            if not spool.is_shown:
                self._show_new(key, spool)

    def _show_new(self, key: str, spool: _Spool) -> None:
        # Taken first: a trial whose end is announced writes no more.
        is_over = spool.end is not None
        try:
            records = spool.shown.poll()
            spool.num_shown += len(records)
            if records and self._on_records:
                self._on_records(key, records)
            spool.is_shown = is_over
            if is_over and self._on_last:
                self._on_last(key)
        # A display or a network file system that stumbles must not end the tracking of the whole sweep.
        except Exception:
            logger.exception("%s: new records could not be shown", key)

    def _ship_all(self, spools: Mapping[str, _Spool]) -> None:
        for key, spool in spools.items():
            try:
                self._ship(key, spool)
            # Whatever it is, the records are safe in the spool, and the sweep goes on.
            except Exception as error:
                self._back_off(key, error)
                return
        if self._delay_s:
            logger.info("MLflow answers again")
        self._delay_s = 0.0

    def _ship(self, key: str, spool: _Spool) -> None:
        # Taken first: what the trial wrote before its end was announced is then shipped before the end.
        end = spool.end
        num_bytes = 0 if end is None else size_bytes(spool.directory)
        if (start := spool.start) is not None:
            # A call that failed may have taken effect.
            is_new, spool.is_new = spool.is_new, False
            spool.run_id = self._tracker.start_run(key, start.name, start.tags, start.start_time_ms, is_new=is_new)
            spool.start = None
        while records := spool.next_records():
            self._tracker.ship(key, records)
            spool.num_shipped += len(records)
            spool.in_hand = []
        if end is not None:
            self._tracker.finish(key, end.status, end.tags, end.error_text, end.end_time_ms)
            if spool.run_record is not None:
                run_id, uri = spool.run_id, self._tracker.uri
                _note(spool.run_record, lambda run_record: run_record.mark_shipped(run_id, uri, num_bytes))
            if self._spools.get(key) is spool:
                # What the trial wrote last is shown before the run is forgotten.
                self._show(key, spool)
                with self._changed:
                    del self._spools[key]

    def _back_off(self, key: str, error: Exception) -> None:
        if not self._delay_s:
            reason = redact(f"{type(error).__name__}: {error}")[:500]
            logger.warning("%s cannot be written to MLflow, its records wait in the spool: %s", key, reason)
        self._delay_s = min(max(_FIRST_DELAY_S, 2 * self._delay_s), _LONGEST_DELAY_S)
        self._retry_at_s = time.monotonic() + self._delay_s
        with self._changed:
            # To the end of the line, so that one run that always fails holds up no other.
            self._spools[key] = self._spools.pop(key)


def _begin(run_record: RunRecord, key: str, name: str, tags: Mapping[str, str], spool: str) -> RunStart:
    try:
        return once_there_is_room(lambda: run_record.begin(key, name, tags, spool), run_record.folder)
    except OSError as error:
        logger.warning("%s: the run's record cannot be written, its tracking goes on: %s", run_record.folder, error)
        return RunStart(key, name, dict(tags), time.time_ns() // 1_000_000, spool)


def _note(run_record: RunRecord, write: Callable[[RunRecord], None]) -> None:
    """Write to a record; where it cannot be written, that must not end the sweep."""
    try:
        once_there_is_room(lambda: write(run_record), run_record.folder, _ROOM_S)
    except OSError as error:
        logger.warning("%s: the run's record cannot be written, its tracking goes on: %s", run_record.folder, error)
