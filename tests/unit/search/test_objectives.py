"""Metrics by name: where results hold them, what bounds are broken, which names there are."""

import math

import pytest
from saying import each_says, refused, says

from irtune.config.load import ConfigError, build, load
from irtune.config.study_schema import Constraint
from irtune.config.sweep_schema import SweepConfig, TuneConfig
from irtune.search.objectives import broken, excesses, measured, unknown_metrics

MEMORY = "cost/peak_memory_bytes"
SPACE = {"selection.reselect_every": {"type": "int", "low": 1, "high": 5}}
EVALUATED = ["eval/f1_macro", "eval/loss"]


def sweep(**settings):
    return build(SweepConfig, {"space": SPACE, "tune": settings}, "file")


def tune(**settings):
    return sweep(**settings).tune


def test_of_the_best_weights_if_the_trial_finished_else_as_last_measured():
    running = {"eval/f1_macro": 0.4, "cost/step_flops": 7.0, "cost/memory_bytes": 1}
    assert measured(running, "eval/f1_macro") == 0.4
    assert measured(running, "cost/step_flops") == 7.0
    finished = running | {"final/validation_f1_macro": 0.5, "cost/mean_step_flops": 6.0}
    assert measured(finished, "eval/f1_macro") == 0.5
    assert measured(finished, "cost/step_flops") == 6.0
    assert measured({"cost/train_s": 3}, "cost/train_s") == 3.0


@pytest.mark.parametrize("value", [None, math.nan, math.inf, "much"])
def test_what_is_no_number_was_not_measured(value):
    assert measured({"cost/train_s": value}, "cost/train_s") is None
    assert measured({}, "cost/train_s") is None


def test_how_far_beyond_a_bound_is_a_share_of_it():
    constraints = {
        MEMORY: Constraint(max=8e9, min=1e9),
        "cost/train_s": Constraint(max=0),
        "eval/loss": Constraint(max=1),
    }
    results = {MEMORY: 10e9, "cost/train_s": 3.0}
    # 10 is a quarter beyond 8 and nine times 1 within; of a bound of 0 there is no share; the loss was not measured.
    assert excesses(results, constraints) == {f"{MEMORY} max": 0.25, f"{MEMORY} min": -9.0, "cost/train_s max": 3.0}
    assert broken(results, constraints) == (f"{MEMORY} 1e+10 above 8e+09", "cost/train_s 3 above 0")
    assert broken({MEMORY: 0.5e9}, constraints) == (f"{MEMORY} 5e+08 below 1e+09",)
    assert broken({MEMORY: 8e9}, constraints) == ()


def test_one_objective_or_several():
    assert TuneConfig().objectives == {"eval/f1_macro": "max"}
    assert tune(metric="eval/loss", mode="min").objectives == {"eval/loss": "min"}
    several = tune(metrics=[{"cost/step_flops": "min"}, {"eval/f1_macro": "max"}])
    assert list(several.objectives.items()) == [("cost/step_flops", "min"), ("eval/f1_macro", "max")]
    assert sweep(metrics=[{"cost/step_flops": "min"}, {"eval/f1_macro": "max"}]).aim.first_objective == (
        "cost/step_flops",
        "min",
    )


@pytest.mark.parametrize(
    ("settings", "mode"),
    [
        ({}, "max"),
        ({"metric": "eval/loss"}, "min"),
        ({"metric": "eval/f1/clarity"}, "max"),
        ({"metric": "cost/train_s"}, "min"),
        ({"metric": "cost/tokens_per_s"}, "max"),
        ({"metric": "cost/mean_lowest_active_block"}, "max"),
        ({"metric": "cost/active_blocks", "mode": "max"}, "max"),
    ],
)
def test_what_is_better_follows_from_the_metric_unless_it_is_said(settings, mode):
    assert sweep(**settings).aim.first_objective[1] == mode


@pytest.mark.parametrize(
    ("settings", "stops_by"),
    [
        ({}, ("eval/f1_macro", "max")),
        ({"metrics": [{"cost/step_flops": "min"}, {"eval/loss": "min"}]}, ("eval/loss", "min")),
        ({"metric": "cost/train_s", "mode": "min"}, ("eval/f1_macro", "max")),
        ({"scheduler": {"metric": "eval/loss"}}, ("eval/loss", "min")),
        ({"scheduler": {"metric": "eval/accuracy"}}, ("eval/accuracy", "max")),
    ],
)
def test_what_stops_trials(settings, stops_by):
    assert sweep(**settings).stops_by == stops_by


