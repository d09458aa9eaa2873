"""Planning with the real thing: a few steps in a process apart, nothing started, nothing left behind."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from sweeps import ROOT, SweepRun, run_sweep

from irtune.config.load import build, read_yaml
from irtune.config.schema import ExperimentConfig
from irtune.data.encode import encode_once
from irtune.training.cost import CostModel
from irtune.training.model import load_tokenizer, materialize, shapes_only
from irtune.training.run import NoRecorder, run
from irtune.training.workload import Workload
from irtune.tuning.plan import Plan


def test_a_plan_is_measured_and_leaves_nothing_behind(tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    planned = run_sweep(storage, "tests/support/tiny_sweep.yaml", "--plan", "tune.num_trials=7", COLUMNS="300")
    assert planned.status == 0, planned.output
    assert re.search(r"trials +8: the baseline and 7 of 15 configurations", planned.output)
    assert re.search(r"measured +\d+ steps of the real model on this machine", planned.output)
    assert re.search(r"memory +\d\S* GiB a worker \(measured\)", planned.output)
    assert re.search(r"about .* core-hours and .* FLOPs", planned.output)
    assert "mlflow.db, experiment irtune, which will be made" in planned.output
    assert not storage.exists()


def test_planning_starts_no_ray(tmp_path: Path) -> None:
    check = (
        "import sys; from irtune.cli import main; import ray, mlflow\n"
        "def refuse(*arguments, **options): raise SystemExit('Ray was started')\n"
        "ray.init = mlflow.MlflowClient = refuse\n"
        "sys.exit(main(['sweep', 'tests/support/tiny_sweep.yaml', '--plan', sys.argv[1]]))"
    )
    command = [sys.executable, "-c", check, f"storage={tmp_path}/storage"]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert finished.returncode == 0, finished.stderr


def test_a_mistake_is_told_before_anything_is_tried(tmp_path: Path) -> None:
    planned = run_sweep(tmp_path, "tests/support/tiny_sweep.yaml", "--plan", "selection.policy.k=9")
    assert planned.status == 2
    assert "selection.policy.k: 9 blocks asked for, the model has 6" in planned.output


def test_a_sweep_ends_with_predicted_and_actual(tiny_sweep: SweepRun) -> None:
    plan = Plan.read(tiny_sweep.folder)
    assert plan is not None
    assert plan.estimate.source == "measured"
    assert "Predicted and actual" in tiny_sweep.output
    table = (tiny_sweep.folder / "predicted.md").read_text()
    rows = {cells[1].strip(): cells[2:] for line in table.splitlines() if len(cells := line.split("|")) == 6}
    assert 0.5 < float(rows["memory of a worker"][2]) < 2
    assert float(rows["optimizer step of the baseline"][2]) > 0
    (summary,) = tiny_sweep.runs("summary")
    assert summary.data.metrics["predicted/sweep_s"] == pytest.approx(plan.expected.wall_s)
    assert summary.data.metrics["actual/sweep_s"] > 0
    assert {"plan.json", "predicted.md"} <= {
        file.path for file in tiny_sweep.client().list_artifacts(summary.info.run_id)
    }
    assert "predicted: the sweep, first trial to last" in (tiny_sweep.folder / "report.html").read_text()


@pytest.mark.parametrize(
    ("policy", "tolerance"),
    [({"name": "all"}, 0.02), ({"name": "top_k", "k": 6}, 0.02), ({"name": "top_k", "k": 2}, 0.2)],
)
def test_the_flops_of_a_run_are_known_before_it(tmp_path: Path, policy: dict[str, object], tolerance: float) -> None:
    tree = read_yaml(ROOT / "tests" / "support" / "tiny_sweep.yaml") | {
        "selection": {"policy": policy, "reselect_every": 3}
    }
    config = build(ExperimentConfig, {key: tree[key] for key in tree.keys() - {"space", "tune"}}, "x")
    checkpoint, dataset = materialize(config.model), config.data.load()
    encoded = encode_once(dataset, load_tokenizer(checkpoint), config.model.max_length, tmp_path / "encoded")
    cost = CostModel.of(shapes_only(checkpoint, config.adapter), recompute=False)
    work = Workload.of(config, cost, {split: part.lengths for split, part in encoded.items()})
    found = run(config, folder=tmp_path, recorder=NoRecorder(), dataset=dataset).metrics
    assert work.step_flops == pytest.approx(found["cost/mean_step_flops"], rel=tolerance)
