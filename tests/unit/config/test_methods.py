"""A method is a set of settings under what was said, and what makes it the method cannot be said otherwise."""

import json

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from refreshes import choose, shares, within_chance
from saying import says

from irtune.config.load import (
    ConfigError,
    apply_overrides,
    build,
    dotted_keys,
    explicit,
    load,
    with_overrides,
)
from irtune.config.schema import ExperimentConfig, SelectionConfig
from irtune.config.sweep_schema import SweepConfig
from irtune.importance import SIGNALS, GradientNorm, Importance
from irtune.importance.signal_contract import FakeBlocks
from irtune.methods import METHODS
from irtune.selection import POLICIES, RandomBlocks, Static, TopK, WeightedRandom

NAMES = sorted(METHODS)
BASELINE = {"method": None, "selection.policy.name": "all"}


def config_of(**tree):
    return build(ExperimentConfig, tree, "x")


def mistake_of(function, *arguments):
    with pytest.raises(ConfigError) as caught:
        function(*arguments)
    (mistake,) = caught.value.mistakes
    return mistake


@pytest.mark.parametrize("name", NAMES)
def test_every_method_is_what_its_settings_say(name):
    method, settings = METHODS[name], dotted_keys(config_of(method=name))
    assert method.name == name
    assert {key: settings[key] for key in method.settings} == dict(method.settings)
    assert method.summary
    assert method.source


def test_methods_are_made_of_policies_and_signals_that_there_are():
    used = {variant for method in METHODS.values() for variant in method.identity.values()}
    assert used <= {*POLICIES, *SIGNALS}


def test_lisa_and_the_authors_own_ir_tuning_by_hand():
    lisa = config_of(method="lisa")
    assert lisa.selection.policy == RandomBlocks(k=2)
    assert lisa.selection.reselect_every == 20
    authors = config_of(method="ir_authors")
    policy, signal = authors.selection.policy, authors.importance
    assert (policy.name, policy.window, policy.cut, policy.initial_score) == (
        "variance_split",
        (0.35, 0.65),
        "authors",
        1000,
    )
    assert (signal.name, signal.tensors, signal.gradient, signal.within_block, signal.nonfinite_norm) == (
        "gradient_norm",
        "all",
        "local",
        "root_of_roots",
        1000,
    )
    assert signal.stale
    assert authors.selection.reselect_every == 1
    assert not authors.model.train_head
    assert config_of(method="ir").model.train_head


def test_the_rivals_of_2026_by_hand():
    once = {name: config_of(method=name) for name in ("middle", "aletheia", "cka")}
    assert {config.selection.reselect_every for config in once.values()} == {0}
    assert once["middle"].selection.policy == Static(which="middle", k=0.33)
    assert once["aletheia"].selection.policy == once["cka"].selection.policy == TopK(k=0.5)
    assert once["aletheia"].importance == GradientNorm(within_block="sum")
    assert once["cka"].importance.name == "cka_distance"
    grass, lisa = config_of(method="grass"), config_of(method="lisa")
    assert grass.selection.policy == WeightedRandom(k=2)
    assert grass.selection.reselect_every == lisa.selection.reselect_every == 20
    assert grass.importance == GradientNorm(within_block="mean", over_time="mean")
    blocks_only = config_of(method="lisa_blocks_only")
    assert blocks_only.selection == lisa.selection
    assert lisa.model.train_head
    assert not blocks_only.model.train_head


def test_aletheia_adds_the_norms_of_a_block_and_takes_the_upper_half():
    config = config_of(method="aletheia")
    # As sums 5, 4.2, 4, 1; as norms of whole blocks 5, 3, 4, 1.
    norms = [(5.0, 0.0), (2.1, 2.1), (4.0, 0.0), (1.0, 0.0)]
    named = [{f"m{place}.lora_B.weight": norm for place, norm in enumerate(block)} for block in norms]
    scores = config.importance.measure(FakeBlocks(named, [{}] * 4, np.ones(4)))
    assert choose(config.selection.policy, scores) == (0, 1)


def test_grass_draws_in_proportion_to_the_mean_of_norms_over_matrices_and_probes():
    config = config_of(method="grass", selection={"policy": {"k": 1}})
    importance = Importance.unseen(3)
    # Means over matrices 1, 2, 6 and then 1, 4, 2: over both 1, 3, 4.
    for step, norms in ((0, [(1, 1), (1, 3), (5, 7)]), (20, [(0, 2), (4, 4), (1, 3)])):
        named = [{f"m{place}.lora_B.weight": float(n) for place, n in enumerate(block)} for block in norms]
        scores = config.importance.measure(FakeBlocks(named, [{}] * 3, np.ones(3)))
        importance = config.importance.update(importance, scores, step)
    found = shares(config.selection.policy, 1500, 3, scores=importance.scores)
    assert within_chance(found, [1 / 8, 3 / 8, 4 / 8], 1500)


