import numpy as np
import pytest
from saying import each_says, says

from irtune.config.load import build
from irtune.config.sweep_schema import SweepConfig
from irtune.search.space_checks import NOT_SEARCHABLE, check_space, doubtful, indistinct_choices
from irtune.selection import POLICIES, VarianceSplit

POLICY = {"type": "categorical", "choices": ["top_k", "random", "variance_split", "all"]}
K = {"type": "int", "low": 1, "high": 10, "when": {"key": "selection.policy.name", "in": ["top_k", "random"]}}
INTERVAL = {"type": "int", "low": 10, "high": 50, "step": 10}
WITH_K = ", ".join(sorted(name for name, policy in POLICIES.items() if "k" in policy.model_fields))


def sweep(space, **tree):
    return build(SweepConfig, {"space": space, **tree}, "x")


def check(space, num_blocks=None, **tree):
    return check_space(sweep(space, **tree), num_blocks)


def test_a_good_space_has_no_mistakes():
    space = {
        "selection.policy.name": POLICY,
        "selection.policy.k": K,
        "selection.policy.splits": {
            "type": "categorical",
            "choices": [1, 2],
            "when": {"key": "selection.policy.name", "in": ["variance_split"]},
        },
        "selection.reselect_every": INTERVAL,
        "importance.within_block": {"type": "categorical", "choices": ["l2", "max"]},
        "training.learning_rate": {"type": "float", "low": 1e-5, "high": 1e-3, "log": True},
        "data.max_train": {"type": "categorical", "choices": [100, None]},
        "engine.deepspeed.zero_optimization.overlap_comm": {"type": "categorical", "choices": [True, False]},
    }
    assert check(space, num_blocks=30) == []


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        pytest.param(
            {"selection.reselect_evry": INTERVAL},
            "space.selection.reselect_evry: … unknown … 'reselect_every'? … available: frozen_state, measure, on_thaw, "
            "policy, probe_memory, reselect_every, self_check",
            id="unknown-key",
        ),
        pytest.param(
            {"slection.reselect_every": INTERVAL},
            "space.slection.reselect_every: slection: … unknown … 'selection'? … available: adapter, data, engine, "
            "importance, method, metric, model, name, seed, selection, storage, tracking, training",
            id="unknown-section",
        ),
        pytest.param(
            {"selection.reselect_every": {"type": "int", "low": -1, "high": 5}},
            "space.selection.reselect_every.low: … equal to 0 … -1",
            id="low-out-of-range",
        ),
        pytest.param(
            {"adapter.dropout": {"type": "float", "low": 0, "high": 1}},
            "space.adapter.dropout.high: … less than 1 … 1.0",
            id="high-out-of-range",
        ),
        pytest.param(
            {"selection.reselect_every": {"type": "float", "low": 10, "high": 50}},
            "space.selection.reselect_every.type: … whole number … 22.732395447351628",
            id="float-for-a-count",
        ),
        pytest.param(
            {"importance.within_block": {"type": "categorical", "choices": ["l2", "l3"]}},
            "space.importance.within_block.choices: … 'l2', 'sum', 'mean', 'max', 'rms', 'root_of_roots', "
            "'l2_clipped', 'sum_clipped', 'mean_clipped', 'max_clipped', 'rms_clipped' or "
            "'root_of_roots_clipped' … 'l3'",
            id="bad-choice",
        ),
        pytest.param(
            {"selection.policy.name": {"type": "categorical", "choices": ["all", "lisa"]}},
            "space.selection.policy.name.choices: 'lisa' is a method … method=lisa",
            id="method-as-policy",
        ),
        pytest.param(
            {"selection.policy.name": {"type": "categorical", "choices": ["all", "topk"]}},
            "space.selection.policy.name.choices: … 'topk' … 'top_k'? … available: "
            f"{', '.join(sorted(POLICIES))} … package.module:Attr",
            id="unknown-policy",
        ),
        pytest.param(
            {"selection.policy.k": {"type": "int", "low": 1, "high": 10}},
            "space.selection.policy.k: variance_split … its options: "
            f"{', '.join(list(VarianceSplit.model_fields)[1:])}) … k is an option of {WITH_K}",
            id="k-for-a-policy-without",
        ),
        pytest.param(
            {"selection.policy.name": {"type": "categorical", "choices": ["top_k", "all"]},
             "selection.policy.k": {"type": "int", "low": 1, "high": 10}},
            f"space.selection.policy.k: all … its options: none) … k is an option of {WITH_K} … "
            "when: {key: …, in: […]}",
            id="k-where-a-policy-has-none",
        ),
        pytest.param(
            {"selection.policy.name": {"type": "categorical", "choices": ["top_k", "all"]},
             "selection.reselect_every": INTERVAL},
            "space.selection.policy.name.choices: 'top_k': selection.policy.k: is required",
            id="k-missing",
        ),
        pytest.param(
            {"engine.precision": {"type": "categorical", "choices": ["fp32", "fp16"]}},
            "space.engine.precision.choices: fp16 … GPU … engine.gpus_per_worker … bf16 or fp32",
            id="two-settings-that-exclude-each-other",
        ),
    ],
)  # fmt: skip
def test_every_bound_and_choice_is_tried(space, expected):
    assert each_says(check(space), (expected,))


