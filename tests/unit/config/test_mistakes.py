"""What a user reads who got something wrong: file, dotted key, what was found, what is allowed."""

import pickle
import re
from typing import ClassVar

import pytest
from saying import each_says, says

from irtune.config.load import ConfigError, build
from irtune.config.schema import ExperimentConfig, SelectionConfig
from irtune.config.sweep_schema import SweepConfig
from irtune.importance import SIGNALS, GradientNorm
from irtune.selection import POLICIES, SelectionPolicy, VarianceSplit

SPACE = {"selection.reselect_every": {"type": "int", "low": 10, "high": 50}}


def listed(names):
    return ", ".join(sorted(names))


def options(variant):
    return listed(set(variant.model_fields) - {"name"})


WITH_K = listed(name for name, policy in POLICIES.items() if "k" in policy.model_fields)


def mistakes(tree, config_type=ExperimentConfig):
    with pytest.raises(ConfigError) as caught:
        build(config_type, tree, "experiment.yaml")
    assert str(caught.value) == "\n".join(f"experiment.yaml: {mistake}" for mistake in caught.value.mistakes)
    return caught.value.mistakes


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        pytest.param(
            {"selection": {"reselect_evry": 5}},
            "selection.reselect_evry: … unknown … 'reselect_every'? … "
            f"available: {listed(SelectionConfig.model_fields)}",
            id="unknown-key",
        ),
        pytest.param(
            {"tracking": {"xyz": 5}},
            re.compile(
                r"^tracking\.xyz: unknown[^?]*available: experiment, keep_adapters, may_be_away, register_winner, "
                r"system_metrics, upload_adapters, uri$"
            ),
            id="unknown-key-far-from-all",
        ),
        pytest.param(
            {"selection": {"policy": {"name": "top_k", "k": 3, "windw": 1}}},
            re.compile(r"^selection\.policy\.windw: top_k [^?]*available: k$"),
            id="unknown-key-in-variant",
        ),
        pytest.param(
            {"selection": {"policy": {"windw": [0.3, 0.7]}}},
            f"selection.policy.windw: variance_split … 'window'? … available: {options(VarianceSplit)}",
            id="unknown-key-in-default-variant",
        ),
        pytest.param(
            {"selection": {"policy": {"name": "top_k", "k": 3, "splits": 2}}},
            "selection.policy.splits: top_k … its options: k) … variance_split has",
            id="key-of-another-variant",
        ),
        pytest.param(
            {"selection": {"policy": {"name": "variance_split", "k": 10}}},
            "selection.policy.k: variance_split … its options: "
            f"{', '.join(list(VarianceSplit.model_fields)[1:])}) … k is an option of {WITH_K}",
            id="k-for-variance-split",
        ),
        pytest.param(
            {"selection": {"policy": {"name": "all", "k": 10}}},
            f"selection.policy.k: all … its options: none) … k is an option of {WITH_K}",
            id="k-for-all",
        ),
        pytest.param(
            {"importance": {"tensor": "all"}},
            f"importance.tensor: gradient_norm … 'tensors'? … available: {options(GradientNorm)}",
            id="unknown-key-in-signal",
        ),
        pytest.param(
            {"selection": {"policy": {"name": "topk"}}},
            f"selection.policy.name: … 'topk' … 'top_k'? … available: {listed(POLICIES)} … package.module:Attr",
            id="unknown-variant",
        ),
        pytest.param(
            {"importance": {"name": "gradient"}},
            f"importance.name: … 'gradient' … 'gradient_norm'? … available: {listed(SIGNALS)} … package.module:Attr",
            id="unknown-signal",
        ),
        pytest.param(
            {"importance": {"name": "irtune.selection:TopK"}},
            "importance.name: 'irtune.selection:TopK' … ImportanceSignal",
            id="variant-of-another-kind",
        ),
        pytest.param({"data": {"name": 3}}, "data.name: … text … 3", id="name-no-text"),
        pytest.param(
            {"selection": {"policy": "all"}},
            "selection.policy: … section … 'all' … selection.policy.name",
            id="variant-as-text",
        ),
        pytest.param({"model": 3}, "model: … section … 3", id="section-as-number"),
        pytest.param(
            {"selection": {"policy": {"name": "top_k"}}},
            "selection.policy.k: is required … count … fraction",
            id="missing",
        ),
        pytest.param(
            {"selection": {"policy": {"name": "top_k", "k": 0}}},
            "selection.policy.k: 0 … count from 1 … fraction … (0, 1]",
            id="k-zero",
        ),
        pytest.param(
            {"selection": {"policy": {"window": [0.7, 0.3]}}},
            "selection.policy.window: … two fractions … 0 <= low <= high <= 1 … [0.7, 0.3]",
            id="window",
        ),
        pytest.param({"adapter": {"r": "ten"}}, "adapter.r: … whole number … 'ten'", id="text-for-whole-number"),
        pytest.param({"adapter": {"r": 1.5}}, "adapter.r: … whole number … 1.5", id="fraction-for-count"),
        pytest.param({"training": {"learning_rate": "fast"}}, "training.learning_rate: … number … 'fast'", id="number"),
        pytest.param(
            {"training": {"learning_rate": float("inf")}},
            "training.learning_rate: … finite … inf",
            id="infinite",
        ),
        pytest.param(
            {"training": {"weight_decay": -1}},
            "training.weight_decay: … equal to 0 … -1",
            id="bound",
        ),
        pytest.param({"tracking": {"experiment": 5}}, "tracking.experiment: … text … 5 … quotes", id="text"),
        pytest.param({"model": {"train_head": "maybe"}}, "model.train_head: … true or false … 'maybe'", id="bool"),
        pytest.param({"engine": {"zero_stage": 4}}, "engine.zero_stage: … 0, 1, 2 or 3 … 4", id="one-of-numbers"),
        pytest.param(
            {"training": {"lr_schedule": "step"}},
            "training.lr_schedule: … 'linear', 'cosine', 'constant' or 'constant_with_warmup' … 'step'",
            id="one-of-names",
        ),
        pytest.param(
            {"adapter": {"target_modules": ["q_proj", 5]}},
            "adapter.target_modules.1: … text … 5 … quotes",
            id="inside-a-list",
        ),
        pytest.param(
            {"engine": {"precision": "fp16"}},
            "engine.precision: fp16 … GPU … engine.gpus_per_worker … bf16 or fp32",
            id="fp16-on-cpu",
        ),
        pytest.param(
            {"engine": {"precision": "fp16", "gpus_per_worker": 1}},
            "engine.zero_stage: fp16 … stage 0 … DeepSpeed 0.19 … engine.zero_stage=1 … engine.precision=bf16",
            id="fp16-at-stage-0",
        ),
        pytest.param({"name": "a b"}, "name: … '^[A-Za-z0-9][A-Za-z0-9._-]*$' … 'a b'", id="pattern"),
        pytest.param({"space": SPACE}, "space: … sweep … single run", id="sweep-as-run"),
    ],
)
def test_one_mistake(tree, expected):
    assert each_says(mistakes(tree), (expected,))


