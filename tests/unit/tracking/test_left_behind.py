import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from saying import says
from servers import ROOT
from stores import StoredRun, stored_runs

from irtune.cli import main
from irtune.tracking import left_behind
from irtune.tracking.heartbeat import is_live
from irtune.tracking.left_behind import close_dead
from irtune.tracking.mlflow_tracker import MlflowTracker
from irtune.tracking.outbox import open_tracker, sync, write_address
from irtune.tracking.run_record import Ended, Opened, RunRecord
from irtune.training.record import RecordReader

FINISHED = Ended("FINISHED", {}, None, 61_000)


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    return tmp_path / "storage"


def leave(storage: Path, uri: str) -> Path:
    """A sweep with one run that never reached MLflow."""
    folder = storage / f"sweep-{uuid.uuid4().hex}"
    write_address(folder, uri, "irtune")
    run_record = RunRecord(folder / "trials/a")
    run_record.begin(Opened(f"{folder.name}/a", "n", {}, 1_000))
    run_record.finish(FINISHED)
    return folder


def stored(uri: str, folder: Path) -> dict[str, StoredRun]:
    return {key.split("/")[1]: run for key, run in stored_runs(uri).items() if key.startswith(folder.name)}


def test_a_driver_that_is_killed_is_closed_and_one_that_lives_is_not(
    storage: Path, store_uri: str, tracker: MlflowTracker
) -> None:
    folder = storage / f"sweep-{uuid.uuid4().hex}"
    command = [sys.executable, str(ROOT / "tests/support/held_sweep.py"), str(folder), store_uri]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "ready\n"
        assert is_live(folder)
        assert close_dead(storage, store_uri) == []
        assert sync(folder, lambda _: tracker).is_live
        assert {trial: run.status for trial, run in stored(store_uri, folder).items()} == {
            "a": "FINISHED",
            "b": "RUNNING",
        }
        driver.send_signal(signal.SIGKILL)
        # Nobody has asked yet how it ended, as in a container without an init process.
        os.waitid(os.P_PID, driver.pid, os.WEXITED | os.WNOWAIT)
        killed_ms = time.time() * 1000
        time.sleep(0.5)

        assert close_dead(storage, store_uri) == [folder.name]
    finally:
        driver.kill()
        driver.wait(10)
    runs = stored(store_uri, folder)
    assert {trial: run.status for trial, run in runs.items()} == {"a": "FINISHED", "b": "KILLED"}
    assert runs["b"].tags["irtune.killed_by"] == "hard kill"
    assert "irtune.killed_by" not in runs["a"].tags
    assert runs["b"].end_time_ms == pytest.approx(killed_ms, abs=400)
    # Sending was under way when it was killed: every complete line is there, and once.
    num_steps = len(RecordReader(folder / "trials/b").poll())
    assert num_steps > 50
    assert runs["b"].steps("loss") == runs["b"].steps("cost/step_s") == list(range(num_steps))
    assert close_dead(storage, store_uri) == []