def test_k_above_the_number_of_blocks_of_the_model():
    space = {"selection.policy.name": POLICY, "selection.policy.k": {**K, "high": 40}}
    assert check(space) == []
    assert check(space, num_blocks=40) == []
    assert each_says(check(space, num_blocks=30), ("space.selection.policy.k.high: 40 … 30",))


def test_a_fixed_k_above_the_number_of_blocks():
    policy = {"policy": {"name": "top_k", "k": 40}}
    expected = ("selection.policy.k: 40 … 30",)
    assert each_says(
        check({"training.learning_rate": {"type": "float", "low": 1e-5, "high": 1e-3}}, 30, selection=policy), expected
    )


def test_the_number_of_blocks_of_one_model_says_nothing_about_another():
    space = {
        "model.name": {"type": "categorical", "choices": ["a", "b"]},
        "selection.policy.name": POLICY,
        "selection.policy.k": {**K, "high": 40},
    }
    assert check(space, num_blocks=30) == []


@pytest.mark.parametrize("key", sorted(NOT_SEARCHABLE))
def test_what_would_break_a_study_is_refused(key):
    key = "tracking.experiment" if key == "tracking" else key
    mistakes = check({key: {"type": "int", "low": 1, "high": 2}})
    assert any(mistake.startswith(f"space.{key}: cannot be searched: ") for mistake in mistakes)


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (
            {"key": "selection.policy.nam", "in": ["all"]},
            "key: … selection.policy.nam: … 'selection.policy.name'? … available:",
        ),
        (
            {"key": "selection.policy.name", "in": ["all", "topk"]},
            "in: 'topk' … selection.policy.name: … 'top_k', 'random', 'variance_split', 'all'",
        ),
        (
            {"key": "selection.reselect_every", "in": [20, 25]},
            "in: 25 … selection.reselect_every: … int from 10 to 50 … steps of 10",
        ),
        (
            {"key": "selection.reselect_every", "in": [60]},
            "in: 60 … selection.reselect_every: … int from 10 to 50 … steps of 10",
        ),
        (
            {"key": "training.learning_rate", "in": [0.001]},
            "in: 0.001 … training.learning_rate: … float from 0.001 to 0.1",
        ),
        (
            {"key": "importance.over_time", "in": ["ema"]},
            "in: never … importance.over_time is 'last'",
        ),
    ],
)
def test_conditions_that_cannot_hold(condition, expected):
    space = {
        "selection.policy.name": POLICY,
        "selection.policy.k": K,
        "selection.reselect_every": INTERVAL,
        "training.learning_rate": {"type": "float", "low": 0.001, "high": 0.1},
        "training.warmup_steps": {"type": "categorical", "choices": [0, 10], "when": condition},
    }
    (mistake,) = check(space)
    assert says(mistake, f"space.training.warmup_steps.when.{expected}")


