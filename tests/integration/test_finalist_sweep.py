"""The best trials and the baseline are repeated over seeds, here by a driver that takes over from a killed one."""

import json

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from saying import says
from sweeps import SweepRun, kill_when, run_sweep, start_sweep

from irtune.training.record import RecordReader, result_of

STEPS = 9
CHECKPOINT_EVERY = 3
ARGUMENTS = (
    "tests/support/tiny_sweep.yaml",
    "tune.num_trials=2",
    "tune.scheduler=null",
    "tune.finalists={top: 1, seeds: 2}",
)

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> SweepRun:
    """A sweep whose first driver was killed as soon as one of four repeats had its result."""
    storage = tmp_path_factory.mktemp("finalists") / "storage"
    driver = start_sweep(storage, *ARGUMENTS)
    kill_when(driver, lambda: any(map(result_of, storage.glob("*/trials/finalist_*"))))
    return run_sweep(storage, *ARGUMENTS, "--resume")


def test_the_best_trial_and_the_baseline_are_in_mlflow_on_common_seeds(sweep: SweepRun) -> None:
    assert sweep.status == 0, sweep.output
    assert says(sweep.output, "2 and the baseline … 9 steps … best 1 … 2 seeds")
    assert len(sweep.runs("trial")) == 3
    repeats = sweep.runs("finalist")
    assert {run.info.status for run in repeats} == {"FINISHED"}
    storage = JournalStorage(JournalFileBackend(str(sweep.folder / "study.journal")))
    baseline, best = optuna.load_study(study_name=sweep.folder.name, storage=storage).user_attrs["finalists"]["trials"]
    assert baseline == "baseline"
    tags = [run.data.tags for run in repeats]
    assert sorted((tag["irtune.repeats"], tag["irtune.seed"], tag["irtune.baseline"]) for tag in tags) == [
        ("baseline", "1", "true"),
        ("baseline", "2", "true"),
        (best, "1", "false"),
        (best, "2", "false"),
    ]
    assert {run.data.params["seed"] for run in repeats} == {"1", "2"}
    # Another seed is another run: no two of the baseline's lost alike.
    baselines = [run for run in [*repeats, *sweep.runs("trial")] if run.data.tags["irtune.baseline"] == "true"]
    assert len({run.data.metrics["final/train_loss"] for run in baselines}) == len(baselines) == 3


def test_nothing_runs_twice_for_a_second_driver(sweep: SweepRun) -> None:
    folders = sorted(sweep.folder.glob("trials/finalist_*"))
    assert len(folders) == 4
    for folder in folders:
        trained = [r for r in RecordReader(folder) if r["kind"] == "metrics" and "train/loss" in r["values"]]
        steps = [record["step"] for record in trained]
        attempts = {record["attempt"] for record in trained}
        # Only what lay behind the last checkpoint of a repeat in flight is done again: a killed attempt may have
        # recorded the step at which a checkpoint was due without having written it.
        assert set(steps) == set(range(1, STEPS + 1))
        assert len(steps) <= STEPS + CHECKPOINT_EVERY * (len(attempts) - 1)
    for run in [*sweep.runs("finalist"), *sweep.runs("trial")]:
        losses = sweep.client().get_metric_history(run.info.run_id, "train/loss")
        assert sorted(point.step for point in losses) == list(range(1, STEPS + 1))


def test_table_answer_and_report_rest_on_the_finalists(sweep: SweepRun) -> None:
    output = sweep.output
    assert "Finalists over seeds" in output
    assert "each the mean of 2 seeds" in output
    assert "Means over the seeds 1 and 2" in output
    searched, repeated = (sweep.folder / "trials.md").read_text().split("\n\n")
    assert len(searched.strip().splitlines()) == 2 + 3
    assert len(repeated.strip().splitlines()) == 2 + 2
    assert "Finalists, repeated over seeds" in (sweep.folder / "report.html").read_text()
    (summary,) = sweep.runs("summary")
    files = {file.path for file in sweep.client().list_artifacts(summary.info.run_id)}
    assert {"finalists.png", "trials.md", "report.html"} <= files
    assert summary.data.tags["irtune.answer"] in output
    assert json.loads((sweep.folder / "sweep.json").read_text())["complete"] is True


def test_a_complete_sweep_is_given_another_seed(sweep: SweepRun) -> None:
    again = run_sweep(sweep.storage, *ARGUMENTS, "tune.finalists.seeds=3", "--resume")
    assert again.status == 0, again.output
    assert "each the mean of 3 seeds" in again.output
    assert sorted(run.data.tags["irtune.seed"] for run in again.runs("finalist")) == ["1", "1", "2", "2", "3", "3"]
    for folder in sweep.folder.glob("trials/finalist_*_seed_[12]"):
        assert max(record["attempt"] for record in RecordReader(folder)) <= 3
