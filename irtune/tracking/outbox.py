"""Sending on what a driver could not: of sweeps whose driver is gone, everything that MLflow lacks."""

import logging
import os
import textwrap
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from irtune.files import read_json, write_json, write_whole
from irtune.redaction import public_address, redact
from irtune.tracking.address import ADDRESS, local_database
from irtune.tracking.connection import check_tracking
from irtune.tracking.heartbeat import SYNCED, DriverAliveError, Heartbeat, is_live
from irtune.tracking.mlflow_tracker import MlflowTracker
from irtune.tracking.ownership import is_own_file, leads_elsewhere, why_not_own
from irtune.tracking.run_record import DRIVER_RECORD, Ended, RunRecord
from irtune.tracking.uploader import Uploader
from irtune.training.record import MEASURED, last_written_ms

logger = logging.getLogger(__name__)

KILLED_BY_TAG = "irtune.killed_by"
FORMER = "an earlier version of irtune left it, and only `irtune sync` of that version can send it"

_RUNS = ("trials/*", "summary")
_MOST_FAILURES = 3
_REASON_LENGTH = 500


@dataclass(frozen=True)
class StoreAddress:
    """Where a sweep's runs belong, as ``tracking.json`` in its folder says it: MLflow's address, without logins."""

    uri: str
    experiment: str


@dataclass(frozen=True)
class SyncResult:
    """What was sent of a sweep.

    Args:
        num_runs: Runs that MLflow has now taken whole, with their end.
        num_records: Records of these runs, those included that MLflow had already.
        left: What could not be sent, a run's folder or the sweep's, and why.
        is_live: A driver is at work on the sweep, so that nothing was touched.
    """

    num_runs: int = 0
    num_records: int = 0
    left: Mapping[str, str] = field(default_factory=dict)
    is_live: bool = False

    def __str__(self) -> str:
        if self.is_live:
            return "its driver is at work and sends it"
        sent = f"{self.num_runs} runs with {self.num_records} records sent" if self.num_runs else "nothing to send"
        if not self.left:
            return sent
        reasons = "; ".join(f"{what}: {why}" for what, why in list(self.left.items())[:3])
        return f"{self.num_runs} runs sent, {len(self.left)} left ({reasons}{'; …' if len(self.left) > 3 else ''})"


def write_address(folder: Path, uri: str, experiment: str) -> None:
    """Note in a sweep's folder where its runs belong, so that they can be sent there without its driver.

    This makes it a sweep for other processes, so its ``Heartbeat`` should run by then.

    Args:
        folder: The sweep's folder; made if absent.
        uri: MLflow's address; logins in it are not written.
        experiment: The experiment's name.
    """
    write_json(folder / ADDRESS, StoreAddress(public_address(uri), experiment))


def read_address(folder: Path) -> StoreAddress:
    """What ``write_address`` noted.

    Raises:
        ValueError: The folder is none of a sweep, or the file is damaged.
    """
    try:
        return read_json(folder / ADDRESS, StoreAddress)
    except FileNotFoundError:
        raise ValueError(f"{folder}: not the folder of a sweep: it has no {ADDRESS}") from None


def open_tracker(folder: Path, uri: str | None = None) -> MlflowTracker:
    """The tracker that a sweep's runs belong to.

    MLflow sends the logins of the environment to whatever server it is told; so the address of a server has to come
    from the user, and not from a file that lies beside the runs.

    Args:
        folder: The sweep's folder.
        uri: The address that the user said; by default the sweep's own database.

    Raises:
        ValueError: The folder is none of a sweep, or its runs belong to a server, to a database that is gone, or to
            another user's.
        TrackingError: MLflow cannot be reached.
    """
    address = read_address(folder)
    if uri is None:
        uri = _own_database(folder, public_address(address.uri))
    check_tracking(uri)
    return MlflowTracker(uri, address.experiment)


def _own_database(folder: Path, uri: str) -> str:
    database = local_database(uri)
    if database is None:
        raise ValueError(
            f"{folder}: its runs belong to {uri}, as only its {ADDRESS} says, and your login would go there too; if "
            f"that is right, say --tracking-uri {uri}"
        )
    if not database.is_file():
        raise ValueError(
            f"{folder}: its MLflow database {database} is gone; name another one, or a server, with --tracking-uri"
        )
    if not is_own_file(database):
        raise ValueError(
            f"{folder}: its MLflow database {database} is a link or another user's; if it is the right one, say so "
            f"with --tracking-uri {uri}"
        )
    return uri


