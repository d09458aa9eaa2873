"""The searcher with closed-form objectives, driven as Ray Tune would drive it."""

import json
import math
import pickle
import warnings
from dataclasses import asdict

import numpy as np
import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from saying import refused
from searching import is_baseline, searcher_of

from irtune.config.sweep_schema import Dimension, TuneConfig
from irtune.search.optuna_source import OptunaSource, ended_trials, open_study, requeue_interrupted
from irtune.search.source import BASELINE_SPEC

METRIC = "eval/f1_macro"
POLICY = "selection.policy.name"
K = "selection.policy.k"


def dimension(**fields):
    return Dimension.model_validate(fields)


SPACE = {
    POLICY: dimension(type="categorical", choices=["top_k", "random", "all"]),
    K: dimension(type="int", low=1, high=100, when={"key": POLICY, "in": ["top_k", "random"]}),
    "training.learning_rate": dimension(type="float", low=1e-5, high=1e-3, log=True),
}


@pytest.fixture(autouse=True)
def _nothing_has_to_survive_a_power_cut(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


def study_at(tmp_path, **tune):
    return open_study(tmp_path / "study.journal", "mine", TuneConfig(**tune))


def searcher_on(study, space=SPACE, num_trials=5, baseline_is_over=False, **tune):
    return searcher_of(study, space, TuneConfig(num_trials=num_trials, **tune), baseline_is_over=baseline_is_over)


def score(overrides):
    """Best at top_k with k = 60 and a learning rate of 1e-4."""
    bonus = {"top_k": 0.2, "random": 0.1, "all": 0.0}[overrides[POLICY]]
    return bonus - abs(overrides.get(K, 0) - 60) / 100 - abs(math.log10(overrides["training.learning_rate"]) + 4) / 10


def finish(searcher, trial_id, value, step=100, **more):
    searcher.on_trial_complete(trial_id, {METRIC: value, "eval/loss": value, "step": step, "final": True, **more})


def run_sweep(searcher, objective=score, limit=200):
    """Everything the searcher suggests after the baseline, each trial run to its end."""
    suggestions = []
    for number in range(limit):
        suggestion = searcher.suggest(f"t{number}")
        if suggestion == "FINISHED":
            return suggestions
        if is_baseline(suggestion):
            finish(searcher, f"t{number}", 0.0)
        else:
            suggestions.append(suggestion)
            finish(searcher, f"t{number}", objective(suggestion["overrides"]))
    raise AssertionError("the searcher does not come to an end")


def after_baseline(study, **options):
    searcher = searcher_on(study, **options)
    searcher.suggest("baseline")
    finish(searcher, "baseline", 0.5)
    return searcher


def test_the_baseline_comes_first_and_outside_the_study(tmp_path):
    study = study_at(tmp_path)
    searcher = searcher_on(study)
    expected = {"name": "baseline", "overrides": {"method": None, POLICY: "all"}, "repeats": None, "group": {}}
    assert searcher.suggest("a") == expected == asdict(BASELINE_SPEC)
    searcher.on_trial_result("a", {METRIC: 0.3, "step": 10})
    assert study.trials == []
    finish(searcher, "a", 0.7, **{"final/test/f1_macro": 0.6, "cost/wall_s": np.float64(3.5), "loss": 1})
    assert study.trials == []


def test_a_search_goes_on_though_the_baseline_failed(tmp_path):
    study = study_at(tmp_path)
    searcher = searcher_on(study)
    searcher.suggest("a")
    searcher.on_trial_complete("a", None, error=True)
    assert not is_baseline(searcher.suggest("b"))


def test_num_trials_suggestions_then_the_end(tmp_path):
    study = study_at(tmp_path)
    suggestions = run_sweep(searcher_on(study, num_trials=7))
    names = [f"trial_{number:04d}" for number in range(7)]
    assert [suggestion["name"] for suggestion in suggestions] == names
    assert [trial.params for trial in study.trials] == [suggestion["overrides"] for suggestion in suggestions]
    assert all(json.loads(json.dumps(suggestion)) == suggestion for suggestion in suggestions)
    assert all((K in s["overrides"]) == (s["overrides"][POLICY] != "all") for s in suggestions)
    assert [trial.user_attrs["trial"] for trial in study.trials] == names


@pytest.mark.parametrize("mode", ["max", "min"])
def test_tpe_finds_what_the_metric_asks_for(tmp_path, mode):
    sign = 1 if mode == "max" else -1
    metric = METRIC if mode == "max" else "eval/loss"
    study = study_at(tmp_path, metric=metric, seed=1)
    run_sweep(searcher_on(study, num_trials=40, metric=metric), lambda overrides: sign * score(overrides))
    values = [sign * trial.value for trial in study.trials]
    assert sign * study.best_value == max(values)
    assert study.best_params[POLICY] == "top_k"
    # Later suggestions are better than the random ones at the start.
    assert np.median(values[-15:]) > np.median(values[:5]) + 0.1


def test_a_trial_that_ran_to_its_end_is_complete(tmp_path):
    study = study_at(tmp_path)
    searcher = after_baseline(study)
    searcher.suggest("a")
    searcher.on_trial_result("a", {METRIC: 0.3, "step": 50})
    finish(searcher, "a", 0.6, **{"final/test/accuracy": np.float32(0.5), "cost/wall_s": 2, "train/loss": 1})
    (trial,) = study.trials
    assert (trial.state, trial.value) == (TrialState.COMPLETE, 0.6)
    assert trial.intermediate_values == {50: 0.3, 100: 0.6}
    assert trial.user_attrs == {"trial": "trial_0000", "final/test/accuracy": 0.5, "cost/wall_s": 2}


def test_a_trial_that_was_stopped_is_pruned_with_its_values(tmp_path):
    study = study_at(tmp_path)
    searcher = after_baseline(study)
    searcher.suggest("a")
    searcher.on_trial_result("a", {METRIC: 0.3, "step": 10})
    # Tune passes the result at which the scheduler stops a trial to on_trial_complete only.
    searcher.on_trial_complete("a", {METRIC: 0.2, "step": 20, "done": True})
    (trial,) = study.trials
    assert (trial.state, trial.value) == (TrialState.PRUNED, 0.2)
    assert trial.intermediate_values == {10: 0.3, 20: 0.2}


@pytest.mark.parametrize(
    ("result", "error", "reason"),
    [
        (None, True, "it raised an error"),
        ({METRIC: 0.5, "step": 10}, True, "it raised an error"),
        ({METRIC: math.nan, "step": 10, "final": True}, False, "eval/f1_macro was nan"),
        ({METRIC: math.inf, "step": 10, "final": True}, False, "eval/f1_macro was inf"),
        ({METRIC: math.nan, "step": 10}, False, "eval/f1_macro was nan"),
        ({"step": 10, "final": True}, False, "eval/f1_macro was None"),
        (None, False, "eval/f1_macro was None"),
    ],
)
def test_a_trial_without_a_score_has_failed(tmp_path, result, error, reason):
    study = study_at(tmp_path)
    searcher = after_baseline(study)
    searcher.suggest("a")
    searcher.on_trial_result("a", {METRIC: 0.3, "step": 5})
    searcher.on_trial_complete("a", result, error=error)
    (trial,) = study.trials
    assert trial.state == TrialState.FAIL
    assert trial.user_attrs["reason"] == reason
    assert trial.intermediate_values[5] == 0.3


def test_a_restarted_trial_may_repeat_its_steps(tmp_path):
    study = study_at(tmp_path)
    searcher = after_baseline(study)
    searcher.suggest("a")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for step, value in ((10, 0.1), (20, 0.2), (10, 0.15), (20, 0.25), (30, 0.3), (40, math.nan)):
            searcher.on_trial_result("a", {METRIC: value, "step": step})
        finish(searcher, "a", 0.3, step=30)
    (trial,) = study.trials
    assert trial.intermediate_values == {10: 0.1, 20: 0.2, 30: 0.3}


SMALL = {
    POLICY: dimension(type="categorical", choices=["top_k", "all"]),
    K: dimension(type="int", low=1, high=5, when={"key": POLICY, "in": ["top_k"]}),
}


SAMPLERS = ["tpe", "gp", "nsga2", "random", "grid"]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_small_space_is_tried_in_full_and_once(tmp_path, sampler):
    study = study_at(tmp_path, sampler=sampler)
    suggestions = run_sweep(searcher_on(study, SMALL, num_trials=50), lambda overrides: overrides.get(K, 0))
    tried = [(s["overrides"][POLICY], s["overrides"].get(K)) for s in suggestions]
    assert sorted(tried, key=str) == [("all", None), *(("top_k", k) for k in range(1, 6))]


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "grid"])
def test_every_sampler_searches_a_space_with_conditions_and_goes_on_after_a_restart(tmp_path, sampler):
    first = run_sweep(searcher_on(study_at(tmp_path, sampler=sampler), num_trials=8))
    again = run_sweep(searcher_on(study_at(tmp_path, sampler=sampler), num_trials=12))
    assert (len(first), len(again)) == (8, 4)
    tried = [json.dumps(suggestion["overrides"]) for suggestion in first + again]
    assert len(set(tried)) == 12


