"""Who is at work on a sweep: the sign of life that a driver leaves in the sweep's folder, and who reads it."""

import contextlib
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import psutil
from filelock import FileLock

from irtune.files import open_alone, read_json, write_json

logger = logging.getLogger(__name__)

DRIVER = "driver.json"
SYNCED = "synced.json"
"""A mark: when it was written, nothing of the sweep was left to send."""

INTERVAL_S = 5.0
STALE_AFTER_S = 60.0
_LOCK_TIMEOUT_S = 20.0
_SAME_START_S = 1.0


class DriverAliveError(ValueError):
    """Another process is at work on this sweep."""


@dataclass(frozen=True)
class Driver:
    """Who is at work.

    Args:
        host: The machine's name.
        pid_space: Where ``pid`` means this process: machines and containers may share a name.
        pid: The process.
        process_start_s: When that process began, since the epoch.
        ray_job_id: The Ray job that it belongs to.
        time_ms: When it last showed that it lives, by its own clock, since the epoch.
    """

    host: str
    pid_space: str
    pid: int
    process_start_s: float
    ray_job_id: str | None
    time_ms: int

    def is_here(self) -> bool:
        """Whether its pid can be looked up from this process."""
        return (self.host, self.pid_space) == (socket.gethostname(), _pid_space())


class Heartbeat:
    """Shows, from a thread, that this process is at work on a sweep; a context manager.

    Args:
        folder: The sweep's folder; made if absent.
        ray_job_id: The Ray job that this process belongs to, for people to read.
        interval_s: Seconds between two signs of life.

    Raises:
        DriverAliveError: On entering: another process is at work on it, or this one already.
    """

    def __init__(self, folder: Path, ray_job_id: str | None = None, interval_s: float = INTERVAL_S) -> None:
        self._file = folder / DRIVER
        self._interval_s = interval_s
        start_s = psutil.Process().create_time()
        self._driver = Driver(socket.gethostname(), _pid_space(), os.getpid(), start_s, ray_job_id, 0)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep_beating, name="irtune-heartbeat", daemon=True)

    def __enter__(self) -> Self:
        folder = self._file.parent
        folder.mkdir(parents=True, exist_ok=True)
        with nobody_at_work(folder):
            self._beat()
        (folder / SYNCED).unlink(missing_ok=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join(self._interval_s)
        with contextlib.suppress(OSError, ValueError):
            if replace(read_json(self._file, Driver), time_ms=self._driver.time_ms) == self._driver:
                self._file.unlink()

    def _beat(self) -> None:
        write_json(self._file, replace(self._driver, time_ms=time.time_ns() // 1_000_000), durable=False)

    def _keep_beating(self) -> None:
        failed = False
        while not self._over.wait(self._interval_s):
            try:
                self._beat()
                failed = False
            except OSError as error:
                if not failed:
                    logger.warning("%s cannot be written: %s", self._file, error)
                failed = True
                # A full disk still takes a new time.
                with contextlib.suppress(OSError):
                    os.utime(self._file)


@contextlib.contextmanager
def nobody_at_work(folder: Path) -> Iterator[None]:
    """Keep everybody else from beginning to work on a sweep for the time of the block, some seconds at most.

    Raises:
        DriverAliveError: Somebody is at work on it already.
    """
    # Only one of two that come at the same time finds nobody.
    with FileLock(folder / ".driver.lock", timeout=_LOCK_TIMEOUT_S):
        if is_live(folder):
            who = _who(folder / DRIVER)
            raise DriverAliveError(f"{folder}: {who} is at work on this sweep; wait until it has ended, or stop it")
        yield


@dataclass(frozen=True)
class Sign:
    """The last sign of life of whoever was at work on a sweep.

    Args:
        who: In words.
        age_s: Seconds since then, by the clock of this machine.
        is_live: Whether that process is still there, as far as can be told without writing anything.
    """

    who: str
    age_s: float
    is_live: bool


def is_live(folder: Path) -> bool:
    """Whether a process is at work on a sweep.

    On this machine its process is looked for; on another one its last sign of life must be younger than 60 s, by the
    clock of the storage, so that machines need not agree on the time.

    Args:
        folder: The sweep's folder.
    """
    file = folder / DRIVER
    try:
        lives = _lives(file)
    except FileNotFoundError:
        return False
    return _age_s(file, _storage_s(file)) < STALE_AFTER_S if lives is None else lives


def last_sign(folder: Path) -> Sign | None:
    """Look for whoever is at work on a sweep, or died over it, as one who may only read; None if there is nobody.

    As ``is_live``, but by the clock of this machine, which should not be wrong by a minute.
    """
    file = folder / DRIVER
    try:
        who, lives, age_s = _who(file), _lives(file), _age_s(file, time.time())
    except FileNotFoundError:
        return None
    # It may be gone by now.
    return None if age_s == float("inf") else Sign(who, age_s, age_s < STALE_AFTER_S if lives is None else lives)


def _lives(file: Path) -> bool | None:
    """Whether the process that a sign of life names is there; None where that cannot be looked up from here.

    Raises:
        FileNotFoundError: There is no sign.
    """
    try:
        driver = read_json(file, Driver)
    except ValueError:
        return None
    return _is_running(driver) if driver.is_here() else None


def _is_running(driver: Driver) -> bool | None:
    """Whether a process of this machine lives; None where that cannot be told."""
    try:
        process = psutil.Process(driver.pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        start_s = process.create_time()
    except psutil.NoSuchProcess:
        return False
    # With another start it is another process, or the machine's clock was set.
    return True if abs(start_s - driver.process_start_s) < _SAME_START_S else None


def _storage_s(file: Path) -> float:
    """The time as the storage of a file has it."""
    fresh = file.with_name(f".{file.name}.{uuid.uuid4().hex}")
    try:
        fresh.touch()
        return fresh.stat().st_mtime
    finally:
        fresh.unlink(missing_ok=True)


def _age_s(file: Path, now_s: float) -> float:
    """Seconds since a file was written; infinite where it is gone, or something else."""
    try:
        # On a network file system opening is what makes other machines' writes visible.
        with open_alone(file) as opened:
            return now_s - os.fstat(opened.fileno()).st_mtime
    except (FileNotFoundError, ValueError):
        return float("inf")


def _who(file: Path) -> str:
    try:
        driver = read_json(file, Driver)
    except (OSError, ValueError):
        return "another process"
    job = f" (Ray job {driver.ray_job_id})" if driver.ray_job_id else ""
    return f"process {driver.pid} on {driver.host}{job}"


def _pid_space() -> str:
    """The boot and the namespace in which pids of this process are unique; "" where there is but one."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""
