"""What a kept adapter predicts equals what its run found, whichever file the rows are in."""

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from saying import refused

from irtune.cli import main
from irtune.config.load import load
from irtune.config.schema import ExperimentConfig
from irtune.results import predict
from irtune.tracking import served_model
from irtune.tracking.mlflow_tracker import MlflowTracker
from irtune.tracking.run_record import Ended, Opened, RunRecord
from irtune.tracking.uploader import Uploader
from irtune.training.adapter_notes import AdapterFolderError, AdapterNotes
from irtune.training.predictor import Predictor
from irtune.training.record import NoRecorder, RecordWriter
from irtune.training.run import run

CLASSES = ["a", "b"]


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on a file of texts, some of which are cut, whose examples begin with an instruction."""
    folder = tmp_path_factory.mktemp("trial")
    draw = random.Random(0)
    for name, size in {"train": 32, "validation": 10, "test": 40}.items():
        words = [f"text {draw.randrange(10**6)} {'long ' * draw.randrange(12)}" for _ in range(size)]
        table = pd.DataFrame({"words": words, "kind": [CLASSES[i % 2] for i in range(size)]})
        table.to_csv(folder / f"{name}.csv", index=False)
    settings = {
        "model.name": "tiny-random",
        "model.max_length": 80,
        "data.name": "file",
        "data.path": str(folder / "train.csv"),
        "data.validation_path": str(folder / "validation.csv"),
        "data.test_path": str(folder / "test.csv"),
        "data.text_column": "words",
        "data.label_column": "kind",
        "data.instruction": "auto",
        "training.max_steps": 3,
        # Some adapters never train, and are passed over.
        "selection.policy.name": "static",
        "selection.policy.blocks": [1, 4],
        "training.learning_rate": 5e-2,
    }
    run(load(ExperimentConfig, None, settings), folder=folder, recorder=NoRecorder())
    return folder


@pytest.fixture
def found(trial: Path) -> np.ndarray:
    """The test probabilities that the run found."""
    with np.load(trial / "predictions.npz", allow_pickle=False) as arrays:
        return np.asarray(arrays["test_probabilities"])


def probabilities(table: pd.DataFrame) -> np.ndarray:
    return table[[f"probability/{label}" for label in CLASSES]].to_numpy()


def test_predictions_equal_those_of_the_run(
    trial: Path, found: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    read = {
        "p.csv": lambda file: pd.read_csv(file, float_precision="round_trip"),
        "p.jsonl": lambda file: pd.DataFrame(map(json.loads, file.open())),
        "p.parquet": pd.read_parquet,
    }
    for name, reader in read.items():
        assert main(["predict", str(trial), str(trial / "test.csv"), "--out", str(tmp_path / name)]) == 0
        table = reader(tmp_path / name)
        assert np.array_equal(probabilities(table), found)
        assert list(table["label"]) == [CLASSES[i] for i in found.argmax(axis=1)]
        assert table["id"][0] == "row:2"
    said = capsys.readouterr().out
    assert "rows cut to the 80 tokens" in said
    accuracy = (found.argmax(axis=1) == np.arange(40) % 2).mean()
    assert f"{accuracy:.3f}" in said.split("accuracy")[1]
    # The instruction is computed once a batch, as in the run.
    predictor = Predictor(trial / "adapter", "cpu")
    layers = predictor._model.base_model.model.model.layers
    assert [layer.self_attn.q_proj.disable_adapters for layer in layers] == [i not in (1, 4) for i in range(6)]
    assert predictor._prefix.sharing.evaluation == len(predictor.notes.shared_prefix) > 8


def test_a_model_in_mlflow_predicts_what_its_run_found(
    trial: Path, found: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, uri = tmp_path / "trial", f"sqlite:///{tmp_path}/mlflow.db"
    shutil.copytree(trial / "adapter", folder / "adapter")
    record = RunRecord(folder)
    record.begin(Opened("s/trial", "trial", {}, 1_000))
    RecordWriter(folder).result({"step": 3, "final": True})
    record.finish(Ended("FINISHED", {}, None, 2_000))
    record.add_artifact(folder / "adapter", "adapter", "letters")
    Uploader(MlflowTracker(uri, "irtune")).settle(record)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    client = mlflow.MlflowClient(uri)
    run_id = client.get_model_version_by_alias("letters", "champion").run_id
    for source in (str(run_id), "models:/letters@champion"):
        assert main(["predict", source, str(trial / "test.csv"), "--out", str(tmp_path / "p.parquet")]) == 0
        assert np.array_equal(probabilities(pd.read_parquet(tmp_path / "p.parquet")), found)
    assert main(["predict", "models:/letters@nobody", str(trial / "test.csv")]) == 2
    assert "nobody" in capsys.readouterr().err
    monkeypatch.setattr(served_model, "ROWS_AT_ONCE", 40)
    model = mlflow.pyfunc.load_model("models:/letters@champion", model_config={"device": "cpu"})
    table = pd.read_csv(trial / "test.csv")
    twice = model.predict(pd.concat([table, table]).drop(columns="kind"))
    assert list(twice.columns) == ["label", "probability/a", "probability/b"]
    assert np.array_equal(probabilities(twice), np.concatenate([found, found]))
    assert model.predict(table.head(0)).empty
    with pytest.raises(mlflow.MlflowException, match="words"):
        model.predict(table.drop(columns="words"))


def test_labels_are_not_needed_and_bad_rows_are_left_out_if_asked(
    trial: Path, found: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pd.read_csv(trial / "test.csv").drop(columns="kind").rename(columns={"words": "other"})
    table.to_json(tmp_path / "rows.jsonl", orient="records", lines=True)
    with (tmp_path / "rows.jsonl").open("a") as opened:
        opened.write('{"other": ""}\nno json\n')
    command = ["predict", str(trial / "adapter"), str(tmp_path / "rows.jsonl"), "data.text_column=other"]
    assert main(command) == 2
    told = capsys.readouterr()
    assert "rows.jsonl:41" in told.err
    assert "rows.jsonl:42" in told.err
    assert told.out == ""
    assert main([*command, "data.skip_bad_rows=true"]) == 0
    told = capsys.readouterr()
    assert "2 rows left out" in told.err
    assert "accuracy" not in told.err
    lines = [line.split(",") for line in told.out.splitlines()]
    assert np.array_equal([list(map(float, line[2:])) for line in lines[1:]], found)


def test_a_broken_run_leaves_no_file(trial: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict, "ROWS_AT_ONCE", 16)
    whole = Predictor.probabilities

    def breaks(self: Predictor, texts: list[tuple[str, ...]]) -> tuple[np.ndarray, int]:
        if len(texts) < 16:
            raise FloatingPointError("broken")
        return whole(self, texts)

    monkeypatch.setattr(Predictor, "probabilities", breaks)
    with pytest.raises(FloatingPointError):
        main(["predict", str(trial), str(trial / "test.csv"), "--out", str(tmp_path / "p.csv")])
    assert list(tmp_path.iterdir()) == []


def test_labels_that_the_model_does_not_know_are_named(
    trial: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pd.read_csv(trial / "test.csv").head(6)
    table["kind"] = ["a", "b", "c", "c", "d", None]
    table.to_csv(tmp_path / "some.csv", index=False)
    assert main(["predict", str(trial), str(tmp_path / "some.csv")]) == 0
    told = capsys.readouterr()
    assert "3 rows with a label that the model does not know ('c' and 'd'; it knows a, b)" in told.err
    assert "1 row without a label" in told.err
    assert "Scores of 2 labelled rows" in told.err
    assert len(told.out.splitlines()) == 7


@pytest.mark.parametrize(
    ("more", "names"),
    [
        (["training.max_steps=3"], "training.max_steps"),
        (["data.before_column=x", "data.text_column=null"], "data.text_column"),
        (["data.label_column=nope"], "data.label_column"),
        (["--out", "x.txt"], ".parquet"),
    ],
)
def test_what_does_not_fit_is_refused(
    more: list[str], names: str, trial: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(trial), str(trial / "test.csv"), *more]) == 2
    assert names in capsys.readouterr().err


def test_an_adapter_that_is_not_whole_is_refused(trial: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    shutil.copytree(trial / "adapter", adapter)
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with refused(AdapterFolderError, "adapter_model.safetensors", "pickled"):
        Predictor(adapter)
    notes = json.loads((adapter / "irtune.json").read_text())
    (adapter / "irtune.json").write_text(json.dumps({k: v for k, v in notes.items() if k != "shared_prefix"}))
    with refused(AdapterFolderError, "earlier version", "shared_prefix", "irtune train --from"):
        AdapterNotes.read(adapter)
    (adapter / "irtune.json").unlink()
    with refused(AdapterFolderError, "irtune.json"):
        Predictor(adapter)


def test_without_irtune_the_folder_predicts_the_same(trial: Path, found: np.ndarray, tmp_path: Path) -> None:
    adapter = tmp_path / "elsewhere"
    shutil.copytree(trial / "adapter", adapter)
    notes = AdapterNotes.read(adapter)
    texts = list(pd.read_csv(trial / "test.csv")["words"])
    whole = [i for i, text in enumerate(texts) if len(f"{notes.instruction}\n{text}") <= notes.max_length]
    assert 5 < len(whole) < 40
    code = (
        "import json, sys; sys.modules['irtune'] = None; sys.path.insert(0, sys.argv[1]); import predict; "
        "print(json.dumps([predict.LABELS, predict.predict(json.load(sys.stdin)).tolist()]))"
    )
    given = json.dumps([[texts[i]] for i in whole])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(adapter)],
        input=given,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
        timeout=560,
    )
    assert done.returncode == 0, done.stderr
    labels, predicted = json.loads(done.stdout.splitlines()[-1])
    assert labels == CLASSES
    np.testing.assert_allclose(predicted, found[whole], rtol=0, atol=1e-6)
    readme = (adapter / "README.md").read_text()
    assert f"{notes.instruction}\n{{text}}" in readme
    assert "python predict.py TEXT" in readme


def test_merged_into_its_model_it_predicts_the_same_without_peft(
    trial: Path, found: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "merged"
    assert main(["export", str(trial), str(out), "--merged"]) == 0
    assert str(out) in capsys.readouterr().out
    assert not list(out.glob("adapter*"))
    notes = AdapterNotes.read(trial / "adapter")
    texts = list(pd.read_csv(trial / "test.csv")["words"])
    whole = [i for i, text in enumerate(texts) if len(f"{notes.instruction}\n{text}") <= notes.max_length]
    code = (
        "import json, sys; sys.modules['irtune'] = sys.modules['peft'] = None; sys.path.insert(0, sys.argv[1]); "
        "import predict; print(json.dumps([predict.LABELS, predict.predict(json.load(sys.stdin)).tolist()]))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(out)],
        input=json.dumps([[texts[i]] for i in whole]),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
        timeout=560,
    )
    assert done.returncode == 0, done.stderr
    labels, predicted = json.loads(done.stdout.splitlines()[-1])
    assert labels == CLASSES
    np.testing.assert_allclose(predicted, found[whole], rtol=0, atol=1e-6)
    assert json.loads((out / "config.json").read_text())["id2label"] == dict(zip("01", CLASSES, strict=True))
    readme = (out / "README.md").read_text()
    assert "library_name: transformers" in readme
    assert f"{notes.instruction}\n{{text}}" in readme
    assert main(["export", str(trial), str(out), "--merged"]) == 2
    assert "is there already" in capsys.readouterr().err
