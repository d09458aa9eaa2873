"""A search over more than the selection compares like with like, and the metric that the user names decides."""

import numpy as np
import pytest
import yaml
from saying import says
from sweeps import SweepRun, run_sweep

RATES = (0.01, 0.02)

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> SweepRun:
    """A sweep of accuracy over learning rates that are not the file's, with one finalist."""
    return run_sweep(
        tmp_path_factory.mktemp("fair") / "storage",
        "tests/support/tiny_sweep.yaml",
        "metric=accuracy",
        f"space={{training.learning_rate: {{type: categorical, choices: {list(RATES)}}}}}",
        "tune.num_trials=2",
        "tune.scheduler=null",
        "tune.finalists={top: 1, seeds: 2}",
    )


def test_the_baseline_also_runs_at_the_settings_of_the_best(sweep: SweepRun) -> None:
    assert sweep.status == 0, sweep.output
    assert "the baseline again at the settings of the best" in sweep.output
    runs = {run.data.tags["irtune.trial_folder"].rpartition("/")[2]: run for run in sweep.runs()}
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


def test_finalists_are_compared_with_a_baseline_at_their_settings(sweep: SweepRun) -> None:
    repeats = sweep.runs("finalist")
    rates = sorted(
        (run.data.tags["irtune.repeats"].partition("_of_")[0], run.data.params["training.learning_rate"])
        for run in repeats
    )
    of_best = [rate for name, rate in rates if name.startswith("trial")]
    assert len(repeats) == 3 * 2
    assert {float(rate) for rate in of_best} <= set(RATES)
    assert sorted(rate for name, rate in rates if name == "baseline") == sorted([*of_best, "0.005", "0.005"])
    answer = sweep.output.rpartition("\nAnswer ")[2]
    assert says(answer, f"same settings (training.learning_rate {of_best[0]}) … test accuracy")
    assert says(answer, "other settings (training.learning_rate 0.005) … test accuracy")


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