@pytest.mark.parametrize(("key", "meant"), [("learning_rate", "learning_rate"), ("lerning_rate", "learning_rate")])
def test_a_key_in_the_wrong_section_is_found_in_its_own(key, meant):
    (mistake,) = mistakes({key: 1e-3})
    assert says(mistake, f"{key}: … unknown … training.{meant}?", "available: adapter, data")


def test_a_key_of_two_other_sections_names_both():
    (mistake,) = mistakes({"adapter": {"seed": 1}})
    assert says(mistake, "adapter.seed: … unknown … seed or data.seed?", "available: alpha")


def test_long_values_are_cut():
    (mistake,) = mistakes({"engine": {"zero_stage": "x" * 500}})
    assert len(mistake) < 200


@pytest.mark.parametrize(
    ("dimension", "expected"),
    [
        ({"type": "int", "low": 1, "high": 5, "hihg": 3}, {"hihg": "unknown … 'high'?"}),
        ({"low": 1, "high": 5}, {"type": "is required"}),
        ({"type": "integer"}, {"type": "'int', 'float' or 'categorical' … 'integer'"}),
        ({"type": "int"}, {"low": "int needs low", "high": "int needs low"}),
        ({"type": "int", "low": 1.5, "high": 5}, {"low": "whole number … int … 1.5"}),
        ({"type": "float", "low": 5, "high": 1}, {"low": "5 is above high (1)"}),
        ({"type": "float", "low": 0, "high": 1, "log": True}, {"low": "low above 0 … 0"}),
        ({"type": "float", "low": 0.1, "high": 1, "log": True, "step": 0.1}, {"log": "log … step"}),
        ({"type": "float", "low": 0, "high": ".inf"}, {"high": "number … '.inf'"}),
        ({"type": "float", "low": 0, "high": float("inf")}, {"high": "finite … inf"}),
        (
            {"type": "int", "low": 1, "high": 11, "step": 3},
            {"high": "11 … steps of 3 … last … 10"},
        ),
        ({"type": "float", "low": 0.1, "high": 1, "choices": [1]}, {"choices": "float takes low"}),
        ({"type": "categorical"}, {"choices": "needs choices"}),
        ({"type": "categorical", "choices": []}, {"choices": "needs choices"}),
        (
            {"type": "categorical", "choices": [1], "low": 0, "log": True},
            {"low": "takes choices", "log": "takes choices"},
        ),
        ({"type": "categorical", "choices": [1, 1.0]}, {"choices": "1.0 equals"}),
        ({"type": "categorical", "choices": ["a", "b", "a"]}, {"choices": "'a' equals"}),
        (
            {"type": "categorical", "choices": ["a", [1]]},
            {"choices.1": "text … number … true or false … [1]"},
        ),
        (
            {"type": "categorical", "choices": [1, 2], "when": {"key": "a", "in": "b"}},
            {"when.in": "list … 'b'"},
        ),
        (
            {"type": "categorical", "choices": [1, 2], "when": {"ky": "a", "in": [1]}},
            {"when.key": "is required", "when.ky": "unknown … 'key'? … available: in, key"},
        ),
        ({"type": "categorical", "choices": [1], "when": {"key": "a", "in": []}}, {"when.in": "at least 1"}),
    ],
)
def test_mistakes_in_a_dimension(dimension, expected):
    found = mistakes({"space": {"selection.policy.k": dimension}}, SweepConfig)
    by_key = dict(mistake.removeprefix("space.selection.policy.k.").split(": ", 1) for mistake in found)
    assert by_key.keys() == expected.keys()
    assert all(says(by_key[key], fact) for key, fact in expected.items())


