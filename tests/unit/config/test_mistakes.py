"""What a user reads who got something wrong: file, dotted key, what was found, what is allowed."""

import pickle
from typing import ClassVar

import pytest
from saying import says

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
            "selection.reselect_evry: unknown key: did you mean 'reselect_every'? "
            f"available: {listed(SelectionConfig.model_fields)}",
            id="unknown-key",
        ),
        pytest.param(
            {"tracking": {"xyz": 5}},
            "tracking.xyz: unknown key: available: experiment, keep_adapters, may_be_away, upload_adapters, uri",
            id="unknown-key-far-from-all",
        ),
        pytest.param(
            {"selection": {"policy": {"name": "top_k", "k": 3, "windw": 1}}},
            "selection.policy.windw: top_k has no such option: available: k",
            id="unknown-key-in-variant",
        ),
        pytest.param(
            {"selection": {"policy": {"windw": [0.3, 0.7]}}},
            "selection.policy.windw: variance_split has no such option: did you mean 'window'? "
            f"available: {options(VarianceSplit)}",
            id="unknown-key-in-default-variant",
        ),
        pytest.param(
            {"selection": {"policy": {"name": "top_k", "k": 3, "splits": 2}}},
            "selection.policy.splits: top_k has no such option (its options: k); variance_split has",
            id="key-of-another-variant",
        ),
        pytest.param(
            {"selection": {"policy": {"name": "variance_split", "k": 10}}},
            "selection.policy.k: variance_split decides its own number of blocks (its options: "
            f"{', '.join(list(VarianceSplit.model_fields)[1:])}); k is an option of {WITH_K}",
            id="k-for-variance-split",
        ),
        pytest.param(
            {"selection": {"policy": {"name": "all", "k": 10}}},
            f"selection.policy.k: all decides its own number of blocks (its options: none); k is an option of {WITH_K}",
            id="k-for-all",
        ),
        pytest.param(
            {"importance": {"tensor": "all"}},
            "importance.tensor: gradient_norm has no such option: did you mean 'tensors'? "
            f"available: {options(GradientNorm)}",
            id="unknown-key-in-signal",
        ),
        pytest.param(
            {"selection": {"policy": {"name": "topk"}}},
            "selection.policy.name: unknown name 'topk': did you mean 'top_k'? "
            f"available: {listed(POLICIES)}, or your own as package.module:Attr",
            id="unknown-variant",
        ),
        pytest.param(
            {"importance": {"name": "gradient"}},
            "importance.name: unknown name 'gradient': did you mean 'gradient_norm'? "
            f"available: {listed(SIGNALS)}, or your own as package.module:Attr",
            id="unknown-signal",
        ),
        pytest.param(
            {"importance": {"name": "irtune.selection:TopK"}},
            "importance.name: 'irtune.selection:TopK' is not a subclass of ImportanceSignal",
            id="variant-of-another-kind",
        ),
        pytest.param({"data": {"name": 3}}, "data.name: must be text, not 3", id="name-no-text"),
        pytest.param(
            {"selection": {"policy": "all"}},
            "selection.policy: must be a section of key: value, not 'all': the choice itself is selection.policy.name",
            id="variant-as-text",
        ),
        pytest.param({"model": 3}, "model: must be a section of key: value, not 3", id="section-as-number"),
        pytest.param(
            {"selection": {"policy": {"name": "top_k"}}},
            "selection.policy.k: is required (blocks that train: a count, or a fraction of all)",
            id="missing",
        ),
        pytest.param(
            {"selection": {"policy": {"name": "top_k", "k": 0}}},
            "selection.policy.k: 0 is not a number of blocks: "
            "give a count from 1, or a fraction of all blocks in (0, 1]",
            id="k-zero",
        ),
        pytest.param(
            {"selection": {"policy": {"window": [0.7, 0.3]}}},
            "selection.policy.window: must be two fractions with 0 <= low <= high <= 1, not [0.7, 0.3]",
            id="window",
        ),
        pytest.param(
            {"adapter": {"r": "ten"}}, "adapter.r: must be a whole number, not 'ten'", id="text-for-whole-number"
        ),
        pytest.param({"adapter": {"r": 1.5}}, "adapter.r: must be a whole number, not 1.5", id="fraction-for-count"),
        pytest.param(
            {"training": {"learning_rate": "fast"}}, "training.learning_rate: must be a number, not 'fast'", id="number"
        ),
        pytest.param(
            {"training": {"learning_rate": float("inf")}},
            "training.learning_rate: must be a finite number, not inf",
            id="infinite",
        ),
        pytest.param(
            {"training": {"weight_decay": -1}},
            "training.weight_decay: must be greater than or equal to 0, not -1",
            id="bound",
        ),
        pytest.param(
            {"tracking": {"experiment": 5}}, "tracking.experiment: must be text, not 5: put it in quotes", id="text"
        ),
        pytest.param(
            {"model": {"train_head": "maybe"}}, "model.train_head: must be true or false, not 'maybe'", id="bool"
        ),
        pytest.param(
            {"engine": {"zero_stage": 4}}, "engine.zero_stage: must be 0, 1, 2 or 3, not 4", id="one-of-numbers"
        ),
        pytest.param(
            {"training": {"lr_schedule": "step"}},
            "training.lr_schedule: must be 'linear', 'cosine', 'constant' or 'constant_with_warmup', not 'step'",
            id="one-of-names",
        ),
        pytest.param(
            {"adapter": {"target_modules": ["q_proj", 5]}},
            "adapter.target_modules.1: must be text, not 5: put it in quotes",
            id="inside-a-list",
        ),
        pytest.param(
            {"engine": {"precision": "fp16"}},
            "engine.precision: fp16 needs a GPU; set engine.gpus_per_worker, or use bf16 or fp32",
            id="fp16-on-cpu",
        ),
        pytest.param(
            {"engine": {"precision": "fp16", "gpus_per_worker": 1}},
            "engine.zero_stage: fp16 at stage 0 trains wrongly: DeepSpeed 0.19 divides gradients by a loss scale that "
            "it has not multiplied the loss by. Set engine.zero_stage=1, which is exact, or engine.precision=bf16",
            id="fp16-at-stage-0",
        ),
        pytest.param(
            {"name": "a b"}, "name: must match pattern '^[A-Za-z0-9][A-Za-z0-9._-]*$', not 'a b'", id="pattern"
        ),
        pytest.param({"space": SPACE}, "space: belongs to a sweep, and this is a single run", id="sweep-as-run"),
    ],
)
def test_one_mistake(tree, expected):
    assert mistakes(tree) == (expected,)


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
        ({"type": "int", "low": 1, "high": 5, "hihg": 3}, {"hihg": "unknown key: did you mean 'high'?"}),
        ({"low": 1, "high": 5}, {"type": "is required"}),
        ({"type": "integer"}, {"type": "must be 'int', 'float' or 'categorical', not 'integer'"}),
        ({"type": "int"}, {"low": "a dimension of type int needs low", "high": "a dimension of type int needs low"}),
        ({"type": "int", "low": 1.5, "high": 5}, {"low": "must be a whole number in a dimension of type int, not 1.5"}),
        ({"type": "float", "low": 5, "high": 1}, {"low": "5 is above high (1)"}),
        ({"type": "float", "low": 0, "high": 1, "log": True}, {"low": "log needs low above 0, not 0"}),
        ({"type": "float", "low": 0.1, "high": 1, "log": True, "step": 0.1}, {"log": "log and step exclude each"}),
        ({"type": "float", "low": 0, "high": ".inf"}, {"high": "must be a number, not '.inf'"}),
        ({"type": "float", "low": 0, "high": float("inf")}, {"high": "must be a finite number, not inf"}),
        (
            {"type": "int", "low": 1, "high": 11, "step": 3},
            {"high": "11 is never reached in steps of 3; the last value is 10"},
        ),
        ({"type": "float", "low": 0.1, "high": 1, "choices": [1]}, {"choices": "a dimension of type float takes low"}),
        ({"type": "categorical"}, {"choices": "a categorical dimension needs choices"}),
        ({"type": "categorical", "choices": []}, {"choices": "a categorical dimension needs choices"}),
        (
            {"type": "categorical", "choices": [1], "low": 0, "log": True},
            {"low": "takes choices", "log": "takes choices"},
        ),
        ({"type": "categorical", "choices": [1, 1.0]}, {"choices": "1.0 equals an earlier choice"}),
        ({"type": "categorical", "choices": ["a", "b", "a"]}, {"choices": "'a' equals an earlier choice"}),
        (
            {"type": "categorical", "choices": ["a", [1]]},
            {"choices.1": "must be text or a whole number or a number or true or false, not [1]"},
        ),
        (
            {"type": "categorical", "choices": [1, 2], "when": {"key": "a", "in": "b"}},
            {"when.in": "must be a list, not 'b'"},
        ),
        (
            {"type": "categorical", "choices": [1, 2], "when": {"ky": "a", "in": [1]}},
            {"when.key": "is required", "when.ky": "unknown key: did you mean 'key'? available: in, key"},
        ),
        ({"type": "categorical", "choices": [1], "when": {"key": "a", "in": []}}, {"when.in": "at least 1 item"}),
    ],
)
def test_mistakes_in_a_dimension(dimension, expected):
    found = mistakes({"space": {"selection.policy.k": dimension}}, SweepConfig)
    by_key = dict(mistake.removeprefix("space.selection.policy.k.").split(": ", 1) for mistake in found)
    assert by_key.keys() == expected.keys()
    assert all(text in by_key[key] for key, text in expected.items())


