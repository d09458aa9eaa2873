"""``ray job submit`` against a running cluster: the same sweep, with results where they outlive the job."""

import json
import time
from pathlib import Path

import mlflow
import pandas as pd
from kept_scores import assert_scores_are_those_of_the_predictions
from servers import Cluster

# The real model and the quickstart's space, as short as it can be.
SHORT = (
    "training.max_steps=4", "training.eval_every=2", "tune.scheduler=null", "tune.num_trials=2",
    "data.max_train=64", "data.max_validation=16", "data.max_test=16",
)  # fmt: skip


def submit(
    cluster: Cluster, mlflow_server: str, *arguments: str, job_id: str, wait: bool = True, job: str = "jobs/sweep.py"
) -> tuple[int, str]:
    environment = json.dumps({"env_vars": {"MLFLOW_TRACKING_URI": mlflow_server}})
    finished = cluster.job(
        "submit", "--working-dir", ".", "--runtime-env-json", environment, "--submission-id", job_id,
        *(() if wait else ("--no-wait",)), "--", "python", job, *arguments,
    )  # fmt: skip
    return finished.returncode, finished.stdout + finished.stderr


def runs_of(mlflow_server: str, name: str) -> list[mlflow.entities.Run]:
    client = mlflow.MlflowClient(mlflow_server)
    experiment = client.get_experiment_by_name("irtune")
    found = client.search_runs([experiment.experiment_id]) if experiment else []
    return [run for run in found if run.data.tags["irtune.sweep"].startswith(name)]


def test_a_submitted_sweep_leaves_its_results_outside_the_job(
    cluster: Cluster, mlflow_server: str, tmp_path: Path
) -> None:
    status, output = submit(
        cluster, mlflow_server, "search_spaces/quickstart.yaml", f"storage={tmp_path}", "name=submitted", *SHORT,
        job_id="whole",
    )  # fmt: skip
    assert status == 0, output[-5000:]
    assert "\nAnswer " in output
    runs = runs_of(mlflow_server, "submitted")
    trials = [run for run in runs if run.data.tags["irtune.kind"] == "trial"]
    assert len(trials) == 3
    assert {run.info.status for run in runs} == {"FINISHED"}
    for run in trials:
        assert run.data.params["model.name"] == "smollm2-135m"
        client, run_id = mlflow.MlflowClient(mlflow_server), run.info.run_id
        names = {file.path for file in client.list_artifacts(run_id)}
        assert {"layer_importance", "predictions.npz"} <= names
        models = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run_id}'")
        assert [model.status for model in models] == ["READY"]
        kept = client.download_artifacts(run_id, "predictions.npz", str(tmp_path))
        assert_scores_are_those_of_the_predictions(run.data.metrics, Path(kept))
    copies = [path for path in cluster.temp.glob("session_*/runtime_resources/working_dir_files/*") if path.is_dir()]
    assert copies
    made = [path for copy in copies for path in copy.rglob("*") if path.suffix in {".db", ".npz", ".journal", ".jsonl"}]
    assert made == []


def test_a_job_refuses_relative_stores_and_paths(cluster: Cluster, mlflow_server: str) -> None:
    status, output = submit(
        cluster, mlflow_server, "search_spaces/argrewrite_smoke.yaml", "storage=results", "data.path=corpus",
        job_id="relative",
    )  # fmt: skip
    assert status != 0
    assert "storage: 'results' is relative" in output
    assert "data.path=/shared/corpus" in output


def test_stopping_a_job_marks_its_runs_killed(cluster: Cluster, mlflow_server: str, tmp_path: Path) -> None:
    submit(
        cluster, mlflow_server, "search_spaces/quickstart.yaml", f"storage={tmp_path}", "name=stopped",
        "training.max_steps=500", job_id="stopped", wait=False,
    )  # fmt: skip
    deadline = time.monotonic() + 480
    while not any("train/loss" in run.data.metrics for run in runs_of(mlflow_server, "stopped")):
        assert time.monotonic() < deadline, cluster.job("logs", "stopped").stdout[-5000:]
        time.sleep(2)
    assert cluster.job("stop", "stopped").returncode == 0
    runs = runs_of(mlflow_server, "stopped")
    assert {run.info.status for run in runs} == {"KILLED"}, [run.info.status for run in runs]


def test_a_submitted_ablation_leaves_its_tables_outside_the_job(
    cluster: Cluster, mlflow_server: str, tmp_path: Path
) -> None:
    status, output = submit(
        cluster, mlflow_server, "tests/support/tiny_ablation.yaml", f"storage={tmp_path}", "name=compared",
        job_id="compared", job="jobs/ablate.py",
    )  # fmt: skip
    assert status == 0, output[-5000:]
    (folder,) = tmp_path.glob("compared-*")
    assert len(pd.read_parquet(folder / "results" / "trials.parquet")) == 8
    runs = runs_of(mlflow_server, "compared")
    assert {run.info.status for run in runs} == {"FINISHED"}
    (summary,) = [run for run in runs if run.data.tags["irtune.kind"] == "summary"]
    names = {file.path for file in mlflow.MlflowClient(mlflow_server).list_artifacts(summary.info.run_id, "results")}
    assert {"results/cells.tex", "results/cells.parquet", "results/cells.pdf"} <= names
