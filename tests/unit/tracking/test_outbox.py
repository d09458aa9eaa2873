import json
import os
import time
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException
from saying import refused, says
from stores import StoredRun, stored_runs

from irtune.cli import main
from irtune.tracking.heartbeat import Heartbeat
from irtune.tracking.mlflow_tracker import MlflowTracker
from irtune.tracking.outbox import (
    SyncResult,
    find_sweeps,
    open_tracker,
    read_address,
    sync,
    unsent,
    write_address,
)
from irtune.tracking.run_record import Ended, Opened, RunRecord, now_ms
from irtune.tracking.uploader import Uploader
from irtune.training.record import MEASURED, RecordWriter

FINISHED = Ended("FINISHED", {"irtune.pruned": "False"}, None, 61_000)


@pytest.fixture
def folder(tmp_path: Path, store_uri: str) -> Path:
    # The store is shared by all tests, and a key holds the sweep's name.
    folder = tmp_path / "storage" / f"sweep-{uuid.uuid4().hex}"
    write_address(folder, store_uri, "irtune")
    return folder


def leave(folder: Path, trial: str, steps: Iterable[int], end: Ended | None) -> RunRecord:
    """A run as a driver leaves it that never reached MLflow; ``None``: it died before the run's end."""
    run_record = RunRecord(folder / trial)
    began_ms = time.time_ns() // 1_000_000
    run_record.begin(Opened(f"{folder.name}/{trial}", f"name of {trial}", {"irtune.sweep": folder.name}, began_ms))
    write(folder, trial, steps)
    if end is not None:
        run_record.finish(end)
    return run_record


def write(folder: Path, trial: str, steps: Iterable[int]) -> RecordWriter:
    writer = RecordWriter(folder / trial)
    writer.params({"training.max_steps": 9})
    for step in steps:
        # What depends on the machine differs between attempts.
        writer.metrics(step, {"train/loss": 1 / (step + 1), "cost/step_s": writer.attempt + 0.5})
    return writer


def begin_at(record: RunRecord, start_time_ms: int) -> None:
    """Have a run begun at another time."""
    first, *others = record.file.read_text().splitlines(keepends=True)
    record.file.write_text("".join([json.dumps(json.loads(first) | {"start_time_ms": start_time_ms}) + "\n", *others]))


def stored(store_uri: str, folder: Path) -> dict[str, StoredRun]:
    """The sweep's runs in MLflow, by trial."""
    runs = stored_runs(store_uri)
    return {key.split("/", 1)[1]: run for key, run in runs.items() if key.startswith(f"{folder.name}/")}


def test_everything_that_a_dead_driver_left_arrives_with_its_true_end(
    tracker: MlflowTracker, store_uri: str, folder: Path
) -> None:
    leave(folder, "trials/a", range(5), FINISHED)
    leave(folder, "trials/b", range(3), Ended("FAILED", {}, "out of memory", 62_000))
    leave(folder, "summary", [0], Ended("FINISHED", {}, None, 63_000))
    open_one = leave(folder, "trials/c", range(4), None)
    os.utime(open_one.folder / MEASURED, (70, 70))
    never_ran = RunRecord(folder / "trials/d")
    start = never_ran.begin(Opened(f"{folder.name}/trials/d", "d", {}, 1_000))

    # 5, 3, 1 and 4 metrics, and parameters of four runs.
    assert sync(folder, lambda _: tracker) == SyncResult(num_runs=5, num_records=13 + 4)

    runs = stored(store_uri, folder)
    assert {trial: run.status for trial, run in runs.items()} == {
        "trials/a": "FINISHED",
        "trials/b": "FAILED",
        "trials/c": "KILLED",
        "trials/d": "KILLED",
        "summary": "FINISHED",
    }
    assert {trial: run.end_time_ms for trial, run in runs.items()} == {
        "trials/a": 61_000,
        "trials/b": 62_000,
        "trials/c": 70_000,
        "trials/d": start.start_time_ms,
        "summary": 63_000,
    }
    assert {trial: run.steps("train/loss") for trial, run in runs.items()} == {
        "trials/a": [0, 1, 2, 3, 4],
        "trials/b": [0, 1, 2],
        "trials/c": [0, 1, 2, 3],
        "trials/d": [],
        "summary": [0],
    }
    assert runs["trials/a"].tags["irtune.pruned"] == "False"
    assert runs["trials/a"].tags["irtune.sweep"] == folder.name
    assert runs["trials/b"].tags["irtune.error"] == "out of memory"
    assert {trial for trial, run in runs.items() if run.tags.get("irtune.killed_by") == "hard kill"} == {
        "trials/c",
        "trials/d",
    }
    assert runs["trials/d"].start_time_ms == start.start_time_ms
    assert unsent(folder) == []