@pytest.mark.parametrize(
    ("tune", "expected"),
    [
        ({"scheduler": {"grace": 3}}, "tune.scheduler.grace: … unknown … 'grace_steps'? … available:"),
        ({"scheduler": {"grace_steps": 0}}, "tune.scheduler.grace_steps: … greater than 0 … not 0"),
        ({"scheduler": {"name": "pbt"}}, "tune.scheduler.name: … 'asha' … 'pbt'"),
        ({"n_trials": 3}, "tune.n_trials: … unknown … 'num_trials'? … available:"),
    ],
)
def test_mistakes_in_tune(tune, expected):
    (mistake,) = mistakes({"space": SPACE, "tune": tune}, SweepConfig)
    assert says(mistake, expected)


@pytest.mark.parametrize(
    ("tune", "remedy"),
    [
        ({"execution": "slots"}, "must be 'in_process' or 'pool', not 'slots'"),
        ({"renew_slots_after": 5}, "did you mean 'renew_after'?"),
    ],
)
def test_words_of_earlier_versions_are_refused_with_the_present_ones(tune, remedy):
    (mistake,) = mistakes({"space": SPACE, "tune": tune}, SweepConfig)
    assert mistake.startswith(f"tune.{next(iter(tune))}: ")
    assert remedy in mistake


def test_what_only_renews_a_pool_is_refused_in_process():
    tree = {"space": SPACE, "tune": {"renew_after": 1}}
    (mistake,) = mistakes(tree, SweepConfig)
    assert mistake.startswith("tune.renew_after: ")
    assert "set tune.execution=pool" in mistake
    for engine, execution in (({"num_workers": 2}, None), ({}, "pool")):
        build(SweepConfig, tree | {"engine": engine, "tune": {"renew_after": 1, "execution": execution}}, "x")


def test_a_sweep_without_dimensions():
    (mistake,) = mistakes({"tune": {}}, SweepConfig)
    assert says(mistake, "space: is required … dotted key")
    (mistake,) = mistakes({"space": {}}, SweepConfig)
    assert says(mistake, "space: … at least 1")


def test_all_mistakes_at_once():
    found = mistakes(
        {
            "name": "a b",
            "lerning_rate": 1e-3,
            "adapter": {"r": 0, "rank": 3},
            "importance": {"name": "gradient_norm", "within_block": "l1"},
            "selection": {"policy": {"name": "top_k", "k": 1.5, "windw": 3}, "reselect_every": -1},
            "training": {"max_steps": "many"},
            "engine": {"precision": "fp16"},
            "space": {"selection.policy.k": {"type": "int", "low": 3}},
            "tune": {"num_trials": 0, "scheduler": {"grace_steps": -1}},
        },
        SweepConfig,
    )
    assert {mistake.split(": ")[0] for mistake in found} == {
        "name",
        "lerning_rate",
        "adapter.r",
        "adapter.rank",
        "importance.within_block",
        "selection.policy.k",
        "selection.policy.windw",
        "selection.reselect_every",
        "training.max_steps",
        "engine.precision",
        "space.selection.policy.k.high",
        "tune.num_trials",
        "tune.scheduler.grace_steps",
    }
    assert len(found) == 13


def test_mistakes_travel_between_processes():
    error = ConfigError("x.yaml", ["seed: first", "name: second"])
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == str(error) == "x.yaml: seed: first\nx.yaml: name: second"
    assert copy.mistakes == error.mistakes


class FirstBlocks(SelectionPolicy):
    """A policy from outside the package."""

    count: int = 1
    uses_importance: ClassVar[bool] = False


def test_options_of_a_policy_from_outside_are_checked_alike():
    name = f"{__name__}:FirstBlocks"
    policy = build(ExperimentConfig, {"selection": {"policy": {"name": name, "count": 3}}}, "x").selection.policy
    assert isinstance(policy, FirstBlocks)
    assert (policy.name, policy.count) == (name, 3)
    assert each_says(
        mistakes({"selection": {"policy": {"name": name, "count": "x", "cuont": 1}}}),
        ("selection.policy.count: … whole number … 'x'",),
        (f"selection.policy.cuont: {name} … 'count'?", re.compile("available: count$")),
    )