def find_sweeps(folders: Iterable[Path]) -> list[Path]:
    """The folders of sweeps: those given, and those in the storage folders given.

    Raises:
        ValueError: A folder is neither.
    """
    sweeps: list[Path] = []
    for folder in (folder.resolve() for folder in folders):
        within = (
            [folder] if (folder / ADDRESS).is_file() else sorted(path.parent for path in folder.glob(f"*/{ADDRESS}"))
        )
        if not within:
            raise ValueError(
                f"{folder}: neither the folder of a sweep, which has a {ADDRESS}, nor a storage folder that holds some"
            )
        sweeps += within
    return sweeps


def unsent(folder: Path) -> list[RunRecord]:
    """The runs of a sweep that MLflow lacks or has in part, in the order in which they began."""
    files = [file for place in _RUNS for file in folder.glob(f"{place}/{DRIVER_RECORD}")]
    records = [RunRecord(file.parent) for file in files if _is_part(folder, file)]
    return sorted((record for record in records if not record.is_sent()), key=_began_ms)


def sync(
    folder: Path,
    open_tracker: Callable[[Path], MlflowTracker],
    timeout_s: float | None = None,
    *,
    of_anybody: bool = False,
) -> SyncResult:
    """Send what MLflow lacks of a sweep on which nobody is at work; done twice, it sends nothing and doubles nothing.

    A run whose end no driver noted is closed as KILLED, with the tag ``irtune.killed_by``: its driver died. MLflow is
    asked only if something is unsent, and what goes wrong is told in ``left``.

    Args:
        folder: The sweep's folder.
        open_tracker: From the sweep's folder to the tracker that its runs belong to.
        timeout_s: Begin no further run after this time.
        of_anybody: Touch also a folder that is not certainly this user's own.
    """
    foreign = None if of_anybody else why_not_own(folder)
    if foreign is not None:
        hint = f"if you trust it, say where its runs go: irtune sync {folder} --tracking-uri ADDRESS"
        return SyncResult(left={folder.name: f"{folder} {foreign}; {hint}"})
    try:
        if _has_former_runs(folder):
            return SyncResult(is_live=True) if is_live(folder) else SyncResult(left={folder.name: FORMER})
        with Heartbeat(folder):
            records = unsent(folder)
            result = _send(records, open_tracker(folder), timeout_s) if records else SyncResult()
            if not result.left:
                write_whole(folder / SYNCED, "")
            return result
    except DriverAliveError:
        return SyncResult(is_live=True)
    # Of several sweeps, one that cannot be sent holds up no other.
    except Exception as error:
        return SyncResult(left={folder.name: _reason(error)})


def _has_former_runs(folder: Path) -> bool:
    """Whether a sweep's runs lie there as earlier versions of irtune kept them, which this one neither reads nor sends.

    Such a run had a ``run.json``, and a ``shipped.json`` once it was sent; a sweep of which all was sent is no matter.
    """
    runs = [file.parent for place in _RUNS for file in folder.glob(f"{place}/run.json")]
    return any(not (run / "shipped.json").exists() for run in runs)


def _send(records: Iterable[RunRecord], tracker: MlflowTracker, timeout_s: float | None) -> SyncResult:
    uploader = Uploader(tracker)
    num_runs = num_records = failures = 0
    left: dict[str, str] = {}
    started_s = time.monotonic()
    for record in records:
        name = record.folder.name
        if failures == _MOST_FAILURES:
            left[name] = "not tried, since MLflow did not take those before it"
        elif timeout_s is not None and time.monotonic() - started_s > timeout_s:
            left[name] = "not tried for lack of time"
        else:
            try:
                if record.end() is None:
                    record.finish(_end_without_driver(record, tracker))
                num_records += uploader.settle(record)
                num_runs, failures = num_runs + 1, 0
            except ValueError as error:
                left[name] = _reason(error)
            except Exception as error:
                left[name] = _reason(error)
                failures += 1
    return SyncResult(num_runs, num_records, left)


def _end_without_driver(record: RunRecord, tracker: MlflowTracker) -> Ended:
    """The end of a run of which its record knows none."""
    start = record.start()
    end_time_ms = last_written_ms(record.folder) or start.start_time_ms
    # Its driver may have told MLflow, and not been able to write to the disk any more.
    return tracker.end_of(start.key) or Ended("KILLED", {KILLED_BY_TAG: "hard kill"}, None, end_time_ms)


def _is_part(folder: Path, file: Path) -> bool:
    """Whether a run's record, and what was measured beside it, are the sweep's own."""
    measured = file.with_name(MEASURED)
    reason = leads_elsewhere(folder, file)
    if reason is None and os.path.lexists(measured):
        reason = leads_elsewhere(folder, measured)
    if reason is not None:
        logger.warning("%s: a run is left alone: %s", folder, reason)
    return reason is None


def _began_ms(record: RunRecord) -> int:
    try:
        return record.start().start_time_ms
    except ValueError:
        return 0


def _reason(error: Exception) -> str:
    return textwrap.shorten(redact(f"{error}"), _REASON_LENGTH, placeholder=" …") or type(error).__name__
