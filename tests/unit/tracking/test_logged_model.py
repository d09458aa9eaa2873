"""What a trial is in MLflow: one model a run, linked to its data, with its adapter where that is uploaded."""

import inspect
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities import LoggedModel
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from saying import refused
from stores import stored_runs

from irtune.tracking import uploader as uploader_module
from irtune.tracking.connection import TrackingError
from irtune.tracking.mlflow_tracker import MlflowTracker
from irtune.tracking.model_source import fetch_adapter
from irtune.tracking.run_record import Ended, Opened, RunRecord
from irtune.tracking.uploader import Uploader
from irtune.training.record import RecordReader, RecordWriter

NewKey = Callable[[], str]
NOTES = {
    "labels": ["yes", "no"],
    "kind": "pairs",
    "instruction": None,
    "template": "{before} {after}",
    "max_length": 32,
    "shared_prefix": [],
    "settings": {"data": {"name": "file", "before_column": "draft"}, "model": {"name": "tiny-random"}},
}
FINISHED = Ended("FINISHED", {}, None, 61_000)


def leave(
    folder: Path,
    key: str,
    f1: float,
    corpus: str = "essays",
    notes: Mapping[str, Any] = NOTES,
    *,
    register: str = "",
    uploads: bool = True,
) -> RunRecord:
    """A trial that finished with an adapter, as its records tell it; ``uploads`` says whether that is to be sent."""
    adapter = folder / "adapter"
    adapter.mkdir(parents=True)
    (adapter / "irtune.json").write_text(json.dumps(notes))
    (adapter / "adapter_model.safetensors").write_bytes(b"weights")
    (adapter / "elsewhere").symlink_to("/etc/hostname")
    record = RunRecord(folder)
    tags = {"irtune.sweep": "s", "irtune.data": corpus, "irtune.data.digest": f"digest of {corpus}"}
    record.begin(Opened(key, "top_k k=4", tags, 1_000))
    writer = RecordWriter(folder)
    writer.params({"selection.policy.k": 4})
    writer.metrics(3, {"eval/f1_macro": 0.1})
    if uploads:
        writer.artifact(adapter, "adapter")
    writer.metrics(0, {"final/test_f1_macro": f1, "cost/total_flops": 5.0})
    writer.result({"step": 3, "final": True, "final/test_f1_macro": f1})
    writer.close()
    record.finish(FINISHED)
    if register:
        record.add_artifact(adapter, "adapter", register)
    return record


def models_of(client: MlflowClient, uri: str, key: str) -> list[LoggedModel]:
    found = client.search_logged_models([client.get_experiment_by_name("irtune").experiment_id])  # type: ignore[union-attr]
    return [model for model in found if model.tags["irtune.key"] == key]


def noted(method: Callable[..., Any], calls: list[str]) -> Callable[..., Any]:
    """The method, which adds its name to ``calls``."""

    def call(*arguments: Any, **named: Any) -> Any:
        calls.append(method.__name__)
        return method(*arguments, **named)

    return call


@pytest.fixture(scope="module")
def client(store_uri: str, tracker: MlflowTracker) -> MlflowClient:
    return MlflowClient(store_uri)


def test_the_best_on_a_corpus_is_a_search_away(
    tracker: MlflowTracker, client: MlflowClient, new_key: NewKey, tmp_path: Path
) -> None:
    keys = [new_key() for _ in range(3)]
    corpora = ("essays", "essays", "letters")
    for number, (key, f1, corpus) in enumerate(zip(keys, (0.4, 0.7, 0.9), corpora, strict=True)):
        # The best one's adapter is not uploaded.
        Uploader(tracker).settle(leave(tmp_path / str(number), key, f1, corpus, uploads=number != 1))
    score = "metrics.final/test_f1_macro"
    best, second, *_ = client.search_logged_models(
        [tracker.experiment_id],
        datasets=[{"dataset_name": "essays", "dataset_digest": "digest of essays"}],
        order_by=[{"field_name": score, "ascending": False, "dataset_name": "essays"}],
    )
    assert [best.tags["irtune.key"], second.tags["irtune.key"]] == [keys[1], keys[0]]
    assert [best.tags["irtune.files"][:4], second.tags["irtune.files"]] == ["none", "adapter"]
    assert (best.name, best.status) == (second.name, second.status)
    assert best.tags.keys() == second.tags.keys()
    assert best.params == {"selection.policy.k": "4"}
    assert {(one.key, one.value, one.dataset_name, one.dataset_digest) for one in best.metrics or []} == {
        ("final/test_f1_macro", 0.7, "essays", "digest of essays"),
        ("cost/total_flops", 5.0, "essays", "digest of essays"),
    }
    assert best.source_run_id is not None
    outputs = client.get_run(best.source_run_id).outputs
    assert outputs is not None
    assert [output.model_id for output in outputs.model_outputs] == [best.model_id]


