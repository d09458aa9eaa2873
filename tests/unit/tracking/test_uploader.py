import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from irtune.tracking import uploader as uploader_module
from irtune.tracking.mlflow_tracker import MlflowTracker
from irtune.tracking.run_record import DRIVER_RECORD, Opened, RunRecord, now_ms
from irtune.tracking.uploader import Uploader
from irtune.training.record import Record, RecordReader, RecordWriter

NewKey = Callable[[], str]


class Outage(MlflowTracker):
    """A tracker whose next calls fail, some of them after they took effect."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri, "irtune")
        self.num_failures = 0
        self.keys_that_always_fail: set[str] = set()
        self.sent_steps: list[int] = []

    def _fail_when_told(self, key: str) -> None:
        if self.num_failures > 0 or key in self.keys_that_always_fail:
            self.num_failures -= 1
            raise ConnectionError("http://me:secret@host is away")

    def start_run(self, start: Opened, **named: Any) -> str:
        self._fail_when_told(start.key)
        return super().start_run(start, **named)

    def send(self, key: str, records: Sequence[Mapping[str, Any]]) -> None:
        if self.num_failures == 1:
            super().send(key, records)
        self._fail_when_told(key)
        super().send(key, records)
        self.sent_steps += [record["step"] for record in records if record["kind"] == "metrics"]

    def finish(self, key: str, *arguments: Any, **named: Any) -> None:
        self._fail_when_told(key)
        super().finish(key, *arguments, **named)


@pytest.fixture
def tracker_with_outages(store_uri: str, tracker: MlflowTracker) -> Outage:
    return Outage(store_uri)


@pytest.fixture(autouse=True)
def _short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploader_module, "_FIRST_DELAY_S", 0.02)
    monkeypatch.setattr(uploader_module, "_LONGEST_DELAY_S", 0.05)


@pytest.fixture
def uploader(tracker_with_outages: Outage) -> Iterator[Uploader]:
    uploader = Uploader(tracker_with_outages, interval_s=0.05)
    uploader.start()
    yield uploader
    uploader.close()


def steps(client: MlflowClient, run_id: str) -> list[int]:
    return [point.step for point in client.get_metric_history(run_id, "loss")]


def run_ids(client: MlflowClient, tracker: MlflowTracker, key: str) -> list[str]:
    found = client.search_runs([tracker.experiment_id], f"tags.`irtune.key` = '{key}'")
    return [str(run.info.run_id) for run in found]


def test_an_outage_loses_nothing_repeats_nothing_and_keeps_the_order(
    uploader: Uploader, tracker_with_outages: Outage, store_uri: str, new_key: NewKey, trial_folder: Path
) -> None:
    client, key = MlflowClient(store_uri), new_key()
    writer = RecordWriter(trial_folder)
    for step in range(30):
        writer.metrics(step, {"loss": float(step)})
    tracker_with_outages.num_failures = 2
    uploader.add(trial_folder, Opened(key, "n", {"irtune.sweep": "s"}, now_ms()))
    assert uploader.drain(10) == {}
    tracker_with_outages.num_failures = 2
    for step in range(30, 40):
        writer.metrics(step, {"loss": float(step)})
    writer.close()
    uploader.finish(key, "FINISHED", {"irtune.pruned": False})
    assert uploader.drain(10) == {}

    (run_id,) = run_ids(client, tracker_with_outages, key)
    assert steps(client, run_id) == list(range(40))
    assert tracker_with_outages.sent_steps == list(range(40))
    assert client.get_run(run_id).info.status == "FINISHED"


def test_a_run_ends_only_after_its_last_record(
    uploader: Uploader, tracker: MlflowTracker, store_uri: str, new_key: NewKey, tmp_path: Path
) -> None:
    client = MlflowClient(store_uri)
    keys = [new_key() for _ in range(4)]
    for key in keys:
        uploader.add(tmp_path / key, Opened(key, "n", {}, now_ms()))
        writer = RecordWriter(tmp_path / key)
        for step in range(5):
            writer.metrics(step, {"loss": 0.0})
        writer.close()
        uploader.finish(key, "FAILED", {}, error_text="boom")
    assert uploader.drain(10) == {}
    for key in keys:
        (run_id,) = run_ids(client, tracker, key)
        assert client.get_run(run_id).info.status == "FAILED"
        assert steps(client, run_id) == [0, 1, 2, 3, 4]
    with pytest.raises(KeyError):
        uploader.finish(keys[0], "FAILED", {})


def test_what_is_left_is_counted(
    tracker_with_outages: Outage,
    new_key: NewKey,
    trial_folder: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    uploader = Uploader(tracker_with_outages, interval_s=0.02)
    uploader.start()
    key = new_key()
    tracker_with_outages.keys_that_always_fail = {key}
    writer = RecordWriter(trial_folder)
    for step in range(3):
        writer.metrics(step, {"loss": 0.0})
    uploader.add(trial_folder, Opened(key, "n", {}, now_ms()))
    uploader.finish(key, "FINISHED", {})

    started = time.monotonic()
    assert uploader.drain(0.3) == {key: 4}
    assert time.monotonic() - started < 5
    uploader.close()
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "http://***@host is away" in warnings[0].getMessage()


def test_a_run_that_always_fails_holds_up_no_other(
    uploader: Uploader, tracker_with_outages: Outage, store_uri: str, new_key: NewKey, tmp_path: Path
) -> None:
    bad, good = new_key(), new_key()
    tracker_with_outages.keys_that_always_fail = {bad}
    for key in (bad, good):
        RecordWriter(tmp_path / key).metrics(0, {"loss": 1.0})
        uploader.add(tmp_path / key, Opened(key, "n", {}, now_ms()))
    deadline = time.monotonic() + 5
    while good in uploader.drain(0.05) and time.monotonic() < deadline:
        pass
    assert uploader.drain(0.05) == {bad: 1}
    (run_id,) = run_ids(MlflowClient(store_uri), tracker_with_outages, good)
    assert steps(MlflowClient(store_uri), run_id) == [0]


def test_a_call_that_hangs_does_not_delay_a_drain(
    tracker: MlflowTracker, new_key: NewKey, trial_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    monkeypatch.setattr(tracker, "send", lambda key, records: release.wait(10))
    key = new_key()
    uploader = Uploader(tracker, interval_s=0.02)
    uploader.start()
    RecordWriter(trial_folder).metrics(0, {"loss": 1.0})
    uploader.add(trial_folder, Opened(key, "n", {}, now_ms()))
    assert uploader.drain(0.2) == {key: 1}
    release.set()
    assert uploader.drain(5) == {}
    uploader.close()


def test_what_the_driver_knows_is_on_disk_before_mlflow_hears_of_it(
    uploader: Uploader, tracker_with_outages: Outage, store_uri: str, new_key: NewKey, trial_folder: Path
) -> None:
    def last() -> dict[str, Any]:
        return dict(json.loads((trial_folder / DRIVER_RECORD).read_text().splitlines()[-1]))

    key = new_key()
    tracker_with_outages.keys_that_always_fail = {key}
    uploader.add(trial_folder, Opened(key, "n", {"irtune.sweep": "s"}, now_ms()))
    start = last()
    assert (start["key"], start["name"], start["tags"]) == (key, "n", {"irtune.sweep": "s"})
    uploader.finish(key, "FAILED", {"irtune.pruned": False}, error_text="no http://me:secret@host")
    end = last()
    assert (end["kind"], end["status"], end["tags"], end["error_text"]) == (
        "ended",
        "FAILED",
        {"irtune.pruned": "False"},
        "no http://***@host",
    )
    assert uploader.drain(0.2) == {key: 1}
    assert last() == end

    tracker_with_outages.keys_that_always_fail = set()
    assert uploader.drain(10) == {}
    run = MlflowClient(store_uri).get_run(last()["run_id"])
    assert run.data.tags["irtune.key"] == key
    assert (run.info.status, run.info.start_time, run.info.end_time) == (
        "FAILED",
        start["start_time_ms"],
        end["end_time_ms"],
    )


def test_a_record_that_cannot_be_written_costs_a_run_nothing(
    uploader: Uploader, tracker: MlflowTracker, store_uri: str, new_key: NewKey, tmp_path: Path
) -> None:
    # A file where the trial's folder should be: as on a full disk, nothing can be written there.
    (tmp_path / "trial").touch()
    key = new_key()
    uploader.add(tmp_path / "trial", Opened(key, "n", {}, now_ms()))
    uploader.finish(key, "FINISHED", {})
    assert uploader.drain(10) == {}
    (run_id,) = run_ids(MlflowClient(store_uri), tracker, key)
    assert MlflowClient(store_uri).get_run(run_id).info.status == "FINISHED"


def test_what_the_driver_made_of_a_trial_is_sent_after_what_it_measured_and_before_the_end(
    tracker: MlflowTracker, store_uri: str, new_key: NewKey, trial_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    send, finish = tracker.send, tracker.finish

    def noted(key: str, records: Sequence[Mapping[str, Any]]) -> None:
        calls.append([record["kind"] for record in records])
        send(key, records)

    monkeypatch.setattr(tracker, "send", noted)
    monkeypatch.setattr(tracker, "finish", lambda *end: (calls.append("end"), finish(*end)))
    key = new_key()
    uploader = Uploader(tracker, interval_s=0.02)
    uploader.add(trial_folder, Opened(key, "n", {}, now_ms()))
    writer = RecordWriter(trial_folder)
    writer.metrics(0, {"loss": 1.0})
    writer.result({"step": 0, "final": True})
    (trial_folder / "trace.png").write_bytes(b"picture")
    record = RunRecord(trial_folder)
    record.add_artifact(trial_folder / "trace.png", "trace")
    uploader.finish(key, "FINISHED", {})
    uploader.start()
    assert uploader.drain(10) == {}
    assert calls == [["metrics", "result"], ["artifact"], "end"]
    assert record.is_sent()

    # What it makes of it later is sent later, and does not change the end.
    end = record.end()
    (trial_folder / "adapter").mkdir()
    (trial_folder / "adapter" / "weights").touch()
    record.add_artifact(trial_folder / "adapter", "adapter")
    assert not record.is_sent()
    uploader.resend(record)
    assert uploader.drain(10) == {}
    uploader.close()
    assert record.is_sent()
    assert record.end() == end
    client = MlflowClient(store_uri)
    (run_id,) = run_ids(client, tracker, key)
    assert {file.path for file in client.list_artifacts(run_id)} == {"trace", "adapter"}
    assert client.get_run(run_id).info.end_time == end.end_time_ms


def test_an_artifact_that_comes_while_the_end_is_sent_is_not_taken_for_sent(
    tracker: MlflowTracker, new_key: NewKey, trial_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, record, finish = new_key(), RunRecord(trial_folder), tracker.finish
    monkeypatch.setattr(
        tracker, "finish", lambda *end: (record.add_artifact(trial_folder / "late.png", ""), finish(*end))
    )
    uploader = Uploader(tracker, interval_s=0.02)
    uploader.add(trial_folder, Opened(key, "n", {}, now_ms()))
    uploader.finish(key, "FINISHED", {})
    uploader.start()
    assert uploader.drain(10) == {}
    uploader.close()
    assert not record.is_sent()


@pytest.fixture
def polls(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folder of every look at what a trial measured."""
    looks: list[Path] = []
    poll = RecordReader.poll

    def counted(reader: RecordReader, limit: int | None = None) -> list[Record]:
        looks.append(reader._folder)
        return poll(reader, limit)

    monkeypatch.setattr(RecordReader, "poll", counted)
    return looks