@pytest.mark.parametrize(
    ("settings", "metric", "objectives"),
    [
        ({}, "f1_macro", {"eval/f1_macro": "max"}),
        ({"metric": "accuracy"}, "accuracy", {"eval/accuracy": "max"}),
        ({"metric": "eval/loss"}, "loss", {"eval/loss": "min"}),
        ({"tune.metric": "eval/loss"}, "loss", {"eval/loss": "min"}),
        ({"metric": "loss", "tune.metric": "eval/loss"}, "loss", {"eval/loss": "min"}),
        ({"metric": "loss", "tune.metric": "cost/train_s"}, "loss", {"cost/train_s": "min"}),
        (
            {"tune.metrics": [{"cost/train_s": "min"}, {"eval/auprc_macro": "max"}]},
            "auprc_macro",
            {"cost/train_s": "min", "eval/auprc_macro": "max"},
        ),
        ({"metric": "f1/clarity", "tune.num_trials": 3}, "f1/clarity", {"eval/f1/clarity": "max"}),
    ],
)
def test_one_metric_decides_wherever_it_is_said(settings, metric, objectives):
    config = load(SweepConfig, None, {"space": SPACE, **settings})
    assert config.metric == metric
    assert config.tune.objectives == objectives
    assert config.experiment().metric == metric


def test_two_metrics_that_shall_decide_are_refused():
    with refused(ConfigError, "metric: accuracy", "loss (tune.metric)"):
        load(SweepConfig, None, {"space": SPACE, "metric": "accuracy", "tune.metric": "eval/loss"})


@pytest.mark.parametrize(
    ("settings", "mistake"),
    [
        (
            {"metrics": [{"eval/f1_macro": "max"}], "metric": "eval/loss"},
            "tune.metrics: excludes tune.metric … all objectives",
        ),
        (
            {"metrics": [{"eval/f1_macro": "max", "eval/loss": "min"}]},
            "tune.metrics: … max|min … once",
        ),
        (
            {"metrics": [{"eval/f1_macro": "max"}, {"eval/f1_macro": "min"}]},
            "tune.metrics: … max|min … once",
        ),
        ({"metrics": []}, "tune.metrics: … max|min … once"),
        ({"metrics": [{"eval/f1_macro": "up"}]}, "tune.metrics.0.eval/f1_macro: … 'max' or 'min' … 'up'"),
        ({"metric": "eval/loss", "mode": "max"}, "tune.mode: … eval/loss min … not max"),
        ({"metrics": [{"eval/loss": "max"}]}, "tune.metrics: … eval/loss min … not max"),
        ({"constraints": {MEMORY: {}}}, f"tune.constraints.{MEMORY}.max: … max, min or both"),
        ({"constraints": {MEMORY: {"max": 1, "min": 2}}}, f"tune.constraints.{MEMORY}.min: 2 … max (1)"),
    ],
)
def test_mistakes(settings, mistake):
    with pytest.raises(ConfigError) as error:
        tune(**settings)
    assert each_says(error.value.mistakes, (mistake,))


def test_names_that_no_trial_has():
    assert unknown_metrics(TuneConfig(), EVALUATED) == []
    settings = tune(
        metrics=[{"eval/f1_makro": "max"}, {"cost/step_flops": "min"}],
        constraints={"cost/peak_memory": {"max": 1}},
        scheduler={"metric": "cost/step_s"},
    )
    objective, constraint, scheduler = unknown_metrics(settings, EVALUATED)
    assert says(objective, "tune.metrics: … 'eval/f1_makro' … 'eval/f1_macro'?", "available:")
    assert says(constraint, "tune.constraints: … 'cost/peak_memory' … 'cost/peak_memory_bytes'?")
    # What a run costs is known at its end only.
    assert says(scheduler, "tune.scheduler.metric: … 'cost/step_s'", "available: eval/f1_macro, eval/loss")
    (one,) = unknown_metrics(TuneConfig(metric="eval/f1"), EVALUATED)
    assert says(one, "tune.metric: … 'eval/f1' … 'eval/f1_macro'?")
