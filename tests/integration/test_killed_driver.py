"""A sweep whose driver was killed goes on where it was: nothing runs twice, and nothing is measured twice."""

import json
import os
from pathlib import Path

import pytest
from sweeps import SweepRun, kill_when, run_sweep, start_sweep

from irtune.training.record import RecordReader, result_of

STEPS = 9
WAITS = "faulty_policies:WaitsForASecondDriver"
ARGUMENTS = (
    "tests/support/tiny_sweep.yaml",
    f"space={{selection.policy.name: {{type: categorical, choices: [top_k, '{WAITS}']}}, "
    "selection.policy.k: {type: int, low: 2, high: 2}}",
    "tune.num_trials=2",
    # The others end while one waits.
    "tune.max_concurrent_trials=2",
    "tune.scheduler=null",
)


def num_results(storage: Path) -> int:
    return sum(result_of(folder) is not None for folder in storage.glob("*/trials/*"))


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("flags")


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory, flags: Path) -> Path:
    """Of a sweep that was killed with one trial in the middle and the others done."""
    storage = tmp_path_factory.mktemp("killed") / "storage"
    driver = start_sweep(storage, *ARGUMENTS, IRTUNE_TEST_FLAGS=str(flags))
    # The others' ends are to be known to the study, or not: both may happen.
    kill_when(driver, lambda: (flags / "waiting").exists() and num_results(storage) == 2)
    return storage


@pytest.fixture(scope="module")
def resumed(storage: Path, flags: Path) -> SweepRun:
    (flags / "go").touch()
    return run_sweep(storage, *ARGUMENTS, "--resume", IRTUNE_TEST_FLAGS=str(flags))


def test_another_sweep_is_not_resumed(storage: Path, flags: Path) -> None:
    refused = run_sweep(storage, *ARGUMENTS, "--resume", "training.learning_rate=1e-3", IRTUNE_TEST_FLAGS=str(flags))
    assert refused.status == 2
    assert "training.learning_rate: 0.005 before, 0.001 now" in refused.output
    assert len(list(storage.glob("tiny-*"))) == 1


def test_finished_trials_do_not_run_again_and_the_other_goes_on(resumed: SweepRun) -> None:
    assert resumed.status == 0, resumed.output
    # The study may not have heard of a trial's end before the kill; then it is begun again, finds its result, and is
    # over without a measurement.
    folders = list((resumed.folder / "trials").iterdir())
    assert len(folders) == 3
    later = [[record for record in RecordReader(folder) if record["attempt"] > 0] for folder in folders]
    (records,) = [records for records in later if any(record["kind"] == "metrics" for record in records)]
    assert [record["step"] for record in records if record["kind"] == "resumed"] == [6]
    steps = [r["step"] for r in records if r["kind"] == "metrics" and "train/loss" in r["values"]]
    assert steps == list(range(7, STEPS + 1))


def test_everything_is_in_mlflow_once_and_as_without_the_kill(resumed: SweepRun) -> None:
    runs = {run.data.params["selection.policy.name"]: run for run in resumed.runs()}
    assert set(runs) == {"all", "top_k", WAITS}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert len(resumed.runs()) == 3
    final = {name: value for name, value in runs["top_k"].data.metrics.items() if name.startswith("final/")}
    assert final
    assert final == {name: runs[WAITS].data.metrics[name] for name in final}
    for run in runs.values():
        losses = resumed.client().get_metric_history(run.info.run_id, "train/loss")
        assert sorted(point.step for point in losses) == list(range(1, STEPS + 1))


def test_the_answer_is_about_all_trials(resumed: SweepRun) -> None:
    assert "\nAnswer " in resumed.output
    table = (resumed.folder / "trials.md").read_text()
    assert table.count("top_k k=2") == 1
    assert len(table.strip().splitlines()) == 2 + 3
    assert json.loads((resumed.folder / "sweep.json").read_text())["complete"] is True
    assert os.listdir(resumed.folder.parent).count(resumed.folder.name) == 1