def test_a_model_says_what_it_reads_and_holds_no_pickle(
    tracker: MlflowTracker, client: MlflowClient, store_uri: str, new_key: NewKey, tmp_path: Path
) -> None:
    key = new_key()
    Uploader(tracker).settle(leave(tmp_path, key, 0.5))
    (model,) = models_of(client, store_uri, key)
    place = Path(unquote(model.artifact_location.removeprefix("file://")))
    described = Model.load(str(place))
    assert described.signature is not None
    assert described.signature.inputs.input_names() == ["draft", "after"]
    assert described.signature.outputs.input_names() == ["label", "probability/yes", "probability/no"]
    assert described.flavors["python_function"]["loader_module"] == "mlflow.pyfunc.loaders.code_model"
    example = described.load_input_example(str(place))
    assert list(example.columns) == ["draft", "after"]
    files = {file.relative_to(place).as_posix() for file in place.rglob("*") if file.is_file()}
    assert {"model_script.py", "artifacts/adapter/irtune.json", "artifacts/adapter/adapter_model.safetensors"} <= files
    assert not [file for file in files if file.endswith((".pkl", ".bin")) or "elsewhere" in file]
    assert "irtune==" in (place / "requirements.txt").read_text()
    (tmp_path / "copy").mkdir()
    for source in (f"models:/{model.model_id}", f"runs:/{model.source_run_id}", str(model.source_run_id)):
        found = fetch_adapter(source, store_uri, tmp_path / "copy")
        assert json.loads((found / "irtune.json").read_text()) == NOTES


def test_a_model_without_files_says_so_and_is_refused(
    tracker: MlflowTracker, client: MlflowClient, store_uri: str, new_key: NewKey, tmp_path: Path
) -> None:
    key = new_key()
    Uploader(tracker).settle(leave(tmp_path, key, 0.5, uploads=False))
    (model,) = models_of(client, store_uri, key)
    said = ("tracking.upload_adapters=all", f"irtune train --from {key.replace('/', ':')}")
    assert all(part in model.tags["irtune.files"] for part in said)
    with refused(TrackingError, f"models:/{model.model_id}", *said):
        fetch_adapter(f"models:/{model.model_id}", store_uri, tmp_path)
    with refused(TrackingError, str(model.source_run_id), "tracking.upload_adapters"):
        fetch_adapter(str(model.source_run_id), store_uri, tmp_path)
    with pytest.raises(MlflowException):
        mlflow.pyfunc.load_model(model.artifact_location)


@pytest.mark.parametrize("register", ["", "came-later"])
def test_an_adapter_that_comes_later_goes_into_the_same_model(
    tracker: MlflowTracker, client: MlflowClient, store_uri: str, new_key: NewKey, tmp_path: Path, register: str
) -> None:
    key = new_key()
    record = leave(tmp_path / "trial", key, 0.5, uploads=False)
    for _ in range(2):
        Uploader(tracker).settle(record)
    (before,) = models_of(client, store_uri, key)
    record.add_artifact(tmp_path / "trial" / "adapter", "adapter", register)
    for _ in range(2):
        Uploader(MlflowTracker(store_uri, "irtune")).settle(record)
    (model,) = models_of(client, store_uri, key)
    assert (model.model_id, model.status, model.tags["irtune.files"]) == (before.model_id, "READY", "adapter")
    assert len(model.metrics or []) == len(before.metrics or []) == 2
    assert len(client.get_run(str(model.source_run_id)).outputs.model_outputs) == 1  # type: ignore[union-attr]
    versions = client.search_model_versions(f"run_id = '{model.source_run_id}'")
    assert [version.name for version in versions] == ([register] if register else [])
    (tmp_path / "copy").mkdir()
    found = fetch_adapter(f"models:/{model.model_id}", store_uri, tmp_path / "copy")
    assert (found / "adapter_model.safetensors").read_bytes() == b"weights"


