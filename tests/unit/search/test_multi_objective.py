"""Several objectives and constraints, with closed-form objectives, driven as Ray Tune would drive the searcher."""

import json
import math

import numpy as np
import pytest
from optuna.trial import TrialState
from saying import refused
from searching import is_baseline, searcher_of

from irtune.config.sweep_schema import Dimension, TuneConfig
from irtune.search.optuna_source import ended_trials, open_study, requeue_interrupted

F1, FLOPS, MEMORY = "eval/f1_macro", "cost/step_flops", "cost/peak_memory_bytes"
POLICY, K = "selection.policy.name", "selection.policy.k"
SEVERAL = ({F1: "max"}, {FLOPS: "min"})
SPACE = {
    POLICY: Dimension(type="categorical", choices=("top_k", "random", "variance_split")),
    K: Dimension(type="int", low=1, high=100, when={"key": POLICY, "in": ["top_k", "random"]}),
    "training.learning_rate": Dimension(type="float", low=1e-5, high=1e-3, log=True),
}
PLAIN = {
    **SPACE,
    POLICY: Dimension(type="categorical", choices=("top_k", "random")),
    K: Dimension(type="int", low=1, high=100),
}
"""Without a condition: gp and nsga2 draw conditional dimensions at random."""


@pytest.fixture(autouse=True)
def _nothing_has_to_survive_a_power_cut(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


def results_of(overrides):
    """More blocks cost more and are better; every policy is as good at 1e-4, of which they are off by the rate."""
    k = overrides.get(K, 50)
    off = abs(math.log10(overrides["training.learning_rate"]) + 4)
    worse = 0.2 * (overrides[POLICY] == "random")
    f1 = math.sqrt(k / 100) - off / 2 - worse
    return {F1: f1, "final/validation_f1_macro": f1, "cost/mean_step_flops": 1e9 * k, MEMORY: 1e8 * k}


def begin(tmp_path, space=SPACE, **settings):
    tune = TuneConfig(**{"metrics": SEVERAL, "num_startup_trials": 10, **settings})
    study = open_study(tmp_path / "study.journal", "mine", tune)
    requeue_interrupted(study)
    return study, searcher_of(study, space, tune)


def run(searcher, stop=lambda results: False):
    """Everything that is suggested; a trial that ``stop`` says is stopped at step 10, before its cost is known."""
    for number in range(10_000):
        suggestion = searcher.suggest(f"t{number}")
        if suggestion == "FINISHED":
            return
        results = {F1: 0.0, "cost/mean_step_flops": 1e11, MEMORY: 1e10}
        if not is_baseline(suggestion):
            results = results_of(suggestion["overrides"])
        early = {F1: results[F1] / 2, "step": 10}
        searcher.on_trial_result(f"t{number}", early)
        if stop(results):
            searcher.on_trial_complete(f"t{number}", early)
        else:
            searcher.on_trial_complete(f"t{number}", {**results, "step": 100, "final": True})


def hypervolume(trials):
    """The share of [F1 from 0 to 1] x [FLOPs from 1e11 to 0] that the complete trials beat."""
    front, area = sorted((trial.values[1] / 1e11, trial.values[0]) for trial in trials), 0.0
    best = 0.0
    for (cost, f1), (following, _) in zip(front, [*front[1:], (1.0, 0.0)], strict=True):
        best = max(best, f1)
        area += (following - cost) * best
    return area


def complete(study):
    return study.get_trials(states=(TrialState.COMPLETE,))


def test_a_finished_trial_is_told_all_its_values(tmp_path):
    study, searcher = begin(tmp_path, num_trials=1)
    run(searcher)
    (trial,) = study.trials
    assert trial.values == [trial.user_attrs["final/validation_f1_macro"], trial.user_attrs["cost/mean_step_flops"]]
    assert study.metric_names == [F1, FLOPS]


def test_a_stopped_trial_keeps_what_it_measured_and_has_no_values(tmp_path):
    study, searcher = begin(tmp_path)
    run(searcher, stop=lambda results: results[F1] > 0)
    stopped = study.get_trials(states=(TrialState.PRUNED,))
    assert stopped
    assert all(trial.values is None and set(trial.user_attrs["intermediate/10"]) == {F1} for trial in stopped)


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])
def test_stopped_trials_never_enter_the_front_however_cheap(tmp_path, sampler):
    study, searcher = begin(tmp_path, num_trials=150, sampler=sampler)
    run(searcher, stop=lambda results: results["cost/mean_step_flops"] < 3e10)
    states = [trial.state for trial in study.trials]
    assert states.count(TrialState.PRUNED) > 10
    front = study.best_trials
    assert {trial.state for trial in front} == {TrialState.COMPLETE}
    assert min(trial.values[1] for trial in front) >= 3e10