def test_a_condition_on_a_fixed_setting_that_holds():
    condition = {"key": "importance.over_time", "in": ["last"]}
    assert check({"importance.ema_decay": {"type": "float", "low": 0.5, "high": 0.9, "when": condition}}) == []


def test_conditions_in_a_circle():
    space = {
        "training.warmup_steps": {"type": "int", "low": 0, "high": 2, "when": {"key": "training.log_every", "in": [1]}},
        "training.log_every": {"type": "int", "low": 1, "high": 2, "when": {"key": "training.warmup_steps", "in": [0]}},
    }
    (mistake,) = check(space)
    assert says(mistake, "space: … circle: training.")


def test_asha_that_could_stop_nothing():
    (mistake,) = check({"selection.reselect_every": INTERVAL}, training={"max_steps": 10})
    assert says(mistake, "tune.scheduler.grace_steps: 10 … training.max_steps (10)")
    assert check({"selection.reselect_every": INTERVAL}, training={"max_steps": 10}, tune={"scheduler": None}) == []


def test_all_mistakes_at_once():
    found = check(
        {
            "seed": {"type": "int", "low": 0, "high": 3},
            "selection.policy.name": POLICY,
            "selection.policy.k": {**K, "low": 0, "high": 40},
            "training.lr": {"type": "float", "low": 0.1, "high": 0.2},
            "training.log_every": {"type": "int", "low": 1, "high": 2, "when": {"key": "nothing", "in": [1]}},
        },
        num_blocks=30,
        training={"max_steps": 5},
    )
    keys = [
        "space.seed",
        "space.training.log_every.when.key",
        "tune.scheduler.grace_steps",
        "space.training.lr",
        "space.selection.policy.k.low",
        "space.selection.policy.k.high",
    ]
    assert sorted(mistake.split(": ")[0] for mistake in found) == sorted(keys)


@pytest.mark.parametrize("key", ["selection", "selection.policy", "seed.x", "importance", "engine.deepspeed"])
def test_a_section_is_no_dimension(key):
    space = {
        key: {"type": "categorical", "choices": ["all", "x"]},
        "training.log_every": {"type": "int", "low": 1, "high": 2},
    }
    mistakes = check(space, num_blocks=30)
    assert mistakes
    assert all(mistake.startswith(f"space.{key}") for mistake in mistakes)


def test_a_space_of_many_choices_is_checked_in_no_time():
    choices = list(range(1, 31))
    space = {f"training.{key}": {"type": "categorical", "choices": choices} for key in ("log_every", "eval_every")}
    assert check(space) == []


def test_what_is_probably_not_meant():
    space = {
        "selection.policy.name": POLICY,
        "selection.policy.k": {**K, "high": 3},
        "selection.reselect_every": {"type": "categorical", "choices": [20]},
        "importance.within_block": {"type": "categorical", "choices": ["l2", "max"]},
    }
    assert each_says(
        doubtful(sweep(space)),
        ("space.selection.reselect_every: … one value", "set selection.reselect_every"),
        ("tune.num_trials: 20 … 16 configurations",),
        ("space.importance.within_block: … no effect … all, random", "when: {key: selection.policy.name, …}"),
    )


def test_nothing_is_doubtful_about_a_good_space():
    importance = {
        "type": "categorical",
        "choices": ["l2", "max"],
        "when": {"key": "selection.policy.name", "in": ["top_k"]},
    }
    space = {"selection.policy.name": POLICY, "selection.policy.k": K, "importance.within_block": importance}
    assert doubtful(sweep(space)) == []


def test_a_grid_needs_ends_and_says_how_much_of_it_is_tried():
    grid = {"tune": {"sampler": "grid", "num_trials": 3}}
    rate = {"type": "float", "low": 0.1, "high": 0.5}
    assert each_says(
        check({"adapter.dropout": rate}, **grid), ("space.adapter.dropout:", "tune.sampler=grid", "step", "choices")
    )
    stepped = {"adapter.dropout": rate | {"step": 0.1}}
    assert check(stepped, **grid) == []
    assert each_says(doubtful(sweep(stepped, **grid)), ("tune.num_trials: 3 … 5",))
    assert doubtful(sweep(stepped, tune={"sampler": "grid", "num_trials": 5})) == []