def test_a_gaussian_process_finds_what_the_metric_asks_for(tmp_path):
    space = {K: dimension(type="int", low=1, high=100)}
    study = study_at(tmp_path, sampler="gp", seed=1, num_startup_trials=4)
    run_sweep(searcher_on(study, space, num_trials=12), lambda overrides: -abs(overrides[K] - 60))
    # Of 12 random draws from 100 the best lies within 2 of the optimum in fewer than half of all cases.
    assert study.best_value >= -2


def test_a_grid_is_a_part_of_it_where_fewer_trials_are_wanted(tmp_path):
    study = study_at(tmp_path, sampler="grid")
    suggestions = run_sweep(searcher_on(study, SMALL, num_trials=4), lambda overrides: overrides.get(K, 0))
    assert len({json.dumps(suggestion["overrides"]) for suggestion in suggestions}) == 4
    assert not [trial for trial in study.trials if "duplicate_of" in trial.user_attrs]


def test_suggestions_that_run_at_the_same_time_differ(tmp_path):
    searcher = after_baseline(study_at(tmp_path), space=SMALL, num_trials=50)
    suggestions = [searcher.suggest(f"t{number}") for number in range(7)]
    assert suggestions[-1] == "FINISHED"
    assert len({json.dumps(suggestion["overrides"]) for suggestion in suggestions[:-1]}) == 6


