"""Samplers by name, irtune's and those of users."""

import optuna
import pytest
from own_samplers import Lowest

from irtune.config.load import build
from irtune.config.sweep_schema import SweepConfig, TuneConfig
from irtune.search.optuna_source import open_study
from irtune.search.samplers import SAMPLERS, build_sampler
from irtune.search.space import suggest
from irtune.search.space_checks import check_space, doubtful

SPACE = {"selection.reselect_every": {"type": "int", "low": 1, "high": 8}}


def sweep(**tune):
    return build(SweepConfig, {"space": SPACE, "training": {"max_steps": 20}, "tune": tune}, "x")


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_name_is_one_of_optunas(name):
    assert isinstance(build_sampler(TuneConfig(sampler=name), seed=3), optuna.samplers.BaseSampler)
    assert check_space(sweep(sampler=name)) == []


def test_an_unknown_name_says_which_was_meant_and_what_there_is():
    (mistake,) = check_space(sweep(sampler="tpee"))
    assert mistake.startswith("tune.sampler: ")
    assert all(told in mistake for told in ("did you mean 'tpe'", *SAMPLERS, "package.module:Attr"))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("no_such_module:Sampler", "ModuleNotFoundError"),
        ("own_samplers:Absent", "AttributeError"),
        ("own_samplers:without_seed", "TypeError"),
        ("own_samplers:nothing", "NoneType"),
        ("irtune.plugins:nearest", "TypeError"),
    ],
)
def test_what_cannot_be_made_is_found_before_a_sweep(name, told):
    (mistake,) = check_space(sweep(sampler=name))
    assert mistake.startswith("tune.sampler: ")
    assert name in mistake
    assert told in mistake
    with pytest.raises(ValueError, match=r"^tune\.sampler: "):
        build_sampler(TuneConfig(sampler=name), 0)


def test_what_it_refuses_when_it_is_asked_is_found_before_a_sweep():
    one, two = {"metric": "eval/f1_macro"}, {"metrics": [{"eval/f1_macro": "max"}, {"cost/step_flops": "min"}]}
    assert check_space(sweep(sampler="own_samplers:OneObjective", **one)) == []
    (mistake,) = check_space(sweep(sampler="own_samplers:OneObjective", **two))
    assert mistake.startswith("tune.sampler: own_samplers:OneObjective ")
    assert "one objective only" in mistake


@pytest.mark.parametrize("name", ["own_samplers:Lowest", "own_samplers:from_a_function"])
def test_a_sampler_from_outside_goes_on_with_a_study(name, tmp_path):
    config = sweep(sampler=name, warm_start="x", constraints={"cost/peak_memory_bytes": {"max": 8e9}})
    assert check_space(config) == []
    assert [doubt for doubt in doubtful(config) if doubt.startswith("tune.sampler")] == []
    for number in range(3):
        # A driver each, as after --resume.
        study = open_study(tmp_path / "study.journal", "name", config.tune)
        assert isinstance(study.sampler, Lowest)
        trial = study.ask()
        values = suggest(trial, config.space)
        assert trial.number == number
        assert number == 0 or values == {"selection.reselect_every": 1}
        study.tell(trial, 0.5)
