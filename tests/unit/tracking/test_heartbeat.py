import contextlib
import errno
import json
import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from irtune.files import read_json, write_json
from irtune.tracking import heartbeat as heartbeat_module
from irtune.tracking.heartbeat import DRIVER, SYNCED, Driver, DriverAliveError, Heartbeat, is_live


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "sweep"


def driver_of(folder: Path) -> Driver:
    return read_json(folder / DRIVER, Driver)


def leave(folder: Path, age_s: float, **changes: Any) -> None:
    """What a driver leaves that was killed ``age_s`` ago; like this process but for ``changes``."""
    with Heartbeat(folder):
        driver = driver_of(folder)
    write_json(folder / DRIVER, replace(driver, **changes))
    then_s = time.time() - age_s
    os.utime(folder / DRIVER, (then_s, then_s))


def test_a_driver_shows_who_it_is_and_that_it_lives(folder: Path) -> None:
    assert not is_live(folder)
    with Heartbeat(folder, ray_job_id="01000000", interval_s=0.02):
        found = json.loads((folder / DRIVER).read_text())
        assert (found["host"], found["pid"]) == (socket.gethostname(), os.getpid())
        assert found["process_start_s"] == pytest.approx(psutil.Process().create_time())
        assert found["ray_job_id"] == "01000000"
        assert abs(found["time_ms"] - time.time() * 1000) < 60_000
        assert is_live(folder)
        deadline = time.monotonic() + 5
        while driver_of(folder).time_ms == found["time_ms"]:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert not is_live(folder)
    assert {file.name for file in folder.iterdir()} == {".driver.lock"}


def test_nothing_beats_after_the_end(folder: Path) -> None:
    with Heartbeat(folder, interval_s=0.01):
        pass
    time.sleep(0.05)
    assert not (folder / DRIVER).exists()


def test_a_driver_that_fails_ends_cleanly_too(folder: Path) -> None:
    with pytest.raises(RuntimeError), Heartbeat(folder):
        raise RuntimeError
    assert not is_live(folder)


def test_a_second_driver_is_refused_and_told_of_the_first(folder: Path) -> None:
    told = rf"process {os.getpid()} on {socket.gethostname()} \(Ray job 02000000\) is at work on this sweep"
    with Heartbeat(folder, ray_job_id="02000000"), pytest.raises(DriverAliveError, match=told), Heartbeat(folder):
        pass


def test_of_drivers_that_come_at_once_one_gets_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slowly(folder: Path) -> bool:
        found = is_live(folder)
        time.sleep(0.02)
        return found

    def enter(_: int) -> bool:
        try:
            stack.enter_context(Heartbeat(folder))
        except DriverAliveError:
            return False
        return True

    monkeypatch.setattr(heartbeat_module, "is_live", slowly)
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(enter, range(4))) == [False, False, False, True]


@pytest.mark.parametrize("reaped", [False, True])
def test_a_process_of_this_machine_that_was_killed_is_dead_at_once(folder: Path, reaped: bool) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    leave(folder, 0, pid=process.pid, process_start_s=psutil.Process(process.pid).create_time())
    assert is_live(folder)
    process.kill()
    if reaped:
        process.wait(10)
    else:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not is_live(folder)
    process.wait(10)


def test_a_process_of_this_machine_that_lives_may_be_silent(folder: Path) -> None:
    leave(folder, age_s=3600)
    assert is_live(folder)


@pytest.mark.parametrize(
    "elsewhere",
    [{"host": "elsewhere"}, {"pid_space": "another boot"}, {"process_start_s": 5.0}],
    ids=["another host", "another container", "another start"],
)
@pytest.mark.parametrize(("age_s", "lives"), [(50, True), (70, False)])
def test_a_driver_that_cannot_be_looked_up_lives_while_its_heartbeat_is_young(
    folder: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: dict[str, Any], age_s: float, lives: bool
) -> None:
    # Its own clock and that of this process are both wrong.
    leave(folder, age_s, time_ms=0, **elsewhere)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 3600)
    monkeypatch.setattr(time, "time_ns", lambda: int((real() + 3600) * 1e9))
    assert is_live(folder) is lives


@pytest.mark.parametrize(("age_s", "lives"), [(50, True), (70, False)])
def test_a_damaged_heartbeat_counts_by_its_age(folder: Path, age_s: float, lives: bool) -> None:
    leave(folder, age_s)
    then = (folder / DRIVER).stat().st_mtime
    (folder / DRIVER).write_text("{")
    os.utime(folder / DRIVER, (then, then))
    assert is_live(folder) is lives


def test_a_full_disk_does_not_stop_the_heart(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried = threading.Semaphore(0)

    def fail(*_: Any, **__: Any) -> None:
        tried.release()
        raise OSError(errno.ENOSPC, "No space left on device")

    with Heartbeat(folder, interval_s=0.01):
        os.utime(folder / DRIVER, (5, 5))
        monkeypatch.setattr(heartbeat_module, "write_json", fail)
        assert all(tried.acquire(timeout=5) for _ in range(3))
        assert time.time() - (folder / DRIVER).stat().st_mtime < 60
    assert len([record for record in caplog.records if "No space left" in record.getMessage()]) == 1


def test_whoever_took_over_is_not_removed(folder: Path) -> None:
    with Heartbeat(folder):
        other = replace(driver_of(folder), host="elsewhere")
        write_json(folder / DRIVER, other)
    assert driver_of(folder) == other


def test_a_new_driver_takes_back_that_all_is_synced(folder: Path) -> None:
    folder.mkdir()
    (folder / SYNCED).write_text("{}")
    with Heartbeat(folder):
        assert not (folder / SYNCED).exists()