def test_what_is_said_lies_above_the_method(tmp_path):
    assert config_of(method="lisa", selection={"policy": {"k": 4}}).selection.policy == RandomBlocks(k=4)
    # The default of the schema is said as well as any other value.
    assert config_of(method="badam", selection={"reselect_every": 20}).selection.reselect_every == 20
    assert config_of(method="ir_authors", model={"train_head": True}).model.train_head
    file = tmp_path / "x.yaml"
    file.write_text("method: ir\nselection: {reselect_every: 7}\n")
    config = load(ExperimentConfig, file, {"method": "lisa", "selection.policy.k": 4})
    assert (config.selection.policy, config.selection.reselect_every) == (RandomBlocks(k=4), 7)


def test_objects_lie_above_the_method_like_text():
    config = ExperimentConfig(method="lisa", selection=SelectionConfig(reselect_every=5))
    assert (config.selection.policy, config.selection.reselect_every) == (RandomBlocks(k=2), 5)
    config = ExperimentConfig(method="ir", importance=GradientNorm(within_block="max"))
    assert config.importance.within_block == "max"
    with pytest.raises(ValueError, match="'top_k' contradicts method: lisa"):
        ExperimentConfig(method="lisa", selection={"policy": TopK(k=3)})
    with pytest.raises(ValueError, match="'top_k' contradicts method: lisa"):
        ExperimentConfig(method="lisa", selection=SelectionConfig(policy=TopK(k=3)))


@pytest.mark.parametrize(
    ("tree", "mistake"),
    [
        (
            {"selection": {"policy": {"name": "top_k", "k": 3}}},
            "selection.policy.name: 'top_k' … method: lisa … 'random' … leave it out … method=null",
        ),
        # Options that the contradicting variant lacks are not complained about: nobody has set them.
        (
            {"selection": {"policy": {"name": "all"}}},
            "selection.policy.name: 'all' … method: lisa … 'random' … leave it out … method=null",
        ),
        (
            {"selection": {"policy": {"order": "random"}}},
            "selection.policy.order: random … its options: k) … block_order has",
        ),
    ],
)
def test_what_would_make_it_another_method_is_refused(tree, mistake):
    assert says(mistake_of(lambda: config_of(method="lisa", **tree)), mistake)


def test_a_signal_is_part_of_a_method_only_where_it_matters():
    mistake = mistake_of(lambda: config_of(method="ir_cosine", importance={"name": "gradient_norm"}))
    assert says(mistake, "importance.name: 'gradient_norm'", "method: ir_cosine … 'cosine_similarity'")
    assert config_of(method="cost_aware", importance={"name": "weight_norm"}).importance.name == "weight_norm"


def test_a_contradiction_is_refused_also_among_overrides():
    overrides = {"method": "lisa", "selection.policy.name": "all"}
    mistake = mistake_of(with_overrides, ExperimentConfig(), overrides)
    assert mistake.startswith("selection.policy.name: 'all' contradicts method: lisa")
    mistake = mistake_of(with_overrides, config_of(method="lisa"), {"selection.policy.name": "all"})
    assert mistake.startswith("selection.policy.name: 'all' contradicts method: lisa")


def test_unknown_methods():
    assert says(
        mistake_of(lambda: config_of(method="lsia")), "method: … 'lsia' … 'lisa'?", "available: ada_grad_select"
    )
    assert says(mistake_of(lambda: config_of(method=3)), "method: … text … 3 … quotes")
    with pytest.raises(ConfigError) as caught:
        config_of(method="lsia", seed=-1)
    assert {mistake.split(":")[0] for mistake in caught.value.mistakes} == {"method", "seed"}
    mistake = mistake_of(lambda: config_of(selection={"policy": {"name": "lisa"}}))
    assert says(mistake, "'lisa' is a method", "method=lisa")


def test_another_method_takes_the_place_of_the_first():
    base = config_of(method="ir_authors", training={"max_steps": 7}, importance={"within_block": "max"})
    config = with_overrides(base, {"method": "lisa", "selection.policy.k": 4})
    expected = config_of(
        method="lisa",
        training={"max_steps": 7},
        importance={"within_block": "max"},
        selection={"policy": {"k": 4}},
    )
    assert config == expected
    # What the first method had set besides its policy is gone too.
    assert config.model.train_head
    assert config.selection.reselect_every == 20
    assert config.importance.tensors == "lora_B"


def test_another_method_drops_the_options_of_another_policy_or_signal():
    base = config_of(selection={"policy": {"name": "top_k", "k": 10}, "reselect_every": 4})
    config = with_overrides(base, {"method": "lisa"})
    assert (config.selection.policy, config.selection.reselect_every) == (RandomBlocks(k=2), 4)
    base = config_of(method="ir_weight", importance={"modules": "v_proj"})
    assert with_overrides(base, {"method": "ir_cosine"}).importance.name == "cosine_similarity"
    # A method without a signal of its own leaves the section to the default signal, which has no such option.
    assert with_overrides(base, {"method": "lisa"}).importance == GradientNorm()