def test_duplicates_are_failed_trials_that_name_the_first(tmp_path):
    study = study_at(tmp_path)
    run_sweep(searcher_on(study, SMALL, num_trials=50), lambda overrides: overrides.get(K, 0))
    duplicates = [trial for trial in study.trials if "duplicate_of" in trial.user_attrs]
    assert duplicates
    for trial in duplicates:
        assert trial.state == TrialState.FAIL
        assert study.trials[trial.user_attrs["duplicate_of"]].params == trial.params
    own = [trial for trial in study.trials if "duplicate_of" not in trial.user_attrs]
    assert [trial.state for trial in own] == [TrialState.COMPLETE] * 6


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_sampler_that_only_repeats_itself_is_helped_out(tmp_path):
    study = study_at(tmp_path)
    space = {**SMALL, "training.learning_rate": SPACE["training.learning_rate"]}
    same = {POLICY: "all", "training.learning_rate": 1e-4}
    study.sampler = optuna.samplers.PartialFixedSampler(same, optuna.samplers.RandomSampler(seed=0))
    suggestions = run_sweep(searcher_on(study, space, num_trials=4), lambda overrides: 0.0)
    assert suggestions[0]["overrides"] == same
    assert len({json.dumps(suggestion["overrides"]) for suggestion in suggestions}) == 4


def test_a_count_is_no_fraction(tmp_path):
    count = dimension(type="int", low=1, high=1)
    study = study_at(tmp_path)
    (suggestion,) = run_sweep(searcher_on(study, {K: count}), lambda overrides: 0.0)
    assert repr(suggestion["overrides"]) == "{'selection.policy.k': 1}"


def test_a_failed_configuration_is_not_tried_again(tmp_path):
    searcher = after_baseline(study_at(tmp_path), space={K: dimension(type="int", low=1, high=2)}, num_trials=9)
    first = searcher.suggest("a")
    searcher.on_trial_complete("a", None, error=True)
    second = searcher.suggest("b")
    finish(searcher, "b", 0.1)
    assert {first["overrides"][K], second["overrides"][K]} == {1, 2}
    assert searcher.suggest("c") == "FINISHED"


def test_the_same_seed_gives_the_same_sweep_and_another_another(tmp_path):
    def sweep(folder, seed):
        return run_sweep(searcher_on(study_at(tmp_path / folder, seed=seed), num_trials=8))

    assert sweep("a", 3) == sweep("b", 3)
    assert sweep("c", 4) != sweep("a2", 3)


def test_the_study_file_is_one_that_others_can_read(tmp_path):
    run_sweep(searcher_on(study_at(tmp_path), num_trials=3))
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "study.journal")))
    (summary,) = optuna.get_all_study_summaries(storage)
    assert summary.study_name == "mine"
    assert summary.direction == optuna.study.StudyDirection.MAXIMIZE
    assert summary.n_trials == 3


def test_a_study_goes_on_where_it_stopped(tmp_path):
    first = run_sweep(searcher_on(study_at(tmp_path), num_trials=4))
    again = run_sweep(searcher_on(study_at(tmp_path), num_trials=6))
    assert [suggestion["name"] for suggestion in again] == ["trial_0004", "trial_0005"]
    assert all(suggestion["overrides"] not in [s["overrides"] for s in first] for suggestion in again)
    # With the baseline done there is nothing left to suggest.
    assert searcher_on(study_at(tmp_path), num_trials=6, baseline_is_over=True).suggest("x") == "FINISHED"