@pytest.mark.parametrize(
    ("tune", "expected"),
    [
        ({"scheduler": {"grace": 3}}, "tune.scheduler.grace: unknown key: did you mean 'grace_steps'? available: "),
        ({"scheduler": {"grace_steps": 0}}, "tune.scheduler.grace_steps: must be greater than 0, not 0"),
        ({"scheduler": {"name": "pbt"}}, "tune.scheduler.name: must be 'asha', not 'pbt'"),
        ({"n_trials": 3}, "tune.n_trials: unknown key: did you mean 'num_trials'? available: "),
    ],
)
def test_mistakes_in_tune(tune, expected):
    (mistake,) = mistakes({"space": SPACE, "tune": tune}, SweepConfig)
    assert mistake.startswith(expected)


@pytest.mark.parametrize(
    ("tune", "remedy"),
    [
        ({"execution": "slots"}, "set tune.execution=pool"),
        ({"execution": "isolated"}, "set tune.execution=pool and tune.renew_after=1"),
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
    assert mistake.startswith("space: is required (the dimensions by dotted key")
    (mistake,) = mistakes({"space": {}}, SweepConfig)
    assert mistake.startswith("space: must have at least 1 item")


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
    error = ConfigError("x.yaml", ["seed: must be a whole number, not 'x'", "name: is required"])
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == str(error) == "x.yaml: seed: must be a whole number, not 'x'\nx.yaml: name: is required"
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
    assert mistakes({"selection": {"policy": {"name": name, "count": "x", "cuont": 1}}}) == (
        "selection.policy.count: must be a whole number, not 'x'",
        f"selection.policy.cuont: {name} has no such option: did you mean 'count'? available: count",
    )
