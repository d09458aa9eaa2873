"""A sweep that learns from the trials of an earlier one."""

import math
import pickle

import numpy as np
import pytest
from optuna.trial import TrialState
from saying import each_says, refused
from searching import is_baseline, searcher_of

from irtune.config.sweep_schema import Dimension, TuneConfig
from irtune.search.optuna_source import EARLIER, ended_trials, open_study, requeue_interrupted
from irtune.search.warm_start import earlier_trials, warm_start

F1, MEMORY = "eval/f1_macro", "cost/peak_memory_bytes"
POLICY, K, RATE = "selection.policy.name", "selection.policy.k", "training.learning_rate"


def space(most=100, policies=("top_k", "random")):
    return {
        POLICY: Dimension(type="categorical", choices=(*policies, "variance_split")),
        K: Dimension(type="int", low=1, high=most, when={"key": POLICY, "in": list(policies)}),
        RATE: Dimension(type="float", low=1e-5, high=1e-3, log=True),
    }


@pytest.fixture(autouse=True)
def _nothing_has_to_survive_a_power_cut(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


def score(overrides):
    off = abs(math.log10(overrides[RATE]) + 4) / 2 + abs(overrides.get(K, 0) - 60) / 100
    return (0.2 if overrides[POLICY] == "top_k" else 0.0) - off


def begin(folder, searched=None, **settings):
    tune = TuneConfig(**settings)
    study = open_study(folder / "study.journal", folder.name, tune)
    requeue_interrupted(study)
    warm_start(study, earlier_trials(tune, searched or space())[0])
    return study, searcher_of(study, searched or space(), tune)


def run(searcher, limit=10_000):
    suggestions = []
    for number in range(limit):
        suggestion = searcher.suggest(f"t{number}")
        if suggestion == "FINISHED":
            break
        value = -1.0 if is_baseline(suggestion) else score(suggestion["overrides"])
        result = {F1: value, MEMORY: 1e9 * suggestion["overrides"].get(K, 0), "step": 100, "final": True}
        if number % 4 == 3:
            result = {F1: value, "step": 10}
        searcher.on_trial_complete(f"t{number}", result)
        suggestions.append(suggestion)
    return suggestions


@pytest.fixture
def earlier(tmp_path):
    """The folder of a sweep of 40 trials, a quarter of which were stopped."""
    folder = tmp_path / "first"
    run(begin(folder, num_trials=40, seed=1)[1])
    return folder


def own(study):
    return [trial for trial in study.trials if EARLIER not in trial.user_attrs]


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_five_trials_find_more_for_it(tmp_path, earlier, sampler):
    best = {}
    for name, path in (("cold", None), ("warm", str(earlier))):
        studies = [run_five(tmp_path / f"{name}{i}", sampler=sampler, seed=i, warm_start=path) for i in range(4)]
        best[name] = [max(trial.value for trial in own(study) if trial.value is not None) for study in studies]
    assert np.mean(best["warm"]) > np.mean(best["cold"]) + 0.1


def run_five(folder, **settings):
    study, searcher = begin(folder, num_trials=5, **settings)
    run(searcher)
    return study


def test_earlier_trials_are_known_and_are_no_trials_of_the_sweep(tmp_path, earlier):
    study, searcher = begin(tmp_path / "second", num_trials=3, warm_start=str(earlier / "study.journal"))
    known = [trial for trial in study.trials if EARLIER in trial.user_attrs]
    assert len(known) == 40
    assert {trial.state for trial in known} == {TrialState.COMPLETE, TrialState.PRUNED}
    assert ended_trials(study) == []
    suggestions = run(searcher)
    assert len(suggestions) == 1 + 3
    assert len(ended_trials(study)) == 3
    first = open_first(earlier)
    assert [trial.params for trial in known] == [trial.params for trial in first]
    assert [trial.values for trial in known] == [trial.values for trial in first]
    assert [trial.intermediate_values for trial in known] == [trial.intermediate_values for trial in first]
    assert known[0].user_attrs == {EARLIER: "first 0", MEMORY: first[0].user_attrs[MEMORY]}


def open_first(folder):
    study = open_study(folder / "study.journal", "first", TuneConfig())
    return study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))


def test_what_was_tried_earlier_may_be_tried_again(tmp_path):
    searched = {K: Dimension(type="int", low=1, high=3), POLICY: Dimension(type="categorical", choices=("top_k",))}
    searched[RATE] = Dimension(type="categorical", choices=(1e-4,))
    run(begin(tmp_path / "first", searched, num_trials=9)[1])
    suggestions = run(begin(tmp_path / "second", searched, num_trials=9, warm_start=str(tmp_path / "first"))[1])
    assert sorted(suggestion["overrides"].get(K, 0) for suggestion in suggestions) == [0, 1, 2, 3]