def test_runs_are_sent_in_the_order_in_which_they_began(folder: Path) -> None:
    for trial, start_time_ms in (("trials/a", 30), ("summary", 40), ("trials/b", 10), ("trials/c", 20)):
        begin_at(leave(folder, trial, [], FINISHED), start_time_ms)
    assert [run_record.folder.name for run_record in unsent(folder)] == ["b", "c", "a", "summary"]


def test_a_second_time_nothing_is_sent_and_nothing_doubled(
    store_uri: str, tracker: MlflowTracker, folder: Path
) -> None:
    run_records = [leave(folder, "trials/a", range(5), FINISHED), leave(folder, "trials/b", range(3), None)]
    sync(folder, lambda _: tracker)
    before = stored(store_uri, folder)
    assert [len(run.points) for run in before.values()] == [10, 6]

    assert sync(folder, lambda _: tracker) == SyncResult()
    # Nor if it died before it could note that all was sent.
    for run_record in run_records:
        *others, sent = run_record.file.read_text().splitlines(keepends=True)
        assert json.loads(sent)["kind"] == "sent"
        run_record.file.write_text("".join(others))
    assert sync(folder, lambda _: MlflowTracker(store_uri, "irtune")) == SyncResult(num_runs=2, num_records=10)
    assert stored(store_uri, folder) == before


def test_what_was_written_later_is_sent_later(tracker: MlflowTracker, store_uri: str, folder: Path) -> None:
    leave(folder, "trials/a", range(3), None)
    sync(folder, lambda _: tracker)
    # A worker may outlive its driver for a moment.
    write(folder, "trials/a", range(3, 5))
    assert sync(folder, lambda _: tracker).num_runs == 1
    assert stored(store_uri, folder)["trials/a"].steps("train/loss") == [0, 1, 2, 3, 4]
    assert stored(store_uri, folder)["trials/a"].status == "KILLED"


def follow(tracker: MlflowTracker, folder: Path, trial: str) -> Uploader:
    """A driver that has sent all that is there, and dies when it is closed."""
    uploader = Uploader(tracker, interval_s=0.01)
    uploader.start()
    uploader.add(folder / trial, Opened(f"{folder.name}/{trial}", trial, {}, now_ms()))
    assert uploader.drain(20) == {}
    return uploader


def test_a_driver_that_goes_on_where_another_was_killed_doubles_no_point(store_uri: str, folder: Path) -> None:
    trial = "trials/a"
    first = write(folder, trial, range(8))
    follow(MlflowTracker(store_uri, "irtune"), folder, trial).close()
    started_ms = RunRecord(folder / trial).start().start_time_ms
    # Measured, but its driver was dead by then.
    first.metrics(8, {"train/loss": 1 / 9, "cost/step_s": 0.5})

    # The second driver resumes from the checkpoint of step 4.
    second = write(folder, trial, range(4, 12))
    follow(MlflowTracker(store_uri, "irtune"), folder, trial).close()
    # A worker of the first that was cut off, not killed, is seen late: these steps were sent from the second attempt.
    for step in (9, 10):
        first.metrics(step, {"train/loss": 1 / (step + 1), "cost/step_s": 0.5})

    # The third reads everything again from the beginning.
    write(folder, trial, range(10, 14))
    third = follow(MlflowTracker(store_uri, "irtune"), folder, trial)
    second.close()
    third.finish(f"{folder.name}/{trial}", "FINISHED", {})
    assert third.drain(20) == {}
    third.close()

    run = stored(store_uri, folder)[trial]
    assert run.steps("train/loss") == run.steps("cost/step_s") == list(range(14))
    assert (run.status, run.start_time_ms) == ("FINISHED", started_ms)
    assert unsent(folder) == []