def within_block(*choices):
    return {"importance.within_block": {"type": "categorical", "choices": choices}}


def equal_blocks(tensors):
    """Blocks of equal shape: one lora_B tensor each, or two tensors in all."""
    return [np.array([8]) if tensors == "lora_B" else np.array([8, 8])] * 4


def test_choices_that_rank_alike_are_named():
    config = sweep(within_block("l2", "max", "rms", "sum"), importance={"tensors": "all"})
    assert each_says(
        indistinct_choices(config, equal_blocks), ("space.importance.within_block.choices: l2, rms … identically",)
    )


def test_with_one_tensor_a_block_all_rank_alike():
    assert each_says(
        indistinct_choices(sweep(within_block("l2", "max", "sum")), equal_blocks),
        ("space.importance.within_block.choices: l2, max, sum … identically",),
    )


def test_choices_have_to_rank_alike_whichever_tensors_count():
    tensors = {"importance.tensors": {"type": "categorical", "choices": ["lora_B", "all"]}}
    assert indistinct_choices(sweep({**within_block("l2", "max"), **tensors}), equal_blocks) == []
    (found,) = indistinct_choices(sweep({**within_block("l2", "max", "rms"), **tensors}), equal_blocks)
    assert says(found, "space.importance.within_block.choices: l2, rms … identically")


def test_clipped_choices_are_alike_among_themselves():
    choices = within_block("l2", "rms_clipped", "max", "l2_clipped", "root_of_roots")
    assert each_says(
        indistinct_choices(sweep(choices, importance={"tensors": "all"}), equal_blocks),
        ("space.importance.within_block.choices: rms_clipped, l2_clipped … identically",),
    )


def test_the_sizes_of_adapters_say_nothing_about_weights():
    choices = within_block("l2", "max")
    assert indistinct_choices(sweep(choices, importance={"name": "weight_norm"}), equal_blocks) == []
    names = {"importance.name": {"type": "categorical", "choices": ["gradient_norm", "weight_norm"]}}
    assert indistinct_choices(sweep({**choices, **names}), equal_blocks) == []


def test_choices_have_to_rank_alike_under_those_signals_that_aggregate():
    names = {"importance.name": {"type": "categorical", "choices": ["gradient_norm", "cosine_similarity"]}}
    when = {"key": "importance.name", "in": ["gradient_norm"]}
    choices = {"importance.within_block": {"type": "categorical", "choices": ["l2", "max"], "when": when}}
    (found,) = indistinct_choices(sweep({**choices, **names}), equal_blocks)
    assert says(found, "space.importance.within_block.choices: l2, max … identically")
    fixed = {"name": "gradient_norm", "tensors": "all"}
    assert indistinct_choices(sweep({**choices, **names}, importance=fixed), equal_blocks) == []


def test_choices_that_differ_are_left_alone():
    assert indistinct_choices(sweep(within_block("l2", "max"), importance={"tensors": "all"}), equal_blocks) == []
    assert indistinct_choices(sweep({"selection.reselect_every": INTERVAL}), equal_blocks) == []


METHOD = {"type": "categorical", "choices": ["ir", "lisa", "rst"]}


def test_methods_can_be_searched_with_options_that_only_some_have():
    space = {"method": METHOD, "selection.policy.k": {**K, "when": {"key": "method", "in": ["lisa", "rst"]}}}
    assert check(space, num_blocks=30) == []
    assert each_says(check(space, num_blocks=8), ("space.selection.policy.k.high: 10 … 8",))
    without = {"method": METHOD, "selection.policy.k": {"type": "int", "low": 1, "high": 10}}
    (mistake,) = check(without)
    assert says(mistake, "space.selection.policy.k: variance_split")
    assert says(mistake, "when: {key: …, in: […]}")