def test_a_study_is_not_continued_with_another_search(tmp_path):
    run_sweep(searcher_on(study_at(tmp_path), num_trials=2))
    with refused(ValueError, "tune.metric", "tune.mode: … 'mine' … max eval/f1_macro"):
        study_at(tmp_path, metric="eval/accuracy")
    with pytest.raises(ValueError, match="give the sweep another name"):
        study_at(tmp_path, metric="cost/train_s")
    with pytest.raises(ValueError, match="space: the study 'mine' was begun with"):
        searcher_on(study_at(tmp_path), SMALL)


def test_trials_that_a_killed_sweep_left_open_run_again_first(tmp_path):
    study = study_at(tmp_path)
    killed = after_baseline(study, num_trials=4)
    lost = [killed.suggest(trial_id) for trial_id in "ab"]
    killed.on_trial_result("b", {METRIC: 0.2, "step": 10})
    finish(killed, "a", 0.4)

    study = study_at(tmp_path)
    requeue_interrupted(study)
    suggestions = run_sweep(searcher_on(study, num_trials=4))
    # Under its name, by which its checkpoint is found, and with what it had reported.
    assert suggestions[0] == lost[1]
    assert study.trials[2].intermediate_values.items() >= {10: 0.2}.items()
    # Four trials in all: one before, the lost one once more, two new.
    assert len(suggestions) == 3
    assert study.trials[1].state == TrialState.FAIL
    assert study.trials[2].user_attrs["restart_of"] == 1
    requeue_interrupted(study)
    assert not study.get_trials(states=(TrialState.WAITING,))


def test_a_trial_keeps_its_name_however_often_its_driver_is_killed(tmp_path):
    searcher = after_baseline(study_at(tmp_path), num_trials=2)
    first = searcher.suggest("a")
    for attempt in range(3):
        study = study_at(tmp_path)
        requeue_interrupted(study)
        searcher = searcher_on(study, num_trials=2, baseline_is_over=True)
        assert searcher.suggest("b") == first
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            # The trial goes on from a checkpoint, so that it may say again what it has said.
            for step in range(10, 10 * attempt + 20, 10):
                searcher.on_trial_result("b", {METRIC: step / 100, "step": step})
    finish(searcher, "b", 0.6)
    assert searcher.suggest("c")["name"] != first["name"]
    (last,) = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
    assert last.intermediate_values == {10: 0.1, 20: 0.2, 30: 0.3, 100: 0.6}


def test_a_trial_whose_driver_died_as_it_was_asked_for_has_a_name(tmp_path):
    study = study_at(tmp_path)
    study.ask()
    requeue_interrupted(study)
    searcher = after_baseline(study, num_trials=1)
    suggestion = searcher.suggest("a")
    assert (suggestion["name"], set(suggestion["overrides"]) >= {POLICY}) == ("trial_0000", True)
    finish(searcher, "a", 0.1)
    assert searcher.suggest("b") == "FINISHED"


def test_what_is_over_and_how(tmp_path):
    study = study_at(tmp_path)
    assert ended_trials(study) == []
    searcher = after_baseline(study, num_trials=4)
    suggestions = {name: searcher.suggest(name) for name in "abcd"}
    finish(searcher, "a", 0.4)
    searcher.on_trial_complete("b", {METRIC: 0.1, "step": 10})
    searcher.on_trial_complete("c", None, error=True)
    ended = ended_trials(study)
    assert [outcome.status for _, outcome in ended] == ["finished", "pruned", "failed"]
    assert [asdict(spec) for spec, _ in ended] == [suggestions[name] for name in "abc"]
    assert ended[2][1].reason == "it raised an error"


def test_a_search_is_exhausted_once_there_is_no_more_to_suggest(tmp_path):
    source = OptunaSource(study_at(tmp_path), SPACE, TuneConfig(num_trials=1))
    assert source.ask() is not None
    assert not source.is_exhausted
    assert source.ask() is None
    assert source.is_exhausted


def test_a_searcher_travels_with_the_tuner(tmp_path):
    searcher = after_baseline(study_at(tmp_path), num_trials=2)
    searcher.suggest("a")
    copy = pickle.loads(pickle.dumps(searcher))
    finish(copy, "a", 0.4)
    assert [trial.value for trial in study_at(tmp_path).trials] == [0.4]
