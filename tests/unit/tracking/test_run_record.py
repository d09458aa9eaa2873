import errno
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from irtune.tracking.run_record import DRIVER_RECORD, FOLDER_TAG, Ended, Opened, RunRecord
from irtune.training.record import RecordWriter, size_bytes

END = Ended("FINISHED", {"irtune.pruned": "False"}, None, 61_000)
KILLED = Ended("KILLED", {}, None, 61_000)
DAMAGES = (
    "",
    "{",
    "[]",
    "null",
    "{}",
    '{"kind": "ended", "status": "FINISHED"}',
    '{"kind": "opened", "key": 5, "name": "n"}',
    '{"kind": "artifact", "time_ms": 1}',
    '{"kind": "sent"}',
)


@pytest.fixture
def record(tmp_path: Path) -> RunRecord:
    return RunRecord(tmp_path / "trial")


def events(record: RunRecord) -> list[dict[str, Any]]:
    return [json.loads(line) for line in record.file.read_text().splitlines()]


def begin_at(record: RunRecord, start_time_ms: int) -> None:
    """Have the run begun at another time, as the first line says."""
    first, *others = events(record)
    lines = [first | {"start_time_ms": start_time_ms}, *others]
    record.file.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_what_is_known_of_a_run_is_a_line_for_each_event(record: RunRecord) -> None:
    start = record.begin(Opened("s/a", "ir k=3", {"irtune.sweep": "s"}, 1_000))
    record.add_artifact(record.folder / "trace" / "map.png", "trace")
    record.finish(Ended("FAILED", {"x": "y"}, "out of memory", 61_000))
    record.mark_sent("abc", "http://me:secret@host:5000", 12, 1)
    written = events(record)
    assert all(event.pop("time_ms") >= start.start_time_ms for event in written)
    assert written == [
        {
            "kind": "opened",
            "key": "s/a",
            "name": "ir k=3",
            "tags": {"irtune.sweep": "s"},
            "start_time_ms": start.start_time_ms,
            "params": {},
        },
        {"kind": "artifact", "path": "trace/map.png", "artifact_folder": "trace"},
        {
            "kind": "ended",
            "status": "FAILED",
            "tags": {"x": "y"},
            "error_text": "out of memory",
            "end_time_ms": 61_000,
        },
        {"kind": "sent", "run_id": "abc", "tracking_uri": "http://host:5000", "num_bytes": 12, "num_artifacts": 1},
    ]
    assert {file.name for file in record.folder.iterdir()} == {DRIVER_RECORD}


# Writing waits for the disk.
@settings(max_examples=25, deadline=None)
@given(text=st.text(), end_time_ms=st.integers(0, 2**62))
def test_an_end_is_read_as_it_was_written(text: str, end_time_ms: int) -> None:
    end = Ended("FAILED", {text: text}, text, end_time_ms)
    with tempfile.TemporaryDirectory() as folder:
        RunRecord(Path(folder)).finish(end)
        assert RunRecord(Path(folder)).end() == end


def test_a_run_that_goes_on_keeps_its_start_and_forgets_that_it_was_killed(record: RunRecord) -> None:
    record.begin(Opened("s/a", "n", {"irtune.git_commit": "1"}, 1_000))
    begin_at(record, 5)
    record.finish(KILLED)
    record.mark_sent("abc", "sqlite:////x.db", 0, 0)
    assert record.is_sent()

    again = RunRecord(record.folder)
    start = again.begin(Opened("s/a", "n", {"irtune.git_commit": "2"}, 1_000))
    assert start == Opened("s/a", "n", {"irtune.git_commit": "2"}, 5) == again.start()
    assert again.end() is None
    assert not again.is_sent()


def test_a_true_end_outlives_a_new_beginning_but_its_mark_does_not(record: RunRecord) -> None:
    record.begin(Opened("s/a", "n", {}, 1_000))
    record.finish(END)
    record.mark_sent("abc", "sqlite:////x.db", 0, 0)
    record.begin(Opened("s/a", "n", {}, 1_000))
    assert record.end() == END
    assert not record.is_sent()


def test_another_key_makes_another_run(record: RunRecord) -> None:
    record.begin(Opened("s/a", "n", {}, 1_000))
    begin_at(record, 5)
    record.add_artifact(record.folder / "map.png", "")
    record.finish(END)
    assert record.begin(Opened("copy/a", "n", {}, 1_000)).start_time_ms > 5
    assert record.end() is None
    assert record.artifacts() == []