def test_an_adapter_that_is_gone_leaves_a_model_without_files_which_is_not_registered(
    tracker: MlflowTracker, client: MlflowClient, store_uri: str, new_key: NewKey, tmp_path: Path
) -> None:
    key = new_key()
    record = leave(tmp_path, key, 0.5, register="gone")
    shutil.rmtree(tmp_path / "adapter")
    Uploader(tracker).settle(record)
    (model,) = models_of(client, store_uri, key)
    assert (model.status, model.tags["irtune.files"][:4]) == ("READY", "none")
    assert client.search_registered_models("name = 'gone'") == []


@pytest.mark.parametrize("name", ["create_logged_model", "log_outputs", "finalize_logged_model"])
def test_an_answer_that_is_lost_makes_no_second_model(
    tracker: MlflowTracker,
    client: MlflowClient,
    store_uri: str,
    new_key: NewKey,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    key, call = new_key(), getattr(MlflowClient, name)
    lost: list[bool] = []

    def answer_lost(*arguments: Any, **named: Any) -> Any:
        answer = call(*arguments, **named)
        if not lost:
            lost.append(True)
            raise MlflowException("API request failed with exception")
        return answer

    monkeypatch.setattr(MlflowClient, name, answer_lost)
    monkeypatch.setattr(uploader_module, "_FIRST_DELAY_S", 0.02)
    record = leave(tmp_path, key, 0.5, uploads=False)
    uploader = Uploader(tracker, interval_s=0.02)
    uploader.resend(record)
    uploader.start()
    assert uploader.drain(20) == {}
    uploader.close()
    assert lost
    (model,) = models_of(client, store_uri, key)
    assert (model.status, len(model.metrics or [])) == ("READY", 2)
    assert len(client.get_run(str(model.source_run_id)).outputs.model_outputs) == 1  # type: ignore[union-attr]


def test_a_new_run_costs_four_requests_for_its_model_and_none_that_grows_with_them(
    tracker: MlflowTracker, new_key: NewKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = leave(tmp_path, new_key(), 0.5, uploads=False)
    calls: list[str] = []
    tracker.start_run(record.start(), is_new=True)
    tracker.send(record.start().key, RecordReader(tmp_path).poll())
    for name, method in inspect.getmembers(MlflowClient, inspect.isfunction):
        if not name.startswith("_"):
            monkeypatch.setattr(MlflowClient, name, noted(method, calls))
    tracker.finish(record.start().key, FINISHED)
    of_model = ["create_logged_model", "log_outputs", "log_batch", "finalize_logged_model"]
    assert calls == [*of_model, "set_terminated"]


def test_a_model_that_an_earlier_version_began_gets_its_files(
    tracker: MlflowTracker, client: MlflowClient, store_uri: str, new_key: NewKey, tmp_path: Path
) -> None:
    key = new_key()
    record = leave(tmp_path, key, 0.5)
    run_id = tracker.start_run(record.start())
    client.create_logged_model(tracker.experiment_id, "adapter", run_id, tags={"irtune.key": key})
    Uploader(tracker).settle(record)
    (model,) = models_of(client, store_uri, key)
    assert model.tags["irtune.files"] == "adapter"
    assert fetch_adapter(f"models:/{model.model_id}", store_uri, tmp_path).is_dir()


def test_a_trial_that_was_stopped_early_has_no_model(
    tracker: MlflowTracker, client: MlflowClient, store_uri: str, new_key: NewKey, tmp_path: Path
) -> None:
    key, record = new_key(), RunRecord(tmp_path)
    record.begin(Opened(key, "top_k k=4", {}, 1_000))
    writer = RecordWriter(tmp_path)
    writer.metrics(3, {"eval/f1_macro": 0.1})
    writer.close()
    record.finish(Ended("FINISHED", {"irtune.pruned": "true"}, None, 61_000))
    Uploader(tracker).settle(record)
    assert models_of(client, store_uri, key) == []


def test_an_upload_that_broke_off_is_ended_by_the_next_driver(
    store_uri: str, client: MlflowClient, new_key: NewKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any, **__: Any) -> None:
        raise MlflowException("API request failed with exception")

    key = new_key()
    record = leave(tmp_path, key, 0.5, register="broken-off")
    names = ("log_outputs", "finalize_logged_model", "log_model_artifacts", "set_logged_model_tags")
    for name in (*names, "create_model_version", "set_registered_model_alias"):
        uploader = Uploader(MlflowTracker(store_uri, "irtune"))
        with monkeypatch.context() as broken:
            broken.setattr(MlflowClient, name, away)
            with pytest.raises(MlflowException):
                uploader.settle(record)
        assert not record.is_sent()
    for _ in range(2):
        Uploader(MlflowTracker(store_uri, "irtune")).settle(record)
    (model,) = models_of(client, store_uri, key)
    assert model.status == "READY"
    assert record.is_sent()
    run = stored_runs(store_uri)[key]
    assert (run.steps("final/test_f1_macro"), run.steps("eval/f1_macro"), run.status) == ([0], [3], "FINISHED")
    assert len(model.metrics or []) == 2
    (version,) = client.search_model_versions("name = 'broken-off'")
    assert version.run_id == model.source_run_id
    assert json.loads(model.tags["mlflow.modelVersions"]) == [{"name": "broken-off", "version": 1}]


def test_a_killed_run_has_a_model_once_its_result_is_there(
    tracker: MlflowTracker, client: MlflowClient, store_uri: str, new_key: NewKey, tmp_path: Path
) -> None:
    key = new_key()
    record = leave(tmp_path, key, 0.5)
    whole = (tmp_path / "measured.jsonl").read_text()
    # It was killed before it had written its last line.
    (tmp_path / "measured.jsonl").write_text("".join(whole.splitlines(keepends=True)[:-1]))
    record.finish(Ended("KILLED", {}, None, 60_000))
    Uploader(tracker).settle(record)
    assert models_of(client, store_uri, key) == []
    (tmp_path / "measured.jsonl").write_text(whole)
    # Whoever sends what a dead driver left, and the driver that goes on, both tell MLflow.
    Uploader(tracker).settle(record)
    assert len(models_of(client, store_uri, key)) == 1
    record.finish(FINISHED)
    Uploader(tracker).settle(record)
    (model,) = models_of(client, store_uri, key)
    assert "final/test_f1_macro" in {one.key for one in model.metrics or []}


def test_the_last_that_is_registered_is_the_champion(
    tracker: MlflowTracker, client: MlflowClient, store_uri: str, new_key: NewKey, tmp_path: Path
) -> None:
    records = [leave(tmp_path / str(n), new_key(), 0.5, register="essay-classes") for n in range(2)]
    # The first is sent once more, as after a kill.
    for record in (*records, records[0]):
        Uploader(tracker).settle(record)
    assert len(client.search_model_versions("name = 'essay-classes'")) == 2
    champion = client.get_model_version_by_alias("essay-classes", "champion")
    second = models_of(client, store_uri, records[1].start().key)[0]
    assert (int(champion.version), champion.run_id) == (2, second.source_run_id)
    folder = fetch_adapter("models:/essay-classes@champion", store_uri, tmp_path)
    assert (folder / "adapter_model.safetensors").read_bytes() == b"weights"
    assert fetch_adapter("models:/essay-classes/1", store_uri, tmp_path).is_dir()


def test_an_adapter_of_which_no_model_can_be_made_goes_as_files(
    tracker: MlflowTracker,
    client: MlflowClient,
    store_uri: str,
    new_key: NewKey,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    key = new_key()
    Uploader(tracker).settle(leave(tmp_path, key, 0.5, notes={"labels": ["yes", "no"]}))
    (model,) = models_of(client, store_uri, key)
    assert model.tags["irtune.files"].startswith("none")
    assert "earlier version" in caplog.text
    run_id = tracker.start_run(Opened(key, "n", {}, 1_000))
    (folder,) = client.list_artifacts(run_id)
    assert folder.path == "adapter"
    (tmp_path / "copy").mkdir()
    found = fetch_adapter(run_id, store_uri, tmp_path / "copy")
    assert {file.name for file in found.iterdir()} == {"irtune.json", "adapter_model.safetensors"}


def test_what_is_not_there_is_said(
    tracker: MlflowTracker, client: MlflowClient, store_uri: str, new_key: NewKey, tmp_path: Path
) -> None:
    tags = {"irtune.trial_folder": "/storage/s/trials/a"}
    run_id = tracker.start_run(Opened(new_key(), "n", tags, 1_000))
    for source, parts in {
        run_id: ("tracking.upload_adapters", "/storage/s/trials/a"),
        f"runs:/{'0' * 32}": ("not found",),
        "models:/none@champion": ("none", "cannot be had"),
        "models:/a/b/c": ("names no model", "models:/NAME@champion"),
        f"models:/m-{'0' * 32}": ("not found",),
    }.items():
        with refused(TrackingError, source, *parts):
            fetch_adapter(source, store_uri, tmp_path)
    with refused(TrackingError, "no MLflow database", "MLFLOW_TRACKING_URI"):
        fetch_adapter(run_id, f"sqlite:///{tmp_path}/none.db", tmp_path)
