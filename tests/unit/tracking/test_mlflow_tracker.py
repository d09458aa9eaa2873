import math
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import requests
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from servers import free_ports

from irtune.tracking.connection import TrackingError
from irtune.tracking.mlflow_tracker import MlflowTracker
from irtune.tracking.run_record import Ended, Opened
from irtune.training.record import Record, RecordReader, RecordWriter

NewKey = Callable[[], str]


@pytest.fixture(scope="module")
def client(store_uri: str, tracker: MlflowTracker) -> MlflowClient:
    return MlflowClient(store_uri)


def metrics(step: int, attempt: int = 0, time_ms: int | None = None, **values: float) -> Record:
    return {
        "kind": "metrics",
        "time_ms": 1000 + step + 100_000 * attempt if time_ms is None else time_ms,
        "step": step,
        "values": values,
        "attempt": attempt,
    }


def history(client: MlflowClient, run_id: str, key: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in client.get_metric_history(run_id, key)]


def artifacts(client: MlflowClient, run_id: str, folder: str | None = None) -> list[str]:
    return [item.path for item in client.list_artifacts(run_id, folder)]


def run_of(client: MlflowClient, run_id: str) -> Run:
    return client.get_run(run_id)


def test_a_record_arrives_whole(
    tracker: MlflowTracker, client: MlflowClient, new_key: NewKey, trial_folder: Path
) -> None:
    trial = trial_folder
    writer = RecordWriter(trial_folder)
    writer.params({f"group.name_{number}": number for number in range(250)})
    writer.tags({"irtune.strategy": "ir"})
    for step in range(700):
        writer.metrics(step, {"train/loss": 1 / (step + 1), "eval/accuracy@5": step})
    writer.metrics(0, {"bad/nan": math.nan})
    (trial / "layers.png").write_bytes(b"picture")
    (trial / "tables").mkdir()
    (trial / "tables" / "cells.json").write_text("{}")
    writer.artifact(trial / "layers.png", "trace")
    writer.artifact(trial / "tables", "tables")
    key = new_key()

    run_id = tracker.start_run(Opened(key, "ir k=17", {"irtune.sweep": "s"}, 123_000))
    tracker.send(key, RecordReader(trial_folder).poll())

    run = run_of(client, run_id)
    assert (run.info.run_name, run.info.status, run.info.start_time) == ("ir k=17", "RUNNING", 123_000)
    assert run.data.params == {f"group.name_{number}": str(number) for number in range(250)}
    assert {"irtune.sweep": "s", "irtune.strategy": "ir", "irtune.key": key}.items() <= run.data.tags.items()
    assert history(client, run_id, "train/loss") == [(step, 1 / (step + 1)) for step in range(700)]
    assert history(client, run_id, "eval/accuracy_5") == [(step, float(step)) for step in range(700)]
    assert math.isnan(run.data.metrics["bad/nan"])
    assert artifacts(client, run_id, "trace") == ["trace/layers.png"]
    assert artifacts(client, run_id, "tables") == ["tables/cells.json"]


def test_what_a_run_belongs_to_and_its_data_are_there_from_its_start(
    tracker: MlflowTracker, client: MlflowClient, new_key: Callable[[], str]
) -> None:
    tags = {"irtune.data": "argrewrite", "irtune.data.digest": "0123456789abcdef"}
    start = Opened(new_key(), "n", tags, 1000, {"irtune.cell": "few"})
    run_id = tracker.start_run(start)
    # As a driver does whose call failed, although it had taken effect.
    assert tracker.start_run(start) == run_id
    run = run_of(client, run_id)
    assert run.data.params == {"irtune.cell": "few"}
    ((name, digest),) = [(one.dataset.name, one.dataset.digest) for one in run.inputs.dataset_inputs]
    assert (name, digest) == ("argrewrite", "0123456789abcdef")