def test_a_killed_run_can_go_on_and_finish(tracker: MlflowTracker, store_uri: str, folder: Path) -> None:
    leave(folder, "trials/a", range(3), None)
    sync(folder, lambda _: tracker)
    assert stored(store_uri, folder)["trials/a"].status == "KILLED"
    write(folder, "trials/a", range(2, 6))
    uploader = follow(tracker, folder, "trials/a")
    assert stored(store_uri, folder)["trials/a"].status == "RUNNING"
    uploader.finish(f"{folder.name}/trials/a", "FINISHED", {})
    assert uploader.drain(20) == {}
    uploader.close()
    assert stored(store_uri, folder)["trials/a"].status == "FINISHED"
    assert stored(store_uri, folder)["trials/a"].steps("train/loss") == list(range(6))


def test_an_end_that_only_mlflow_knows_stands(
    tracker: MlflowTracker, store_uri: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("No space left on device")

    trial = "trials/a"
    writer = write(folder, trial, range(3))
    uploader = follow(tracker, folder, trial)
    writer.close()
    with monkeypatch.context() as full:
        full.setattr(RunRecord, "_append", fail)
        uploader.finish(f"{folder.name}/{trial}", "FINISHED", {"irtune.pruned": True})
        assert uploader.drain(20) == {}
    uploader.close()
    before = stored(store_uri, folder)[trial]
    assert before.status == "FINISHED"
    assert RunRecord(folder / trial).end() is None

    assert sync(folder, lambda _: tracker).num_runs == 1
    assert stored(store_uri, folder)[trial] == before
    assert "irtune.killed_by" not in before.tags


def test_a_live_sweep_is_left_alone(tracker: MlflowTracker, store_uri: str, folder: Path) -> None:
    leave(folder, "trials/a", range(3), None)
    with Heartbeat(folder):
        assert sync(folder, lambda _: tracker) == SyncResult(is_live=True)
    assert stored(store_uri, folder) == {}
    assert RunRecord(folder / "trials/a").end() is None


class Refusing(MlflowTracker):
    """A tracker to which some runs cannot be sent."""

    def __init__(self, uri: str, refused: str) -> None:
        super().__init__(uri, "irtune")
        self.refused = refused
        self.tried: list[str] = []

    def start_run(self, start: Opened, **named: Any) -> str:
        self.tried.append(start.key[-1])
        if start.key[-1] in self.refused:
            raise MlflowException("http://me:secret@host is away")
        return super().start_run(start, **named)


def test_a_run_that_cannot_be_sent_is_named_and_holds_up_no_other(store_uri: str, folder: Path) -> None:
    for trial in "abc":
        leave(folder, f"trials/{trial}", range(2), FINISHED)
    (folder / "trials/a/driver.jsonl").write_text("{\n")
    result = sync(folder, lambda _: Refusing(store_uri, "b"))
    assert (result.num_runs, set(result.left)) == (1, {"a", "b"})
    assert str(folder / "trials/a/driver.jsonl") in result.left["a"]
    assert result.left["b"] == "http://***@host is away"
    assert "1 runs sent, 2 left (a: " in str(result)
    assert set(stored(store_uri, folder)) == {"trials/c"}


def test_an_absent_server_is_not_asked_for_every_run(store_uri: str, folder: Path) -> None:
    for trial in "abcdef":
        leave(folder, f"trials/{trial}", [], FINISHED)
    tracker = Refusing(store_uri, "abcdef")
    result = sync(folder, lambda _: tracker)
    assert len(tracker.tried) == 3
    assert set(result.left) == set("abcdef")


def test_time_is_bounded(store_uri: str, folder: Path) -> None:
    leave(folder, "trials/a", [], FINISHED)
    tracker = Refusing(store_uri, "")
    assert sync(folder, lambda _: tracker, timeout_s=0).left == {"a": "not tried for lack of time"}
    assert tracker.tried == []


def test_the_address_holds_no_login_and_any_path(tmp_path: Path) -> None:
    write_address(tmp_path / "s", "https://me:secret@host:5000/?token=hidden", "mine")
    written = (tmp_path / "s/tracking.json").read_text()
    assert "secret" not in written
    assert "hidden" not in written
    assert (read_address(tmp_path / "s").uri, read_address(tmp_path / "s").experiment) == ("https://host:5000/", "mine")
    write_address(tmp_path / "s", "sqlite:////home/me@work/mlflow.db", "mine")
    assert read_address(tmp_path / "s").uri == "sqlite:////home/me@work/mlflow.db"
    with refused(ValueError, "not the folder of a sweep", "tracking.json"):
        read_address(tmp_path)


def test_the_address_that_is_said_is_used_with_its_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tuple[str, str]] = []
    monkeypatch.setattr("irtune.tracking.outbox.check_tracking", lambda uri: None)
    monkeypatch.setattr("irtune.tracking.outbox.MlflowTracker", lambda *arguments: opened.append(arguments))
    write_address(tmp_path, "http://you:hidden@host:5000", "mine")
    open_tracker(tmp_path, "http://me:secret@host:5000")
    assert opened == [("http://me:secret@host:5000", "mine")]


