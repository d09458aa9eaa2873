"""The best trials and the baseline are repeated over seeds, here by a driver that takes over from a killed one: a
search over more than the selection compares like with like, and the metric that the user names decides."""

import json

import numpy as np
import optuna
import pytest
import yaml
from mlflow.entities import Run
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from saying import says
from sweeps import SweepRun, kill_when, run_sweep, start_sweep

from irtune.training.record import RecordReader, result_of

STEPS = 9
CHECKPOINT_EVERY = 3
# None is the file's.
RATES = (0.01, 0.02)
ARGUMENTS = (
    "tests/support/tiny_sweep.yaml",
    "metric=accuracy",
    f"space={{training.learning_rate: {{type: categorical, choices: {list(RATES)}}}}}",
    "tune.num_trials=2",
    "tune.scheduler=null",
    "tune.finalists={top: 1, seeds: 2}",
)

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> SweepRun:
    """A sweep whose first driver was killed as soon as one of six repeats had its result."""
    storage = tmp_path_factory.mktemp("finalists") / "storage"
    driver = start_sweep(storage, *ARGUMENTS)
    kill_when(driver, lambda: any(map(result_of, storage.glob("*/trials/finalist_*"))))
    return run_sweep(storage, *ARGUMENTS, "--resume")


def name_of(run: Run) -> str:
    return str(run.data.tags["irtune.trial_folder"]).rpartition("/")[2]


def test_the_baseline_also_runs_at_the_settings_of_the_best(sweep: SweepRun) -> None:
    assert sweep.status == 0, sweep.output
    assert "the baseline again at the settings of the best" in sweep.output
    runs = {name_of(run): run for run in sweep.runs()}
    (matched,) = [name for name in runs if name.startswith("baseline_of_")]
    best = runs[matched.removeprefix("baseline_of_")]
    assert set(runs) == {"baseline", "trial_0000", "trial_0001", matched}
    assert runs[matched].data.tags["irtune.baseline"] == "true"
    assert runs[matched].data.params["selection.policy.name"] == "all"
    assert float(best.data.params["training.learning_rate"]) in RATES
    differing = {
        key
        for key in {**best.data.params, **runs[matched].data.params}
        if best.data.params.get(key) != runs[matched].data.params.get(key)
    }
    assert differing == {"selection.policy.name", "selection.policy.k"}


def test_finalists_and_both_baselines_are_in_mlflow_on_common_seeds(sweep: SweepRun) -> None:
    assert says(sweep.output, "2 and the baseline … 9 steps … best 1 … 2 seeds")
    repeats = sweep.runs("finalist")
    assert {run.info.status for run in repeats} == {"FINISHED"}
    storage = JournalStorage(JournalFileBackend(str(sweep.folder / "study.journal")))
    finalists = optuna.load_study(study_name=sweep.folder.name, storage=storage).user_attrs["finalists"]["trials"]
    (best,) = [name for name in finalists if name.startswith("trial_")]
    assert sorted(finalists) == ["baseline", best]
    tags = [run.data.tags for run in repeats]
    assert sorted((tag["irtune.repeats"], tag["irtune.seed"], tag["irtune.baseline"]) for tag in tags) == [
        (name, seed, str(name != best).lower())
        for name in ("baseline", f"baseline_of_{best}", best)
        for seed in ("1", "2")
    ]
    assert {run.data.params["seed"] for run in repeats} == {"1", "2"}
    # Another seed is another run: no two of the baseline's lost alike.
    baselines = [run for run in repeats if run.data.tags["irtune.repeats"] == "baseline"]
    baselines += [run for run in sweep.runs() if name_of(run) == "baseline"]
    assert len({run.data.metrics["final/train_loss"] for run in baselines}) == len(baselines) == 3


def test_finalists_are_compared_with_a_baseline_at_their_settings(sweep: SweepRun) -> None:
    repeats = sweep.runs("finalist")
    rates = sorted((run.data.tags["irtune.repeats"], run.data.params["training.learning_rate"]) for run in repeats)
    of_best = [rate for name, rate in rates if name.startswith("trial")]
    assert {float(rate) for rate in of_best} <= set(RATES)
    assert [rate for name, rate in rates if name.startswith("baseline_of")] == of_best
    assert [rate for name, rate in rates if name == "baseline"] == ["0.005", "0.005"]
    answer = sweep.output.rpartition("\nAnswer ")[2]
    assert says(answer, f"same settings (training.learning_rate {of_best[0]}) … test accuracy")
    assert says(answer, "other settings (training.learning_rate 0.005) … test accuracy")


def test_nothing_runs_twice_for_a_second_driver(sweep: SweepRun) -> None:
    folders = sorted(sweep.folder.glob("trials/finalist_*"))
    assert len(folders) == 6
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
    assert len(searched.strip().splitlines()) == 2 + 4
    assert len(repeated.strip().splitlines()) == 2 + 3
    assert "Finalists, repeated over seeds" in (sweep.folder / "report.html").read_text()
    (summary,) = sweep.runs("summary")
    files = {file.path for file in sweep.client().list_artifacts(summary.info.run_id)}
    assert {"finalists.png", "trials.md", "report.html"} <= files
    assert summary.data.tags["irtune.answer"] in output
    assert json.loads((sweep.folder / "sweep.json").read_text())["complete"] is True


def test_the_users_metric_decides_everywhere(sweep: SweepRun) -> None:
    shown = sweep.output
    assert "macro-F1" not in shown
    assert "test accuracy" in (sweep.folder / "trials.md").read_text()
    assert "macro-F1" not in (sweep.folder / "report.html").read_text()
    assert yaml.safe_load((sweep.folder / "best.yaml").read_text())["metric"] == "accuracy"
    (summary,) = sweep.runs("summary")
    assert "summary/test_accuracy_difference" in summary.data.metrics
    client = sweep.client()
    for run in [*sweep.runs(), *sweep.runs("finalist")]:
        history = {
            name: {point.step: point.value for point in client.get_metric_history(run.info.run_id, f"eval/{name}")}
            for name in ("accuracy", "loss")
        }
        best = max(history["accuracy"], key=lambda step: (history["accuracy"][step], -history["loss"][step], step))
        assert run.data.metrics["final/best_step"] == best
        assert run.data.metrics["final/validation_accuracy"] == pytest.approx(history["accuracy"][best])


def test_what_is_kept_scores_what_is_said(sweep: SweepRun) -> None:
    for run in sweep.runs():
        with np.load(f"{run.data.tags['irtune.trial_folder']}/predictions.npz") as arrays:
            right = arrays["test_probabilities"].argmax(axis=1) == arrays["test_labels"]
        assert run.data.metrics["final/test_accuracy"] == pytest.approx(right.mean())


def test_a_complete_sweep_is_given_another_seed(sweep: SweepRun) -> None:
    again = run_sweep(sweep.storage, *ARGUMENTS, "tune.finalists.seeds=3", "--resume")
    assert again.status == 0, again.output
    assert "each the mean of 3 seeds" in again.output
    assert sorted(run.data.tags["irtune.seed"] for run in again.runs("finalist")) == [*"111222333"]
    for folder in sweep.folder.glob("trials/finalist_*_seed_[12]"):
        assert max(record["attempt"] for record in RecordReader(folder)) <= 3