@pytest.mark.parametrize("forgets", [False, True], ids=["same driver", "new driver"])
def test_sending_the_same_records_twice_adds_nothing(
    store_uri: str, client: MlflowClient, new_key: NewKey, forgets: bool
) -> None:
    key, tracker = new_key(), MlflowTracker(store_uri, "irtune")
    params: Record = {"kind": "params", "values": {"a.b": "1"}}
    records = [params, *(metrics(step, loss=float(step)) for step in range(5)), metrics(5, loss=math.nan)]
    run_id = tracker.start_run(Opened(key, "n", {}, 1000))
    tracker.send(key, records)
    if forgets:
        tracker = MlflowTracker(store_uri, "irtune")
        assert tracker.start_run(Opened(key, "n", {}, 1000)) == run_id
    tracker.send(key, records)
    assert [step for step, _ in history(client, run_id, "loss")] == [0, 1, 2, 3, 4, 5]


def test_steps_that_a_resumed_attempt_repeats_are_kept_once(
    tracker: MlflowTracker, client: MlflowClient, new_key: NewKey
) -> None:
    key = new_key()
    run_id = tracker.start_run(Opened(key, "n", {}, 1000))
    tracker.send(key, [metrics(step, loss=1.0) for step in (0, 1, 2)])
    resumed: Record = {"kind": "resumed", "step": 1, "time_ms": 5, "attempt": 1}
    tracker.send(key, [resumed, *(metrics(step, attempt=1, loss=2.0) for step in (1, 2, 3))])
    assert history(client, run_id, "loss") == [(0, 1.0), (1, 1.0), (2, 1.0), (3, 2.0)]
    assert run_of(client, run_id).data.tags["irtune.resumed_at"] == "1"


def test_the_first_value_of_a_parameter_stands(tracker: MlflowTracker, client: MlflowClient, new_key: NewKey) -> None:
    key = new_key()
    run_id = tracker.start_run(Opened(key, "n", {}, 1000))
    tracker.send(key, [{"kind": "params", "values": {"workers": "2"}}])
    tracker.send(key, [{"kind": "params", "values": {"workers": "4", "other": "x" * 7000}}])
    params = run_of(client, run_id).data.params
    assert params["workers"] == "2"
    assert len(params["other"]) == 6000
    assert params["other"].endswith("(7000 characters, cut by irtune)")


@pytest.mark.parametrize(
    ("status", "tags", "error"),
    [
        ("FINISHED", {"irtune.pruned": "False"}, None),
        ("FINISHED", {"irtune.pruned": "True"}, None),
        ("FAILED", {}, "out of memory at http://me:secret@host " + "x" * 5000),
        ("KILLED", {}, None),
    ],
)
def test_a_run_ends_as_the_driver_says(
    tracker: MlflowTracker,
    client: MlflowClient,
    new_key: NewKey,
    status: Any,
    tags: dict[str, str],
    error: str | None,
) -> None:
    key = new_key()
    run_id = tracker.start_run(Opened(key, "n", {}, 1000))
    tracker.finish(key, Ended(status, tags, error, 61_000))
    run = run_of(client, run_id)
    assert (run.info.status, run.info.end_time) == (status, 61_000)
    assert tags.items() <= run.data.tags.items()
    assert ("irtune.error" in run.data.tags) == (error is not None)
    if error is not None:
        assert len(run.data.tags["irtune.error"]) == 4000
        assert run.data.tags["irtune.error"].startswith("out of memory at http://***@host")
        text = Path(client.download_artifacts(run_id, "error.txt")).read_text()
        assert text == error.replace("me:secret", "***")


