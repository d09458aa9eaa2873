import errno
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from irtune.tracking.ledger import RunEnd, RunLedger, RunStart
from irtune.tracking.spool import SpoolWriter

END = RunEnd("FINISHED", {"irtune.pruned": "False"}, None, 61_000)
KILLED = RunEnd("KILLED", {}, None, 61_000)
DAMAGES = ("", "{", "[]", "null", '{"status": "FINISHED"}', '{"key": 5, "name": "n"}')


@pytest.fixture
def ledger(tmp_path: Path) -> RunLedger:
    return RunLedger(tmp_path / "trial")


def content(ledger: RunLedger, file: str) -> dict[str, object]:
    return dict(json.loads((ledger.folder / file).read_text()))


def test_what_is_known_of_a_run_is_plain_json(ledger: RunLedger) -> None:
    start = ledger.begin("s/a", "ir k=3", {"irtune.sweep": "s"}, "spool")
    ledger.finish(RunEnd("FAILED", {"x": "y"}, "out of memory", 61_000))
    ledger.mark_shipped("abc", "http://me:secret@host:5000", 12)
    assert content(ledger, "run.json") == {
        "key": "s/a",
        "name": "ir k=3",
        "tags": {"irtune.sweep": "s"},
        "start_time_ms": start.start_time_ms,
        "spool": "spool",
    }
    assert content(ledger, "end.json") == {
        "status": "FAILED",
        "tags": {"x": "y"},
        "error_text": "out of memory",
        "end_time_ms": 61_000,
    }
    assert content(ledger, "shipped.json") == {
        "run_id": "abc",
        "tracking_uri": "http://host:5000",
        "spool_bytes": 12,
    }
    assert {file.name for file in ledger.folder.iterdir()} == {"run.json", "end.json", "shipped.json"}


# Writing waits for the disk.
@settings(max_examples=25, deadline=None)
@given(text=st.text(), end_time_ms=st.integers(0, 2**62))
def test_an_end_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, text: str, end_time_ms: int
) -> None:
    ledger = RunLedger(tmp_path_factory.getbasetemp())
    end = RunEnd("FAILED", {text: text}, text, end_time_ms)
    ledger.finish(end)
    assert ledger.end() == end


def test_a_run_that_goes_on_keeps_its_start_and_forgets_that_it_was_killed(ledger: RunLedger) -> None:
    first = ledger.begin("s/a", "n", {"irtune.git_commit": "1"}, "spool")
    (ledger.folder / "run.json").write_text(json.dumps(content(ledger, "run.json") | {"start_time_ms": 5}))
    ledger.finish(KILLED)
    ledger.mark_shipped("abc", "sqlite:////x.db", 0)
    assert ledger.is_shipped()

    again = RunLedger(ledger.folder)
    start = again.begin("s/a", "n", {"irtune.git_commit": "2"}, "spool")
    assert start == RunStart("s/a", "n", {"irtune.git_commit": "2"}, 5, first.spool) == again.start()
    assert again.end() is None
    assert not again.is_shipped()


def test_a_true_end_outlives_a_new_beginning_but_its_mark_does_not(ledger: RunLedger) -> None:
    ledger.begin("s/a", "n", {}, "spool")
    ledger.finish(END)
    ledger.mark_shipped("abc", "sqlite:////x.db", 0)
    ledger.begin("s/a", "n", {}, "spool")
    assert ledger.end() == END
    assert not ledger.is_shipped()


def test_another_key_makes_another_run(ledger: RunLedger) -> None:
    ledger.begin("s/a", "n", {}, "spool")
    (ledger.folder / "run.json").write_text(json.dumps(content(ledger, "run.json") | {"start_time_ms": 5}))
    ledger.finish(END)
    assert ledger.begin("copy/a", "n", {}, "spool").start_time_ms > 5
    assert ledger.end() is None


def test_what_is_written_after_the_mark_is_not_shipped(ledger: RunLedger) -> None:
    ledger.begin("s/a", "n", {}, "spool")
    writer = SpoolWriter(ledger.spool(), 0)
    writer.metrics(0, {"loss": 1.0})
    ledger.mark_shipped("abc", "sqlite:////x.db", (ledger.spool() / "attempt_0.jsonl").stat().st_size)
    assert ledger.is_shipped()
    writer.metrics(1, {"loss": 1.0})
    assert not ledger.is_shipped()


@pytest.mark.parametrize("text", DAMAGES)
def test_a_damaged_file_is_named(ledger: RunLedger, text: str) -> None:
    ledger.begin("s/a", "n", {}, "spool")
    for file, read in (("run.json", ledger.start), ("end.json", ledger.end)):
        (ledger.folder / file).write_text(text)
        with pytest.raises(ValueError, match=rf"trial/{file}: is damaged \(.*delete it"):
            read()


@pytest.mark.parametrize("text", DAMAGES)
def test_a_run_goes_on_over_damaged_files(ledger: RunLedger, text: str, caplog: pytest.LogCaptureFixture) -> None:
    ledger.folder.mkdir()
    for file in ("run.json", "end.json", "shipped.json"):
        (ledger.folder / file).write_text(text)
    assert not ledger.is_shipped()
    start = ledger.begin("s/a", "n", {}, "spool")
    assert ledger.start() == start
    assert ledger.end() is None
    assert "run.json" in caplog.text


def test_a_write_that_fails_leaves_the_former_file_and_no_litter(
    ledger: RunLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    ledger.begin("s/a", "n", {}, "spool")
    ledger.finish(END)
    before = {file.name: file.read_bytes() for file in ledger.folder.iterdir()}
    with monkeypatch.context() as full:
        full.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="No space left"):
            ledger.finish(KILLED)
    assert {file.name: file.read_bytes() for file in ledger.folder.iterdir()} == before