def test_another_method_keeps_what_was_said_about_the_same_policy_and_signal():
    base = config_of(method="lisa", selection={"policy": {"k": 4}})
    config = with_overrides(base, {"method": "rst"})
    assert (config.selection.policy, config.selection.reselect_every) == (RandomBlocks(k=4), 1)
    named = config_of(selection={"policy": {"name": "random", "k": 4}})
    assert with_overrides(named, {"method": "rst"}).selection.policy == RandomBlocks(k=4)
    base = config_of(method="ir", importance={"within_block": "max"})
    assert with_overrides(base, {"method": "ir_top_k"}).importance.within_block == "max"


def test_a_value_stays_if_it_was_said_and_not_if_the_method_said_it():
    said = config_of(method="badam", selection={"reselect_every": 50})
    unsaid = config_of(method="badam")
    assert said == unsaid
    assert with_overrides(said, {"method": "lisa"}).selection.reselect_every == 50
    assert with_overrides(unsaid, {"method": "lisa"}).selection.reselect_every == 20


@given(st.sampled_from(NAMES), st.sampled_from(NAMES))
def test_the_method_before_leaves_no_trace(former, name):
    base = config_of(method=former, seed=5)
    assert with_overrides(base, {"method": name}) == config_of(method=name, seed=5)


@given(st.sampled_from(NAMES))
def test_without_its_name_the_settings_of_a_method_stay_and_may_be_changed(name):
    bare = with_overrides(config_of(method=name), {"method": None})
    assert bare.model_copy(update={"method": name}) == config_of(method=name)
    changed = with_overrides(bare, {"selection.policy.name": "top_k", "selection.policy.k": 3})
    assert changed.strategy == "top_k"
    assert changed.selection.reselect_every == bare.selection.reselect_every
    assert apply_overrides({"method": name}, {"method": None}) == explicit(bare)


@given(st.sampled_from(NAMES))
def test_the_baseline_trains_all_blocks_and_keeps_what_the_method_set_elsewhere(name):
    config = config_of(method=name)
    baseline = with_overrides(config, BASELINE)
    assert (baseline.strategy, baseline.method) == ("all", None)
    assert baseline.model == config.model
    assert baseline.selection.reselect_every == config.selection.reselect_every
    # A baseline is what it is wherever it travels.
    assert build(ExperimentConfig, explicit(baseline), "x") == baseline


def test_the_baseline_of_the_authors_method_has_their_head_too():
    assert not with_overrides(config_of(method="ir_authors"), BASELINE).model.train_head


@pytest.mark.parametrize("name", NAMES)
def test_strategies_are_named_after_methods(name):
    strategy = config_of(method=name).strategy
    assert strategy == ("all" if name == "full" else name)


options = st.fixed_dictionaries(
    {},
    optional={
        "selection.reselect_every": st.sampled_from([0, 1, 20, 50]),
        "model.train_head": st.booleans(),
        "importance.over_time": st.sampled_from(["last", "mean"]),
        "training.max_steps": st.sampled_from([100, 200]),
        "selection.on_thaw": st.sampled_from(["keep", "reset"]),
    },
)


@given(st.sampled_from([None, *NAMES]), options)
def test_the_best_configuration_as_yaml_builds_the_same(name, overrides):
    config = with_overrides(ExperimentConfig(), {"method": name, **overrides})
    for tree in (explicit(config), config.model_dump(mode="json")):
        assert build(ExperimentConfig, yaml.safe_load(yaml.safe_dump(tree)), "x") == config


@given(st.sampled_from(NAMES), options)
def test_what_was_said_survives_a_way_through_json_and_a_sweep(name, overrides):
    space = {"training.learning_rate": {"type": "float", "low": 1e-4, "high": 1e-3}}
    tree = apply_overrides({"method": name, "space": space}, overrides)
    sweep = build(SweepConfig, tree, "x")
    experiment = sweep.experiment()
    travelled = json.loads(json.dumps(explicit(experiment)))
    assert travelled == {key: value for key, value in explicit(sweep).items() if key != "space"}
    assert travelled == apply_overrides({"method": name}, overrides)
    for other in ("lisa", "spectrum", None):
        worker = with_overrides(build(ExperimentConfig, travelled, "x"), {"method": other})
        assert worker == with_overrides(experiment, {"method": other})


def test_objects_that_were_given_survive_it_too():
    config = ExperimentConfig(selection=SelectionConfig(policy=TopK(k=3)), importance=GradientNorm())
    assert explicit(config) == {
        "selection": {"policy": {"name": "top_k", "k": 3}},
        "importance": {"name": "gradient_norm"},
    }
    assert build(ExperimentConfig, explicit(config), "x") == config