def test_without_an_objective_or_a_bounded_metric_a_trial_has_failed(tmp_path):
    study, searcher = begin(tmp_path, constraints={MEMORY: {"max": 5e9}}, num_trials=4)
    whole = {F1: 0.5, "cost/mean_step_flops": 1e9, MEMORY: 1e9, "step": 100, "final": True}
    searcher.suggest("baseline")
    for lacking, value in ((F1, math.nan), ("cost/mean_step_flops", math.inf), (MEMORY, math.nan)):
        searcher.suggest(lacking)
        searcher.on_trial_complete(lacking, {**whole, lacking: value})
    searcher.suggest("whole")
    searcher.on_trial_complete("whole", whole)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL] * 3 + [TrialState.COMPLETE]
    reasons = [outcome.reason for _, outcome in ended_trials(study)]
    assert reasons == [f"{F1} was nan", f"{FLOPS} was inf", f"{MEMORY} was nan", None]


@pytest.mark.parametrize(("sampler", "num_trials"), [("tpe", 120), ("nsga2", 200), ("gp", 15)])
def test_a_front_is_found_that_random_trials_do_not_find(tmp_path, sampler, num_trials):
    volumes = {}
    for name in (sampler, "random"):
        found = []
        for seed in range(1 if sampler == "gp" else 2):
            folder, space = tmp_path / f"{name}{seed}", SPACE if sampler == "tpe" else PLAIN
            study, searcher = begin(folder, space, num_trials=num_trials, sampler=name, seed=seed)
            run(searcher)
            found.append(hypervolume(complete(study)))
        volumes[name] = np.mean(found)
    # The best there is: the area under sqrt(k).
    assert volumes["random"] < volumes[sampler] <= 2 / 3 + 0.01


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "gp"])
def test_constraints_steer_the_search_and_hold_at_the_front(tmp_path, sampler):
    num_trials, space = 20 if sampler == "gp" else 150, SPACE if sampler == "tpe" else PLAIN
    shares = {}
    for name in (sampler, "random"):
        study, searcher = begin(
            tmp_path / name, space, num_trials=num_trials, sampler=name, constraints={MEMORY: {"max": 2e9}}
        )
        run(searcher)
        assert study.best_trials
        assert all(trial.user_attrs[MEMORY] <= 2e9 for trial in study.best_trials)
        later = complete(study)[num_trials // 2 :]
        shares[name] = np.mean([trial.user_attrs[MEMORY] <= 2e9 for trial in later])
    assert shares[sampler] > shares["random"] + 0.1


def test_a_constraint_with_one_objective(tmp_path):
    study, searcher = begin(tmp_path, num_trials=60, metrics=None, constraints={FLOPS: {"max": 3e10, "min": 1e9}})
    run(searcher)
    assert study.best_trial.user_attrs["cost/mean_step_flops"] <= 3e10
    unbounded = max(complete(study), key=lambda trial: trial.value)
    assert unbounded.user_attrs["cost/mean_step_flops"] > 3e10
    assert set(unbounded.constraints) == {f"{FLOPS} max", f"{FLOPS} min"}


@pytest.mark.parametrize("sampler", ["tpe", "gp", "nsga2", "random", "grid"])
def test_a_small_space_is_tried_in_full_and_once(tmp_path, sampler):
    space = {
        POLICY: Dimension(type="categorical", choices=("top_k", "variance_split")),
        K: Dimension(type="int", low=1, high=5, when={"key": POLICY, "in": ["top_k"]}),
        "training.learning_rate": Dimension(type="categorical", choices=(1e-4, 1e-3)),
    }
    study, searcher = begin(
        tmp_path, space, num_trials=50, sampler=sampler, constraints={MEMORY: {"max": 3e8}}, num_startup_trials=4
    )
    run(searcher, stop=lambda results: results["cost/mean_step_flops"] == 2e9)
    tried = [json.dumps(spec.overrides, sort_keys=True) for spec, _ in ended_trials(study)]
    assert len(tried) == len(set(tried)) == 12


def test_a_resumed_trial_keeps_what_it_measured_before(tmp_path):
    _, searcher = begin(tmp_path, num_trials=2)
    searcher.suggest("baseline")
    first = searcher.suggest("a")
    searcher.on_trial_result("a", {F1: 0.3, "step": 10})
    study, searcher = begin(tmp_path, num_trials=2)
    searcher.suggest("baseline")
    assert searcher.suggest("b") == first
    searcher.on_trial_result("b", {F1: 0.9, "step": 10})
    searcher.on_trial_complete("b", {F1: 0.4, "step": 20})
    (_, again) = study.trials
    assert again.state == TrialState.PRUNED
    assert (again.user_attrs["intermediate/10"], again.user_attrs["intermediate/20"]) == ({F1: 0.3}, {F1: 0.4})


def test_a_study_is_not_continued_for_other_objectives(tmp_path):
    begin(tmp_path)
    with refused(ValueError, "tune.metrics: … 'mine' … max eval/f1_macro, min cost"):
        begin(tmp_path, metrics=({F1: "max"}, {"cost/train_s": "min"}))
