"""One real sweep through Ray Tune: a closed-form objective, our searcher and our scheduler."""

import json
from wsgiref.util import setup_testing_defaults

import optuna_dashboard
import pytest
import ray
from optuna.trial import TrialState
from ray import tune
from searching import searcher_of

from irtune.config.load import build
from irtune.config.sweep_schema import SweepConfig
from irtune.search.optuna_source import open_study
from irtune.search.source import BASELINE_OVERRIDES
from irtune.search.space_checks import check_space
from irtune.search.stopping import Asha
from irtune.workers import cluster

NUM_TRIALS = 12
MAX_STEPS = 90
EVAL_EVERY = 10
POLICY = "selection.policy.name"
K = "selection.policy.k"

SWEEP = {
    "training": {"max_steps": MAX_STEPS, "eval_every": EVAL_EVERY},
    "space": {
        POLICY: {"type": "categorical", "choices": ["top_k", "random", "variance_split"]},
        K: {"type": "int", "low": 1, "high": 30, "when": {"key": POLICY, "in": ["top_k", "random"]}},
        "selection.policy.splits": {
            "type": "categorical",
            "choices": [1, 2],
            "when": {"key": POLICY, "in": ["variance_split"]},
        },
        "training.learning_rate": {"type": "float", "low": 1e-5, "high": 1e-3, "log": True},
    },
    "tune": {"num_trials": NUM_TRIALS, "num_startup_trials": 4, "scheduler": {"grace_steps": 10}},
}


def make_trainable(metric):
    """A trial whose score grows with k and its steps; the baseline is the worst of all."""

    def train(config):
        k = config["overrides"].get("selection.policy.k", 10)
        final = -1.0 if config["name"] == "baseline" else k / 30
        for step in range(EVAL_EVERY, MAX_STEPS + 1, EVAL_EVERY):
            result = {metric: final * step / MAX_STEPS, "step": step}
            if step == MAX_STEPS:
                result |= {"final": True, "final/test/accuracy": final, "cost/wall_s": 1.5}
            tune.report(result)

    return train


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """The results by Tune and the study, after one sweep."""
    folder = tmp_path_factory.mktemp("sweep")
    config = build(SweepConfig, SWEEP, "sweep")
    assert check_space(config, num_blocks=30) == []
    study = open_study(folder / "study.journal", "closed-form", config.tune)
    metric, mode = config.stops_by
    # As a sweep does: Ray's own defaults start no worker in a path with spaces, and wait for it without a word.
    cluster.connect()
    try:
        results = tune.Tuner(
            tune.with_resources(make_trainable(metric), {"cpu": 1}),
            tune_config=tune.TuneConfig(
                search_alg=searcher_of(study, config.space, config.tune),
                scheduler=Asha(config.tune.scheduler, MAX_STEPS, metric, mode),
                num_samples=-1,
                max_concurrent_trials=2,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(storage_path=str(folder), name="tune", verbose=0),
        ).fit()
    finally:
        ray.shutdown()
    return results, study, folder / "study.journal"


def test_the_baseline_and_all_trials_ran(sweep):
    results, study, _ = sweep
    assert results.num_errors == 0
    assert len(results) == 1 + NUM_TRIALS
    own = [trial for trial in study.trials if "duplicate_of" not in trial.user_attrs]
    assert len(own) == NUM_TRIALS
    names = {trial.user_attrs["trial"] for trial in own} | {"baseline"}
    assert names == {result.config["name"] for result in results}


def test_the_baseline_ran_to_its_end_though_it_was_the_worst(sweep):
    results, _, _ = sweep
    (baseline,) = [result for result in results if result.config["name"] == "baseline"]
    assert baseline.config["overrides"] == BASELINE_OVERRIDES
    assert baseline.metrics["step"] == MAX_STEPS


def test_states_and_values_are_those_of_the_trials(sweep):
    results, study, _ = sweep
    by_name = {result.config["name"]: result.metrics for result in results}
    states = set()
    for trial in study.trials:
        if "duplicate_of" in trial.user_attrs:
            continue
        metrics = by_name[trial.user_attrs["trial"]]
        steps = list(range(EVAL_EVERY, metrics["step"] + 1, EVAL_EVERY))
        assert list(trial.intermediate_values) == steps
        assert trial.value == metrics["eval/f1_macro"] == trial.intermediate_values[steps[-1]]
        ended = metrics["step"] == MAX_STEPS
        assert trial.state == (TrialState.COMPLETE if ended else TrialState.PRUNED)
        assert trial.user_attrs.get("cost/wall_s") == (1.5 if ended else None)
        states.add(trial.state)
    assert states == {TrialState.COMPLETE, TrialState.PRUNED}


def test_dimensions_exist_only_while_their_condition_holds(sweep):
    _, study, _ = sweep
    for trial in study.trials:
        expected = "selection.policy.splits" if trial.params[POLICY] == "variance_split" else K
        assert set(trial.params) == {POLICY, "training.learning_rate", expected}


def test_optuna_dashboard_shows_the_study(sweep):
    _, study, path = sweep
    app = optuna_dashboard.wsgi(str(path))

    def get(url):
        environ = {"PATH_INFO": url.partition("?")[0], "QUERY_STRING": url.partition("?")[2]}
        setup_testing_defaults(environ)
        return json.loads(b"".join(app(environ, lambda status, headers, exc_info=None: None)))

    (summary,) = get("/api/studies")["study_summaries"]
    assert summary["study_name"] == "closed-form"
    shown = get(f"/api/studies/{summary['study_id']}?after=0")
    states = {"COMPLETE": "Complete", "PRUNED": "Pruned", "FAIL": "Fail"}
    assert [trial["state"] for trial in shown["trials"]] == [states[trial.state.name] for trial in study.trials]
