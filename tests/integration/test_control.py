"""``irtune recommend --control``: the recommended blocks trained statically beside what chose them and uniform LoRA."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import yaml
from saying import says
from sweeps import ROOT

from irtune.config.load import build, dotted_keys
from irtune.config.schema import ExperimentConfig
from irtune.config.sweep_schema import SweepConfig
from irtune.data.synthetic import SyntheticConfig
from irtune.studies.resume import write_identity
from irtune.tracking.run_record import Ended, Opened, RunRecord
from irtune.training.record import RecordWriter

NUM_BLOCKS = 6


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A sweep that found blocks 4 and 5, on a file whose rows are of documents, as its records leave it."""
    storage = tmp_path_factory.mktemp("control")
    data = storage / "revisions.jsonl"
    rows = SyntheticConfig(train_size=100, validation_size=25, test_size=25).load().splits
    examples = [one for part in rows.values() for one in part]
    lines = [
        {"before": one.texts[0], "after": one.texts[1], "label": one.label, "essay": f"essay {index % 50}"}
        for index, one in enumerate(examples)
    ]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    tree = {
        "name": "tiny",
        "seed": 7,
        "storage": str(storage),
        "model": {"name": "tiny-random"},
        "adapter": {"r": 6, "alpha": 12, "dropout": 0.0},
        "data": {"name": "file", "path": str(data), "group_column": "essay", "test_fraction": 0.25},
        "training": {"max_steps": 4, "micro_batch_size": 8, "learning_rate": 5e-3, "eval_every": 2},
        "selection": {"policy": {"name": "top_k", "k": 2}, "reselect_every": 2},
    }
    folder = storage / "tiny-20261127-230158"
    place = folder / "trials" / "trial_0000"
    place.mkdir(parents=True)
    space = {"selection.policy.k": {"type": "int", "low": 1, "high": 5}}
    write_identity(folder, build(SweepConfig, tree | {"space": space}, "x"), "f1ngerprint", complete=True)
    RunRecord(place).begin(Opened("tiny/trial_0000", "trial_0000", {"irtune.strategy": "top_k"}, 1_000))
    writer = RecordWriter(place)
    writer.params(dotted_keys(build(ExperimentConfig, tree, "x")))
    writer.tags({"irtune.blocks": NUM_BLOCKS, "irtune.blocks.name": "model.layers"})
    chosen = {"active": [4, 5], "scores": [1.0] * NUM_BLOCKS, "measured_at": [0] * NUM_BLOCKS}
    writer._write("selection", step=0, trainable_parameters=1, lowest_active=4, **chosen)
    writer.result({"step": 4, "final": True, "final/validation_f1_macro": 0.5})
    RunRecord(place).finish(Ended("FINISHED", {}, None, 0))
    writer.close()
    return folder


def recommend(study, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "irtune.cli", "recommend", str(study), *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_control_runs_beside_its_study_and_says_what_mattered(study):
    done = recommend(study, "--control", "2")
    assert done.returncode == 0, done.stdout
    (control,) = [path for path in study.parent.glob("tiny-20261127-230158-control-trial_0000-*") if path.is_dir()]
    trials = {
        path.name: json.loads((path / "measured.jsonl").read_text().splitlines()[-1])
        for path in control.glob("trials/*")
    }
    seeds = (2_000_007, 2_000_008)
    assert set(trials) == {f"{cell}_seed_{seed}" for cell in ("static", "dynamic", "uniform") for seed in seeds}

    result = json.loads((study / "control.json").read_text())
    assert (result["study"], result["layers"], result["configuration"]) == (control.name, [4, 5], "trial_0000")
    assert list(result["cells"]) == ["static", "dynamic", "uniform"]
    assert all(one["seeds"] == list(seeds) for one in result["cells"].values())
    # Rank 2 in six blocks is as many parameters as rank 6 in two.
    assert result["uniform_to_static_parameters"] == 1.0
    cells = yaml.safe_load((study / "control.yaml").read_text())["ablation"]["cells"]
    assert (cells["uniform"]["adapter.r"], cells["uniform"]["adapter.alpha"]) == (2, 4.0)
    pairs = [(one["first"], one["second"]) for one in result["comparisons"]]
    assert pairs == [("dynamic", "static"), ("static", "uniform")]
    for one in result["comparisons"]:
        means = [result["cells"][one[name]]["mean"] for name in ("first", "second")]
        assert one["difference_mean"] == pytest.approx(means[0] - means[1])
        assert one["difference_low"] <= one["difference_mean"] <= one["difference_high"]
        assert says(done.stdout, one["sentence"].split(":")[0])
        assert one["sentence"].split(":")[0] in " ".join(
            (study / "recommendation.yaml").read_text().replace("# ", "").split()
        )

    # The trials know which essay each test example is of, and not what it is called.
    for path in control.glob("trials/*/predictions.npz"):
        with np.load(path, allow_pickle=False) as arrays:
            groups, called = arrays["test_groups"], str(arrays["grouped_by"])
        assert (called, len(groups) > groups.max() + 1 > 5) == ("essay", True)
    assert says((control / "report.html").read_text(), "resampled by essay", f"{groups.max() + 1} groups")
    assert any("resampled by essay" in caveat for caveat in result["caveats"])


def test_a_control_of_more_seeds_goes_on_with_the_one_there_is(study):
    # It is refused where the earlier one is another study, or where there is none.
    planned = recommend(study, "--control", "3", "--resume", "--plan")
    assert planned.returncode == 0, planned.stdout
    assert says(planned.stdout, "9: 3 cells on 3 seeds")
    other = recommend(study, "--control", "3", "training.max_steps=5", "--resume", "--plan")
    assert other.returncode == 2
    assert says(other.stdout, "training.max_steps: 4 before, 5 now")
