"""One model asked in every way that there is: command line, pyfunc, HTTP, and without irtune; the answers are equal."""

import json
import os
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from servers import BIN, free_ports, server
from sweeps import run_sweep

CLASSES = ["noun", "verb"]
COLUMNS = [f"probability/{label}" for label in CLASSES]
WITHOUT_IRTUNE = (
    "import json, sys; sys.modules['irtune'] = None; sys.path.insert(0, sys.argv[1]); import predict; import torch; "
    "torch.set_num_threads(int(sys.argv[2])); "
    "print(json.dumps([predict.predict([texts]).tolist()[0] for texts in json.load(sys.stdin)]))"
)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of texts of many lengths, which begin differently."""
    file = tmp_path_factory.mktemp("data") / "words.csv"
    texts = [f"{number * 7919 % 1000} {'is ' * (1 + number % 9)}the number" for number in range(120)]
    pd.DataFrame({"text": texts, "label": [CLASSES[number % 2] for number in range(120)]}).to_csv(file, index=False)
    return file


def ask(port: int, rows: pd.DataFrame) -> pd.DataFrame:
    """The answer of a served model."""
    body = json.dumps({"dataframe_split": rows.to_dict(orient="split")}).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/invocations", body, headers)
    with urllib.request.urlopen(request, timeout=120) as answer:
        return pd.DataFrame(json.load(answer)["predictions"])


def without_irtune(adapter: Path, rows: pd.DataFrame, threads: int) -> np.ndarray:
    """The answer of the adapter folder's own script, which is given one text at a time."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WITHOUT_IRTUNE, str(adapter), str(threads)],
        input=json.dumps([[text] for text in rows["text"]]),
        capture_output=True,
        text=True,
        check=False,
        timeout=560,
    )
    assert done.returncode == 0, done.stderr
    return np.array(json.loads(done.stdout.splitlines()[-1]))


def test_one_model_answers_alike_in_every_way(
    mlflow_server: str, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_sweep(
        tmp_path / "storage",
        "search_spaces/single_run.yaml",
        "name=words",
        "model={name: tiny-random}",
        f"data={{name: file, path: {table}, text_column: text}}",
        "training={max_steps: 6, eval_every: 3, learning_rate: 5.0e-2, eval_batch_size: 1}",
        "selection.reselect_every=3",
        "engine={threads_per_worker: 1, precision: fp32}",
        "tracking.register_winner=true",
        "tracking.system_metrics=true",
        job="train.py",
        MLFLOW_TRACKING_URI=mlflow_server,
    )
    assert run.status == 0, run.output
    assert "Registered models:/words@champion" in run.output
    run_id = _run_id(mlflow_server)
    measured = mlflow.MlflowClient(mlflow_server).get_run(run_id).data
    node = measured.tags["irtune.engine.node.rank_0"]
    assert measured.metrics[f"system/{node}/system_memory_usage_megabytes"] > 0

    source, rows = "models:/words@champion", pd.read_csv(table)[["text"]].head(40)
    rows.to_csv(tmp_path / "rows.csv", index=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    answers: dict[str, Any] = {}
    for name, asked in {"registered": source, "run": run_id, "study": str(run.folder)}.items():
        out = tmp_path / f"{name}.parquet"
        command = [sys.executable, "-m", "irtune.cli", "predict", asked, str(tmp_path / "rows.csv"), "--out", str(out)]
        subprocess.run(command, check=True, capture_output=True, timeout=560)
        answers[name] = pd.read_parquet(out)
    answers["pyfunc"] = mlflow.pyfunc.load_model(source).predict(rows)
    (port,) = free_ports(1)
    serve = [
        sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", source, "--env-manager", "local",
        "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
    ]  # fmt: skip
    # It starts uvicorn by its name.
    env = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"}
    with server(serve, f"http://127.0.0.1:{port}/ping", tmp_path / "serve.log", env):
        answers["http"] = ask(port, rows)
    probabilities = {name: answer[COLUMNS].to_numpy() for name, answer in answers.items()}
    copied = tmp_path / "elsewhere"
    shutil.copytree(run.folder / "trials" / "run" / "adapter", copied)
    probabilities["ten lines"] = without_irtune(copied, rows, threads=1)

    expected = probabilities["study"]
    assert len(np.unique(expected)) > 40
    assert {name: np.array_equal(found, expected) for name, found in probabilities.items()} == dict.fromkeys(
        probabilities, True
    )
    assert all(list(answer["label"]) == [CLASSES[i] for i in expected.argmax(axis=1)] for answer in answers.values())


def _run_id(mlflow_server: str) -> str:
    return str(mlflow.MlflowClient(mlflow_server).get_model_version_by_alias("words", "champion").run_id)
