"""Planning with the real thing: a few steps in a process apart, nothing started, nothing left behind."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from saying import says
from sweeps import ROOT, SweepRun

from irtune.cli import main
from irtune.config.load import build, read_yaml
from irtune.config.schema import ExperimentConfig
from irtune.data.common_tokens import common_tokens
from irtune.data.encode import encode
from irtune.studies.forecast import Trial
from irtune.training.cost import CostModel
from irtune.training.model import shapes_only
from irtune.training.pretrained import materialize
from irtune.training.record import NoRecorder
from irtune.training.run import run
from irtune.training.shared_prefix import sharing_of
from irtune.training.tokenizer import load_tokenizer

NEITHER_RAY_NOR_MLFLOW = """
import sys, ray, mlflow
from irtune.cli import main

def refuse(*arguments, **options):
    raise SystemExit("something was started")

ray.init = mlflow.MlflowClient = refuse
sys.exit(main(["sweep", "tests/support/tiny_sweep.yaml", "--plan", "tune.num_trials=7", sys.argv[1]]))
"""


def test_a_plan_is_measured_starts_nothing_and_leaves_nothing_behind(tmp_path: Path) -> None:
    # Of its own: what another test leaves for a moment is not this one's.
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    environment = os.environ | {"TMPDIR": str(temporary)}
    command = [sys.executable, "-c", NEITHER_RAY_NOR_MLFLOW, f"storage={tmp_path}/storage"]
    planned = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=480)
    assert planned.returncode == 0, planned.stderr
    facts = dict(re.split(r"  +", line, maxsplit=1) for line in planned.stdout.splitlines())
    assert re.fullmatch(r"8, the baseline included; \d+ at a time", facts["trials"])
    assert facts["space"].startswith("15 configurations: {")
    assert says(facts["estimated"], "measured … real model")
    assert re.fullmatch(r"\d\S* GiB per worker", facts["memory"])
    assert re.fullmatch(r"\S+ the baseline, \S+ another, with steps of \S+s and \S+s", facts["per trial"])
    assert re.search(r"core-hours, \S+ FLOPs of training; about .* if ASHA stops \d\.\d", facts["in all"])
    assert facts["results"].startswith(f"{tmp_path}/storage/")
    assert not (tmp_path / "storage").exists()
    assert list(temporary.glob("irtune-*")) == []


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("selection.policy.k=9", "selection.policy.k: 9 … 6"),
        ("engine.cpus_per_worker=4096", "engine.num_workers: … 4096 CPUs"),
        ("tracking.uri=http://127.0.0.1:9", "tracking.uri"),
    ],
)
def test_a_mistake_is_told_as_by_a_run(
    tmp_path: Path, setting: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["sweep", str(ROOT / "tests/support/tiny_sweep.yaml"), "--plan", setting]
    assert main([*arguments, f"storage={tmp_path}/storage"]) == 2
    assert says(capsys.readouterr().err, told)
    assert not (tmp_path / "storage").exists()


def test_a_sweep_ends_with_predicted_and_actual(tiny_sweep: SweepRun) -> None:
    plan = json.loads((tiny_sweep.folder / "plan.json").read_text())
    assert says(plan["source"], "measured … real model")
    (line,) = [line for line in tiny_sweep.output.splitlines() if line.strip().startswith("memory of a worker")]
    assert 0.5 < float(line.split()[-1]) < 2
    (summary,) = tiny_sweep.runs("summary")
    assert summary.data.metrics["predicted/sweep_s"] == pytest.approx(plan["predicted"]["sweep_s"])
    spans = {run.data.tags["irtune.baseline"]: (run.info.start_time, run.info.end_time) for run in tiny_sweep.runs()}
    starts, ends = zip(*((run.info.start_time, run.info.end_time) for run in tiny_sweep.runs()), strict=True)
    began, ended = spans["true"]
    assert summary.data.metrics["actual/baseline_s"] == pytest.approx((ended - began) / 1000, abs=0.01)
    assert summary.data.metrics["actual/sweep_s"] == pytest.approx((max(ends) - min(starts)) / 1000, abs=0.01)
    assert "plan.json" in {file.path for file in tiny_sweep.client().list_artifacts(summary.info.run_id)}
    assert "predicted: the study, first trial to last" in (tiny_sweep.folder / "report.html").read_text()


@pytest.mark.parametrize(
    ("policy", "importance", "tolerance"),
    [
        ({"name": "all"}, {}, 0.02),
        ({"name": "top_k", "k": 6}, {}, 0.02),
        ({"name": "top_k", "k": 2}, {}, 0.2),
        ({"name": "static", "which": "last", "k": 2}, {"name": "cosine_similarity"}, 0.02),
        ({"name": "static", "which": "last", "k": 2}, {"probe_fraction": 0.5}, 0.02),
    ],
)
def test_the_flops_of_a_run_are_known_before_it(
    tmp_path: Path, policy: dict[str, object], importance: dict[str, object], tolerance: float
) -> None:
    tree = read_yaml(ROOT / "tests" / "support" / "tiny_sweep.yaml") | {
        "selection": {"policy": policy, "reselect_every": 3, "measure": "always"},
        "importance": importance,
    }
    config = build(ExperimentConfig, {key: tree[key] for key in tree.keys() - {"space", "tune"}}, "x")
    checkpoint, dataset = materialize(config.model), config.data.load()
    encoded = encode(dataset, load_tokenizer(checkpoint), config.model.max_length)
    model = shapes_only(checkpoint, config.adapter)
    sharing = sharing_of(model, config.engine.share_prefix, len(common_tokens(encoded)), encoded.max_length)
    cost = CostModel.of(model, recompute=False, sharing=sharing)
    trial = Trial.of(config, cost, {split: part.lengths for split, part in encoded.splits.items()}, None)
    found = run(config, folder=tmp_path, recorder=NoRecorder(), dataset=dataset).metrics
    assert trial.step_flops == pytest.approx(found["cost/mean_step_flops"], rel=tolerance)
