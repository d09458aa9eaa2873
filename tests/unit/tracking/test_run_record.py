import errno
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from irtune.tracking.run_record import RunEnd, RunRecord, RunStart
from irtune.tracking.spool import SpoolWriter

END = RunEnd("FINISHED", {"irtune.pruned": "False"}, None, 61_000)
KILLED = RunEnd("KILLED", {}, None, 61_000)
DAMAGES = ("", "{", "[]", "null", '{"status": "FINISHED"}', '{"key": 5, "name": "n"}')


@pytest.fixture
def run_record(tmp_path: Path) -> RunRecord:
    return RunRecord(tmp_path / "trial")


def content(run_record: RunRecord, file: str) -> dict[str, object]:
    return dict(json.loads((run_record.folder / file).read_text()))


def test_what_is_known_of_a_run_is_plain_json(run_record: RunRecord) -> None:
    start = run_record.begin("s/a", "ir k=3", {"irtune.sweep": "s"}, "spool")
    run_record.finish(RunEnd("FAILED", {"x": "y"}, "out of memory", 61_000))
    run_record.mark_shipped("abc", "http://me:secret@host:5000", 12)
    assert content(run_record, "run.json") == {
        "key": "s/a",
        "name": "ir k=3",
        "tags": {"irtune.sweep": "s"},
        "start_time_ms": start.start_time_ms,
        "spool": "spool",
    }
    assert content(run_record, "end.json") == {
        "status": "FAILED",
        "tags": {"x": "y"},
        "error_text": "out of memory",
        "end_time_ms": 61_000,
    }
    assert content(run_record, "shipped.json") == {
        "run_id": "abc",
        "tracking_uri": "http://host:5000",
        "spool_bytes": 12,
    }
    assert {file.name for file in run_record.folder.iterdir()} == {"run.json", "end.json", "shipped.json"}


# Writing waits for the disk.
@settings(max_examples=25, deadline=None)
@given(text=st.text(), end_time_ms=st.integers(0, 2**62))
def test_an_end_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, text: str, end_time_ms: int
) -> None:
    run_record = RunRecord(tmp_path_factory.getbasetemp())
    end = RunEnd("FAILED", {text: text}, text, end_time_ms)
    run_record.finish(end)
    assert run_record.end() == end


def test_a_run_that_goes_on_keeps_its_start_and_forgets_that_it_was_killed(run_record: RunRecord) -> None:
    first = run_record.begin("s/a", "n", {"irtune.git_commit": "1"}, "spool")
    (run_record.folder / "run.json").write_text(json.dumps(content(run_record, "run.json") | {"start_time_ms": 5}))
    run_record.finish(KILLED)
    run_record.mark_shipped("abc", "sqlite:////x.db", 0)
    assert run_record.is_shipped()

    again = RunRecord(run_record.folder)
    start = again.begin("s/a", "n", {"irtune.git_commit": "2"}, "spool")
    assert start == RunStart("s/a", "n", {"irtune.git_commit": "2"}, 5, first.spool) == again.start()
    assert again.end() is None
    assert not again.is_shipped()


def test_a_true_end_outlives_a_new_beginning_but_its_mark_does_not(run_record: RunRecord) -> None:
    run_record.begin("s/a", "n", {}, "spool")
    run_record.finish(END)
    run_record.mark_shipped("abc", "sqlite:////x.db", 0)
    run_record.begin("s/a", "n", {}, "spool")
    assert run_record.end() == END
    assert not run_record.is_shipped()


def test_another_key_makes_another_run(run_record: RunRecord) -> None:
    run_record.begin("s/a", "n", {}, "spool")
    (run_record.folder / "run.json").write_text(json.dumps(content(run_record, "run.json") | {"start_time_ms": 5}))
    run_record.finish(END)
    assert run_record.begin("copy/a", "n", {}, "spool").start_time_ms > 5
    assert run_record.end() is None


def test_what_is_written_after_the_mark_is_not_shipped(run_record: RunRecord) -> None:
    run_record.begin("s/a", "n", {}, "spool")
    writer = SpoolWriter(run_record.spool(), 0)
    writer.metrics(0, {"loss": 1.0})
    run_record.mark_shipped("abc", "sqlite:////x.db", (run_record.spool() / "attempt_0.jsonl").stat().st_size)
    assert run_record.is_shipped()
    writer.metrics(1, {"loss": 1.0})
    assert not run_record.is_shipped()


@pytest.mark.parametrize("text", DAMAGES)
def test_a_damaged_file_is_named(run_record: RunRecord, text: str) -> None:
    run_record.begin("s/a", "n", {}, "spool")
    for file, read in (("run.json", run_record.start), ("end.json", run_record.end)):
        (run_record.folder / file).write_text(text)
        with pytest.raises(ValueError, match=rf"trial/{file}: is damaged \(.*delete it"):
            read()


@pytest.mark.parametrize("text", DAMAGES)
def test_a_run_goes_on_over_damaged_files(run_record: RunRecord, text: str, caplog: pytest.LogCaptureFixture) -> None:
    run_record.folder.mkdir()
    for file in ("run.json", "end.json", "shipped.json"):
        (run_record.folder / file).write_text(text)
    assert not run_record.is_shipped()
    start = run_record.begin("s/a", "n", {}, "spool")
    assert run_record.start() == start
    assert run_record.end() is None
    assert "run.json" in caplog.text


def test_a_write_that_fails_leaves_the_former_file_and_no_litter(
    run_record: RunRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    run_record.begin("s/a", "n", {}, "spool")
    run_record.finish(END)
    before = {file.name: file.read_bytes() for file in run_record.folder.iterdir()}
    with monkeypatch.context() as full:
        full.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="No space left"):
            run_record.finish(KILLED)
    assert {file.name: file.read_bytes() for file in run_record.folder.iterdir()} == before