def test_searched_methods_are_checked_against_the_model():
    space = {"method": {"type": "categorical", "choices": ["owlore", "rst"]}}
    assert check(space, num_blocks=5) == []
    (mistake,) = check(space, num_blocks=4)
    assert mistake.startswith("space.method")
    assert says(mistake, "selection.policy.k: 5 … 4")


def test_an_unknown_method_of_a_space_is_named():
    (mistake,) = check({"method": {"type": "categorical", "choices": ["ir", "lsia"]}})
    assert says(mistake, "space.method.choices: … 'lsia' … 'lisa'?", "available:")


def test_what_a_searched_method_decides_is_no_condition():
    within = {"type": "categorical", "choices": ["l2", "max"], "when": {"key": "selection.policy.name", "in": ["all"]}}
    assert each_says(
        check({"method": METHOD, "importance.within_block": within}),
        ("space.importance.within_block.when.key: selection.policy.name … method",),
    )


def test_a_policy_beside_a_method_is_a_contradiction():
    space = {"selection.policy.name": {"type": "categorical", "choices": ["random", "all"]}}
    (mistake,) = check(space, method="lisa")
    assert says(mistake, "space.selection.policy.name.choices: 'all' … method: lisa … 'random'")


def test_what_has_no_effect_under_some_methods_is_noted():
    space = {"method": METHOD, "importance.within_block": {"type": "categorical", "choices": ["l2", "max"]}}
    assert each_says(
        [doubt for doubt in doubtful(sweep(space)) if "no effect" in doubt],
        ("space.importance.within_block: … no effect … lisa, rst", "when: {key: method, …}"),
    )


def test_aggregations_that_rank_alike_are_judged_under_every_searched_method():
    within = {"importance.within_block": {"type": "categorical", "choices": ["l2", "max"]}}
    # One lora_B tensor a block: l2 and max are the same. Under ir_authors all tensors count, and they differ.
    alike = {"method": {"type": "categorical", "choices": ["ir", "ir_top_k", "lisa"]}}
    (found,) = indistinct_choices(sweep({**within, **alike}), equal_blocks)
    assert says(found, "space.importance.within_block.choices: l2, max … identically")
    different = {"method": {"type": "categorical", "choices": ["ir", "ir_authors"]}}
    assert indistinct_choices(sweep({**within, **different}), equal_blocks) == []


CONDITIONAL = {"selection.policy.name": POLICY, "selection.policy.k": K}


@pytest.mark.parametrize("sampler", ["random", "grid", "nsga2"])
def test_a_sampler_that_learns_nothing_from_earlier_trials_is_refused(sampler):
    space = {"selection.reselect_every": INTERVAL}
    (mistake,) = check(space, tune={"warm_start": "x", "sampler": sampler})
    assert mistake.startswith("tune.warm_start: ")
    assert all(told in mistake for told in (f"tune.sampler={sampler}", "use tpe or gp"))
    assert check(space, tune={"warm_start": "x", "sampler": "tpe"}) == []


@pytest.mark.parametrize("sampler", ["tpe", "gp", "nsga2", "random", "grid"])
def test_every_sampler_takes_several_objectives_and_constraints(sampler):
    tune = {"sampler": sampler, "metrics": [{"eval/f1_macro": "max"}, {"cost/step_flops": "min"}]}
    constraints = {"cost/peak_memory_bytes": {"max": 8e9}}
    assert check(CONDITIONAL, tune={**tune, "constraints": constraints}) == []


def test_what_a_sampler_does_not_model_is_said():
    def said(**tune):
        doubts = doubtful(sweep(CONDITIONAL, tune={"num_trials": 2, **tune}))
        return [doubt for doubt in doubts if doubt.startswith(("tune.sampler", "tune.constraints"))]

    constraints = {"cost/peak_memory_bytes": {"max": 8e9}}
    assert said(constraints=constraints) == []
    (doubt,) = said(sampler="gp")
    assert doubt.startswith("tune.sampler: gp ")
    assert all(told in doubt for told in ("selection.policy.k", "tpe"))
    (doubt,) = said(sampler="random", constraints=constraints)
    assert doubt.startswith("tune.constraints: random ")