def test_a_server_that_only_a_file_names_is_not_spoken_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("irtune.tracking.outbox.check_tracking", lambda uri: pytest.fail("it was asked"))
    write_address(tmp_path, "http://you:hidden@host:5000", "mine")
    with refused(ValueError, "belong to http://host:5000", "--tracking-uri http://host:5000"):
        open_tracker(tmp_path)


def test_a_database_that_is_a_link_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "theirs.db").touch()
    (tmp_path / "mlflow.db").symlink_to(tmp_path / "theirs.db")
    write_address(tmp_path / "s", f"sqlite:///{tmp_path}/mlflow.db", "irtune")
    with pytest.raises(ValueError, match=r"mlflow\.db is a link .*--tracking-uri"):
        open_tracker(tmp_path / "s")
    assert (tmp_path / "theirs.db").read_bytes() == b""


def test_a_database_that_is_gone_is_not_made_anew(tmp_path: Path) -> None:
    write_address(tmp_path / "s", f"sqlite:///{tmp_path}/gone.db", "irtune")
    with pytest.raises(ValueError, match=r"gone\.db is gone; .*--tracking-uri"):
        open_tracker(tmp_path / "s")
    assert not (tmp_path / "gone.db").exists()


def test_the_command_sends_what_lies_in_a_storage_folder(
    store_uri: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage, other = folder.parent, folder.parent / f"{folder.name}-other"
    write_address(other, store_uri, "irtune")
    (storage / "something else").mkdir()
    leave(folder, "trials/a", range(3), FINISHED)
    leave(other, "trials/a", range(2), None)
    assert find_sweeps([storage]) == [folder, other]

    assert main(["sync", str(storage)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{folder.name}: 1 runs with 4 records sent",
        f"{other.name}: 1 runs with 3 records sent",
    ]
    assert stored(store_uri, folder)["trials/a"].status == "FINISHED"
    assert stored(store_uri, other)["trials/a"].status == "KILLED"
    assert main(["sync", str(folder), str(other)]) == 0
    assert capsys.readouterr().out.splitlines() == [f"{one.name}: nothing to send" for one in (folder, other)]


@pytest.mark.parametrize("by", ["option", "environment"])
def test_the_command_takes_another_address(
    store_uri: str, folder: Path, by: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_address(folder, "http://127.0.0.1:9", "irtune")
    leave(folder, "trials/a", range(3), FINISHED)
    assert main(["sync", str(folder)]) == 1
    assert says(capsys.readouterr().out, "belong to http://127.0.0.1:9", "tracking.json")
    assert main(["sync", str(folder), "--tracking-uri", "http://127.0.0.1:9"]) == 1
    assert says(
        capsys.readouterr().out,
        f"{folder.name}: 0 runs sent, 1 left … {folder.name}: tracking.uri: http://127.0.0.1:9 cannot",
    )
    if by == "environment":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", store_uri)
    assert main(["sync", str(folder), *(["--tracking-uri", store_uri] if by == "option" else [])]) == 0
    assert stored(store_uri, folder)["trials/a"].status == "FINISHED"


def test_the_command_refuses_a_folder_without_sweeps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sync", str(tmp_path)]) == 2
    assert f"error: {tmp_path}: neither the folder of a sweep" in capsys.readouterr().err