def end_trials(uploader: Uploader, folder: Path, keys: Sequence[str]) -> None:
    for key in keys:
        uploader.add(folder / key, Opened(key, "n", {}, now_ms()), is_new=True)
        RecordWriter(folder / key).metrics(0, {"loss": 1.0})
        uploader.finish(key, "FINISHED", {})


def test_to_send_a_run_takes_as_many_looks_however_many_wait(
    tracker_with_outages: Outage, new_key: NewKey, tmp_path: Path, polls: list[Path]
) -> None:
    uploader = Uploader(tracker_with_outages, interval_s=60)
    keys = [new_key() for _ in range(30)]
    end_trials(uploader, tmp_path, keys)
    uploader.start()
    assert uploader.drain(30) == {}
    uploader.close()
    # Sent once, and once more to see that there is nothing left to send.
    assert max(polls.count(tmp_path / key) for key in keys) == 2


def test_a_new_run_is_not_searched_for_among_all_others_unless_a_call_failed(
    uploader: Uploader, tracker_with_outages: Outage, store_uri: str, new_key: NewKey, tmp_path: Path
) -> None:
    searched: list[str] = []
    find, start = tracker_with_outages._find, MlflowTracker.start_run

    def counted(key: str) -> Any:
        searched.append(key)
        return find(key)

    def answer_lost(opened: Opened, **named: Any) -> str:
        run_id = start(tracker_with_outages, opened, **named)
        if opened.key == lost and not searched:
            raise ConnectionError("the answer is lost")
        return run_id

    new, lost, old = new_key(), new_key(), new_key()
    tracker_with_outages._find = counted  # type: ignore[method-assign]
    tracker_with_outages.start_run = answer_lost  # type: ignore[method-assign]
    end_trials(uploader, tmp_path, [new, lost])
    uploader.add(tmp_path / old, Opened(old, "n", {}, now_ms()))
    assert uploader.drain(10) == {}
    assert sorted(searched) == sorted([lost, old])
    for key in (new, lost, old):
        assert len(run_ids(MlflowClient(store_uri), tracker_with_outages, key)) == 1