def test_what_is_measured_after_the_mark_is_not_sent(record: RunRecord) -> None:
    record.begin(Opened("s/a", "n", {}, 1_000))
    writer = RecordWriter(record.folder)
    writer.metrics(0, {"loss": 1.0})
    record.mark_sent("abc", "sqlite:////x.db", size_bytes(record.folder), 0)
    assert record.is_sent()
    writer.metrics(1, {"loss": 1.0})
    assert not record.is_sent()


def test_after_a_later_event_a_run_is_not_sent(record: RunRecord) -> None:
    assert not record.is_sent()
    for later in (
        lambda: record.begin(Opened("s/a", "n", {}, 1_000)),
        lambda: record.add_artifact(record.folder / "map.png", ""),
        lambda: record.finish(END),
    ):
        later()
        assert not record.is_sent()
        record.mark_sent("abc", "sqlite:////x.db", 0, len(record.artifacts()))
        assert record.is_sent()
    # One that came while the others were sent.
    record.mark_sent("abc", "sqlite:////x.db", 0, 0)
    assert not record.is_sent()


def test_an_artifact_is_found_after_the_storage_has_moved(tmp_path: Path) -> None:
    record = RunRecord(tmp_path / "here" / "trial")
    record.add_artifact(record.folder / "trace" / "map.png", "trace")
    with pytest.raises(ValueError, match="lies outside of"):
        record.add_artifact(tmp_path / "elsewhere.txt", "")
    moved = (tmp_path / "here").rename(tmp_path / "there") / "trial"
    (artifact,) = RunRecord(moved).artifacts()
    assert (artifact["folder"], artifact["path"]) == (str(moved), "trace/map.png")


def test_a_run_lies_where_its_record_does(tmp_path: Path) -> None:
    folder = tmp_path / "here" / "a"
    RunRecord(folder).begin(Opened("s/a", "n", {FOLDER_TAG: str(folder), "b": "c"}, 1))
    moved = (tmp_path / "here").rename(tmp_path / "there") / "a"
    assert RunRecord(moved).start().tags == {FOLDER_TAG: str(moved), "b": "c"}


def test_a_last_line_torn_at_any_byte_is_passed_over_and_cut_off(record: RunRecord) -> None:
    record.begin(Opened("s/a", "n", {}, 1_000))
    whole = record.file.read_bytes()
    record.finish(END)
    line = record.file.read_bytes()[len(whole) :]
    for length in range(len(line)):
        record.file.write_bytes(whole + line[:length])
        assert record.end() is None
        assert record.start().key == "s/a"
        record.finish(KILLED)
        assert record.end() == KILLED
        assert [event["kind"] for event in events(record)] == ["opened", "ended"]


@pytest.mark.parametrize("text", DAMAGES)
def test_a_damaged_file_is_named(record: RunRecord, text: str) -> None:
    record.begin(Opened("s/a", "n", {}, 1_000))
    with record.file.open("a") as file:
        file.write(f"{text}\n")
    for read in (record.start, record.end, record.artifacts):
        with pytest.raises(ValueError, match=rf"trial/{DRIVER_RECORD}: is damaged \(line 2.*delete it"):
            read()
    assert not record.is_sent()


def test_a_file_that_does_not_say_how_the_run_was_opened_is_damaged(record: RunRecord) -> None:
    record.finish(END)
    with pytest.raises(ValueError, match=rf"trial/{DRIVER_RECORD}: is damaged"):
        record.start()


@pytest.mark.parametrize("text", DAMAGES)
def test_a_run_goes_on_over_a_damaged_file(record: RunRecord, text: str, caplog: pytest.LogCaptureFixture) -> None:
    record.folder.mkdir()
    record.file.write_text(f"{text}\n")
    start = record.begin(Opened("s/a", "n", {}, 1_000))
    assert record.start() == start
    assert record.end() is None
    assert DRIVER_RECORD in caplog.text
    assert record.file.with_name(f"{DRIVER_RECORD}.damaged").read_text() == f"{text}\n"


def test_a_write_that_fails_leaves_the_file_as_it_was(record: RunRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    record.begin(Opened("s/a", "n", {}, 1_000))
    record.finish(END)
    before = {file.name: file.read_bytes() for file in record.folder.iterdir()}
    with monkeypatch.context() as full:
        full.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="No space left"):
            record.finish(KILLED)
    assert {file.name: file.read_bytes() for file in record.folder.iterdir()} == before
