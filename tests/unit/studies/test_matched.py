"""The baseline is compared with at the other settings of a trial: what these are, and when another run is needed."""

from typing import Any

import optuna
import pytest

from irtune.analysis.trials import TrialRow, beside_selection
from irtune.config.load import build, dotted_keys, with_overrides
from irtune.config.sweep_schema import SweepConfig
from irtune.methods import METHODS
from irtune.search.source import BASELINE_OVERRIDES, BASELINE_SPEC, TrialSpec
from irtune.studies.finalists import matched_baseline, matched_overrides, may_differ

K, RATE, POLICY = "selection.policy.k", "training.learning_rate", "selection.policy.name"
INTERVAL = {"type": "int", "low": 1, "high": 9}


def sweep(space: dict[str, Any] | None = None, **tree: Any) -> SweepConfig:
    tree = {"selection": {"policy": {"name": "top_k", "k": 3}}, "space": space or {K: INTERVAL}} | tree
    return build(SweepConfig, tree, "test")


def study_of(overrides: dict[str, dict[str, Any]]) -> optuna.Study:
    """A study in which these trials finished."""
    study = optuna.create_study()
    ranges = {K: optuna.distributions.IntDistribution(1, 9), RATE: optuna.distributions.FloatDistribution(1e-5, 1e-2)}
    for name, params in overrides.items():
        known = {key: ranges[key] for key in params}
        study.add_trial(optuna.create_trial(value=0.5, params=params, distributions=known, user_attrs={"trial": name}))
    return study


def row(config: SweepConfig, name: str, score: float | None, **overrides: Any) -> TrialRow:
    trial = with_overrides(config.experiment(), overrides)
    return TrialRow(
        trial_id=name,
        name=name,
        strategy=trial.strategy,
        status="failed" if score is None else "finished",
        num_blocks=9,
        seed=trial.seed,
        reselect_every=3,
        validation_score=score,
        params=dotted_keys(trial),
    )


@pytest.mark.parametrize(
    ("space", "may"),
    [
        ({K: INTERVAL, "importance.within_block": {"type": "categorical", "choices": ["l2", "max"]}}, False),
        ({"selection.reselect_every": INTERVAL}, False),
        ({"method": {"type": "categorical", "choices": ["ir", "lisa"]}}, False),
        ({RATE: {"type": "float", "low": 1e-5, "high": 1e-3}}, True),
        ({"adapter.r": INTERVAL}, True),
        ({"data.max_train": {"type": "int", "low": 100, "high": 200}}, True),
        ({"engine.precision": {"type": "categorical", "choices": ["fp32", "bf16"]}}, True),
    ],
)
def test_only_what_is_not_about_selecting_blocks_needs_another_baseline(space: dict[str, Any], may: bool) -> None:
    assert may_differ(sweep(space)) is may


def test_a_method_that_says_more_than_what_is_selected_needs_one(monkeypatch: pytest.MonkeyPatch) -> None:
    method = METHODS["lisa"]
    more = type(method)("lisa", method.summary, method.source, {**method.settings, RATE: 3e-5, "adapter.r": 4})
    monkeypatch.setitem(METHODS, "lisa", more)
    config = sweep({"method": {"type": "categorical", "choices": ["ir", "lisa"]}}, selection={})
    assert may_differ(config)
    found = matched_overrides(config.experiment(), {"method": "lisa"}, [BASELINE_OVERRIDES])
    assert found == {**BASELINE_OVERRIDES, RATE: 3e-5, "adapter.r": 4}
    matched = with_overrides(config.experiment(), found)
    assert matched.strategy == "all"
    of_trial = with_overrides(config.experiment(), {"method": "lisa"})
    assert beside_selection(dotted_keys(matched)) == beside_selection(dotted_keys(of_trial))


def test_all_that_was_searched_but_the_selection_is_the_trials() -> None:
    config = sweep({RATE: {"type": "float", "low": 1e-5, "high": 1e-2}, K: INTERVAL, "adapter.r": INTERVAL})
    trial = {RATE: 0.001, K: 2, "adapter.r": 5, "importance.within_block": "max"}
    found = matched_overrides(config.experiment(), trial, [BASELINE_OVERRIDES])
    assert found == {**BASELINE_OVERRIDES, RATE: 0.001, "adapter.r": 5}
    assert matched_overrides(config.experiment(), trial, [BASELINE_OVERRIDES, found]) is None
    as_in_the_file = {RATE: config.training.learning_rate, K: 2, "adapter.r": config.adapter.r}
    assert matched_overrides(config.experiment(), as_in_the_file, [BASELINE_OVERRIDES]) is None


def test_the_best_trial_that_selects_blocks_is_matched_once() -> None:
    config = sweep({RATE: {"type": "float", "low": 1e-5, "high": 1e-2}, K: INTERVAL})
    overrides = {"trial_0000": {RATE: 0.001, K: 2}, "trial_0001": {RATE: 0.002, K: 3}}
    rows = [row(config, "baseline", 0.9, **BASELINE_OVERRIDES)]
    rows += [row(config, name, score, **overrides[name]) for name, score in (("trial_0000", 0.5), ("trial_0001", 0.6))]
    study = study_of(overrides)
    (found,) = matched_baseline(study, rows, config)
    assert found == TrialSpec("baseline_of_trial_0001", {**BASELINE_OVERRIDES, RATE: 0.002})
    assert found.is_baseline
    ran = row(config, found.name, 0.4, **found.overrides)
    assert matched_baseline(study, [*rows, ran], config) == []
    failed = row(config, found.name, None, **found.overrides)
    # What to do with one that failed is for whoever runs it; it is named, and named alike.
    assert matched_baseline(study, [*rows, failed], config) == [found]


def test_where_nothing_that_selects_finished_nothing_is_matched() -> None:
    config = sweep({RATE: {"type": "float", "low": 1e-5, "high": 1e-2}})
    rows = [row(config, "baseline", 0.9, **BASELINE_OVERRIDES), row(config, "trial_0000", None, **{RATE: 1e-3})]
    assert matched_baseline(study_of({"trial_0000": {RATE: 1e-3}}), rows, config) == []


def test_names_of_baselines() -> None:
    assert BASELINE_SPEC.is_baseline
    assert TrialSpec("baseline_of_trial_0001", {}).is_baseline
    assert TrialSpec("finalist_baseline_of_trial_0001_seed_3", {}, "baseline_of_trial_0001").is_baseline
    assert not TrialSpec("trial_0001", {}).is_baseline
    assert not TrialSpec("finalist_trial_0001_seed_3", {}, "trial_0001").is_baseline