def test_what_is_settled_is_not_looked_at_again(storage: Path, store_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = leave(storage, store_uri)
    assert close_dead(storage, store_uri) == [folder.name]
    assert stored(store_uri, folder)["a"].status == "FINISHED"
    looked: list[Path] = []
    monkeypatch.setattr("irtune.tracking.outbox.unsent", looked.append)
    assert close_dead(storage, store_uri) == []
    assert looked == []


def leave_formerly(storage: Path, uri: str, *, sent: bool = False) -> Path:
    """A sweep as an earlier version of irtune left it."""
    folder = storage / f"sweep-{uuid.uuid4().hex}"
    write_address(folder, uri, "irtune")
    for run in (folder / "trials" / "a", folder / "summary"):
        (run / "spool").mkdir(parents=True)
        (run / "spool" / "attempt_0.jsonl").write_text('{"kind":"metrics","time_ms":1,"step":0,"values":{"loss":1}}\n')
        (run / "run.json").write_text('{"key": "k", "name": "n", "tags": {}, "start_time_ms": 1, "spool": "spool"}')
        (run / "end.json").write_text('{"status": "FINISHED", "tags": {}, "error_text": null, "end_time_ms": 2}')
        if sent:
            (run / "shipped.json").write_text('{"run_id": "r", "tracking_uri": "u", "spool_bytes": 9}')
    return folder


def test_what_a_former_version_left_is_passed_over_with_a_note_and_not_touched(
    storage: Path, store_uri: str, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    former, sent = leave_formerly(storage, store_uri), leave_formerly(storage, store_uri, sent=True)
    before = {file: file.read_bytes() for file in former.rglob("*") if file.is_file()}
    ours = leave(storage, store_uri)
    assert close_dead(storage, store_uri) == [ours.name]
    notes = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(notes) == 1
    assert former.name in notes[0]
    assert "`irtune sync` of that version" in notes[0]
    assert main(["sync", str(former)]) == 1
    assert "`irtune sync` of that version" in capsys.readouterr().out
    # It is not marked as sent, which the former version would believe.
    assert {file: file.read_bytes() for file in former.rglob("*") if file.is_file()} == before
    assert stored(store_uri, former) == stored(store_uri, sent) == {}


def test_what_goes_wrong_is_logged_and_stops_nothing(
    storage: Path, store_uri: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []

    def open_or_fail(folder: Path, uri: str) -> MlflowTracker:
        opened.append(folder)
        return open_tracker(folder, uri)

    for _ in range(3):
        leave(storage, "http://127.0.0.1:9")
    good = leave(storage, store_uri)
    damaged = leave(storage, store_uri)
    (damaged / "trials/a/driver.jsonl").write_text("{\n")
    (leave(storage, store_uri) / "tracking.json").write_text("{")
    (storage / "mlflow.db").touch()

    monkeypatch.setattr(left_behind, "open_tracker", open_or_fail)
    assert close_dead(storage, store_uri) == [good.name]
    assert says(caplog.text, "of 5 … sweeps MLflow … lacks")
    assert f"`irtune sync {storage}` tries again" in caplog.text
    # What belongs elsewhere is named, and nobody is asked there.
    assert set(opened) == {good, damaged}
    assert says(caplog.text, "belong to http://127.0.0.1:9")
    assert close_dead(storage / "no such folder", store_uri) == []


def test_an_address_that_does_not_answer_is_waited_for_once(
    storage: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []

    def open_or_fail(folder: Path, uri: str) -> MlflowTracker:
        opened.append(folder)
        return open_tracker(folder, uri)

    for _ in range(3):
        leave(storage, "http://127.0.0.1:9")
    monkeypatch.setattr(left_behind, "open_tracker", open_or_fail)
    assert close_dead(storage, "http://127.0.0.1:9") == []
    assert len(opened) == 1
    assert says(caplog.text, "of 3 … sweeps MLflow … lacks")


def test_a_sweep_belongs_to_an_address_whatever_the_login(storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []

    def note(folder: Path, uri: str) -> Any:
        # Nothing can be sent with what it returns.
        opened.append(folder)

    ours, former = leave(storage, "https://me:secret@host:5000"), leave(storage, "https://host:5000")
    leave(storage, "https://me:secret@host:5001")
    # As it was written formerly.
    (former / "tracking.json").write_text('{"uri": "https://***@host:5000", "experiment": "mine"}')
    monkeypatch.setattr(left_behind, "open_tracker", note)
    assert close_dead(storage, "https://you:other@host:5000") == []
    assert set(opened) == {ours, former}


def test_a_new_sweep_does_not_wait_for_old_ones(
    storage: Path, store_uri: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()

    def slowly(folder: Path, uri: str) -> MlflowTracker:
        release.wait(20)
        return open_tracker(folder, uri)

    for _ in range(2):
        leave(storage, store_uri)
    started = time.monotonic()
    monkeypatch.setattr(left_behind, "open_tracker", slowly)
    assert close_dead(storage, store_uri, 0.2) == []
    assert time.monotonic() - started < 5
    assert "goes on behind" in caplog.text
    release.set()
    for thread in threading.enumerate():
        if thread.name == "irtune-left-behind":
            thread.join(20)