def test_a_file_that_is_gone_is_reported_and_holds_up_nothing(
    tracker: MlflowTracker, client: MlflowClient, new_key: NewKey, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key = new_key()
    run_id = tracker.start_run(Opened(key, "n", {}, 1000))
    (tmp_path / "kept.txt").touch()
    gone, kept = (
        {"kind": "artifact", "time_ms": 1, "folder": str(tmp_path), "path": file, "artifact_folder": ""}
        for file in ("gone.txt", "kept.txt")
    )
    tracker.send(key, [gone, kept, metrics(0, loss=1.0)])
    assert artifacts(client, run_id) == ["kept.txt"]
    assert history(client, run_id, "loss") == [(0, 1.0)]
    assert "gone.txt" in caplog.text


@pytest.mark.parametrize(("status", "passes"), [(413, True), (403, False), (503, False)])
def test_an_upload_that_may_work_later_is_not_given_up(
    tracker: MlflowTracker,
    client: MlflowClient,
    new_key: NewKey,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    passes: bool,
) -> None:
    def refuse(*_: Any) -> None:
        response = requests.Response()
        response.status_code = status
        raise requests.HTTPError(response=response)

    key = new_key()
    run_id = tracker.start_run(Opened(key, "n", {}, 1000))
    (tmp_path / "file").touch()
    record: Record = {
        "kind": "artifact",
        "time_ms": 1,
        "folder": str(tmp_path),
        "path": "file",
        "artifact_folder": "",
    }
    with monkeypatch.context() as broken:
        broken.setattr(MlflowClient, "log_artifact", refuse)
        with nullcontext() if passes else pytest.raises(requests.HTTPError):
            tracker.send(key, [record])
    tracker.send(key, [record])
    assert artifacts(client, run_id) == ([] if passes else ["file"])


def test_points_that_did_not_get_through_can_be_sent_again(
    tracker: MlflowTracker, client: MlflowClient, new_key: NewKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise MlflowException("API request failed with exception")

    key = new_key()
    run_id = tracker.start_run(Opened(key, "n", {}, 1000))
    with monkeypatch.context() as broken:
        broken.setattr(MlflowClient, "log_batch", fail)
        with pytest.raises(MlflowException):
            tracker.send(key, [metrics(0, loss=1.0)])
    tracker.send(key, [metrics(0, loss=1.0)])
    assert history(client, run_id, "loss") == [(0, 1.0)]


def test_a_run_that_somebody_deleted_is_reported_and_let_go(
    tracker: MlflowTracker, client: MlflowClient, new_key: NewKey, caplog: pytest.LogCaptureFixture
) -> None:
    key = new_key()
    client.delete_run(tracker.start_run(Opened(key, "n", {}, 1000)))
    tracker.send(key, [metrics(0, loss=1.0)])
    tracker.finish(key, Ended("FINISHED", {"irtune.pruned": "False"}, None, 61_000))
    assert "stays in the run's folder only" in caplog.text
    with pytest.raises(KeyError):
        tracker.send(key, [])


def test_artifacts_lie_next_to_the_database(
    tracker: MlflowTracker, client: MlflowClient, new_key: NewKey, store_uri: str
) -> None:
    location = run_of(client, tracker.start_run(Opened(new_key(), "n", {}, 1000))).info.artifact_uri
    root = Path(store_uri.removeprefix("sqlite:///")).parent / "mlartifacts"
    assert location is not None
    assert location.startswith(root.as_uri())


def test_an_experiment_in_the_bin_is_refused(store_uri: str, client: MlflowClient) -> None:
    client.delete_experiment(MlflowTracker(store_uri, "binned").experiment_id)
    with pytest.raises(TrackingError, match=r"tracking\.experiment: 'binned' was deleted"):
        MlflowTracker(store_uri, "binned")


def test_a_server_that_may_be_away_is_asked_only_when_it_is_needed() -> None:
    tracker = MlflowTracker(f"http://127.0.0.1:{free_ports(1)[0]}", "irtune", may_be_away=True)
    with pytest.raises(MlflowException, match="refused"):
        tracker.start_run(Opened("key", "n", {}, 1000))


def test_no_run_is_active_in_the_process(tracker: MlflowTracker, new_key: NewKey) -> None:
    import mlflow

    tracker.start_run(Opened(new_key(), "n", {}, 1000))
    assert mlflow.active_run() is None
