"""Planning with the real thing: a few steps in a process apart, nothing started, nothing left behind."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from sweeps import ROOT, SweepRun, run_sweep

from irtune.tuning.plan import Plan


def test_a_plan_is_measured_and_leaves_nothing_behind(tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    planned = run_sweep(storage, "tests/support/tiny_sweep.yaml", "--plan", "tune.num_trials=7")
    assert planned.status == 0, planned.output
    assert re.search(r"trials +8: the baseline and 7 of 15 configurations", planned.output)
    assert re.search(r"measured +\d+ steps of the real model on this machine", planned.output)
    assert re.search(r"memory +0\.\d+ GiB a worker \(measured\)", planned.output)
    assert re.search(r"about .* core-hours and .* FLOPs", planned.output)
    assert "mlflow.db, experiment irtune, which will be made" in planned.output
    assert not storage.exists()


def test_planning_starts_no_ray() -> None:
    check = (
        "import sys; from irtune.cli import main; import ray, mlflow\n"
        "def refuse(*arguments, **options): raise SystemExit('Ray was started')\n"
        "ray.init = mlflow.MlflowClient = refuse\n"
        "sys.exit(main(['sweep', 'tests/support/tiny_sweep.yaml', '--plan']))"
    )
    run = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr


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
    # The same model does the same work: FLOPs differ only by what padding and policy do by chance.
    _, _, ratio, _ = rows["training FLOPs of such a trial"]
    assert 0.7 < float(ratio) < 1.4
    assert 0.5 < float(rows["memory of a worker"][2]) < 2
    (summary,) = tiny_sweep.runs("summary")
    assert summary.data.metrics["predicted/sweep_s"] == pytest.approx(plan.expected.wall_s)
    assert summary.data.metrics["actual/sweep_s"] > 0
    assert {"plan.json", "predicted.md"} <= {
        file.path for file in tiny_sweep.client().list_artifacts(summary.info.run_id)
    }
    assert "predicted: the sweep, first trial to last" in (tiny_sweep.folder / "report.html").read_text()