def test_a_resumed_sweep_does_not_add_them_twice(tmp_path, earlier):
    settings = {"num_trials": 4, "warm_start": str(earlier)}
    _, searcher = begin(tmp_path / "second", **settings)
    begun = [searcher.suggest(name) for name in ("baseline", "a", "b")]
    searcher.on_trial_complete("a", {F1: 0.1, "step": 100, "final": True})
    study, searcher = begin(tmp_path / "second", **settings)
    assert len(study.trials) == 40 + 2 + 1
    assert [spec.name for spec, _ in ended_trials(study)] == [begun[1]["name"]]
    suggestions = run(searcher)
    # The baseline, the lost one under its name, and two that are left of four.
    assert [len(suggestions), suggestions[1]["name"]] == [4, begun[2]["name"]]
    # Without the setting the sweep goes on with what it knows.
    study, searcher = begin(tmp_path / "second", num_trials=4)
    assert sum(EARLIER in trial.user_attrs for trial in study.trials) == 40


def test_trials_outside_the_space_are_left_out_and_counted(tmp_path, earlier):
    first = open_first(earlier)
    inside = [trial for trial in first if trial.params.get(K, 0) <= 50]
    found, doubts = earlier_trials(TuneConfig(warm_start=str(earlier)), space(most=50))
    assert 0 < len(inside) < 40
    assert [trial.params for trial in found] == [trial.params for trial in inside]
    assert each_says(
        doubts,
        (
            f"tune.warm_start: {40 - len(inside)} of 40 … {earlier} … left out",
            "outside of this space",
            "tune.constraints",
        ),
    )
    _, searcher = begin(tmp_path / "second", space(most=50), num_trials=8, warm_start=str(earlier))
    assert all(suggestion["overrides"].get(K, 0) <= 50 for suggestion in run(searcher))


def test_trials_with_another_dimension_are_no_trials_of_the_space(earlier):
    searched = space() | {"training.weight_decay": Dimension(type="float", low=0, high=1)}
    with refused(ValueError, "tune.warm_start: none of the 40", "finished"):
        earlier_trials(TuneConfig(warm_start=str(earlier)), searched)
    del searched["training.weight_decay"], searched[RATE]
    with pytest.raises(ValueError, match="none of the 40"):
        earlier_trials(TuneConfig(warm_start=str(earlier)), searched)


def test_constraints_hold_for_earlier_trials_too(tmp_path, earlier):
    bounded = TuneConfig(warm_start=str(earlier), constraints={MEMORY: {"max": 30e9}})
    found, _ = earlier_trials(bounded, space())
    finished = [trial for trial in found if trial.state == TrialState.COMPLETE]
    assert {trial.constraints[f"{MEMORY} max"] <= 0 for trial in finished} == {True, False}
    assert all((t.constraints[f"{MEMORY} max"] <= 0) == (t.params.get(K, 0) <= 30) for t in finished)
    # What the earlier sweep did not measure cannot be bounded; those it stopped say something all the same.
    unknown = TuneConfig(warm_start=str(earlier), constraints={"cost/train_s": {"max": 1}})
    assert {trial.state for trial in earlier_trials(unknown, space())[0]} == {TrialState.PRUNED}
    study, searcher = begin(
        tmp_path / "second", num_trials=4, sampler="gp", **bounded.model_dump(include={"constraints", "warm_start"})
    )
    run(searcher)
    assert study.best_trial.params.get(K, 0) <= 30


def test_several_objectives(tmp_path):
    several = ({F1: "max"}, {MEMORY: "min"})
    run(begin(tmp_path / "first", num_trials=20, metrics=several)[1])
    study, _ = begin(tmp_path / "second", metrics=several, warm_start=str(tmp_path / "first"))
    assert {(trial.state, trial.values is None) for trial in study.trials} == {
        (TrialState.COMPLETE, False),
        (TrialState.PRUNED, True),
    }
    with refused(ValueError, "max eval/f1_macro, min cost/peak_memory_bytes"):
        earlier_trials(TuneConfig(warm_start=str(tmp_path / "first")), space())


def test_nothing_but_a_journal_is_read(tmp_path):
    class Bad:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    (tmp_path / "study.pkl").write_bytes(pickle.dumps(Bad()))
    (tmp_path / "text.journal").write_text('{"op_code": 17}\n["no", "log"]\n')
    (tmp_path / "empty.journal").write_text("")
    for name in ("study.pkl", "text.journal", "empty.journal"):
        with pytest.raises(ValueError, match=rf"tune\.warm_start: .*{name} is no journal of one study"):
            earlier_trials(TuneConfig(warm_start=str(tmp_path / name)), space())
    with refused(ValueError, "nowhere is not there", "folder of a sweep", "study.journal"):
        earlier_trials(TuneConfig(warm_start=str(tmp_path / "nowhere")), space())
    with pytest.raises(ValueError, match=r"study\.journal is not there"):
        earlier_trials(TuneConfig(warm_start=str(tmp_path)), space())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.journal", "study.pkl", "text.journal"]
