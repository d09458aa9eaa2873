import json
from pathlib import Path

import pytest
from saying import each_says, refused, says

from irtune.analysis.trials import BASELINE
from irtune.config.load import (
    ConfigError,
    apply_overrides,
    build,
    dotted_keys,
    load,
    load_any,
    parse_overrides,
    read_yaml,
    relative_paths,
    storage_path,
    with_overrides,
)
from irtune.config.schema import ExperimentConfig
from irtune.config.sweep_schema import SweepConfig
from irtune.config.tree import flatten
from irtune.search.source import BASELINE_OVERRIDES

SWEEP = {
    "selection": {"policy": {"name": "top_k", "k": 10}},
    "space": {
        "selection.policy.k": {
            "type": "int",
            "low": 1,
            "high": 10,
            "when": {"key": "selection.policy.name", "in": ["top_k"]},
        }
    },
}


@pytest.fixture
def write(tmp_path):
    def write_text(text):
        path = tmp_path / "x.yaml"
        path.write_text(text)
        return path

    return write_text


def test_an_empty_tree_is_the_default_experiment():
    assert build(ExperimentConfig, {}, "x") == ExperimentConfig()


def test_a_file_becomes_a_configuration(write):
    path = write("name: mine\nselection:\n  policy: {name: top_k, k: 0.5}\ntraining:\n  learning_rate: 1e-4\n")
    config = load(ExperimentConfig, path, {"training.max_steps": 7})
    assert config.name == "mine"
    assert config.strategy == "top_k"
    assert config.selection.policy.k == 0.5
    assert config.training.learning_rate == 1e-4
    assert config.training.max_steps == 7


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("-2E5", -2e5),
        (".5e3", 500.0),
        ("1.e+2", 100.0),
        ("0.1", 0.1),
        ("'1e-4'", "1e-4"),
        ("1e", "1e"),
        ("e5", "e5"),
        ("1", 1),
        ("[1e-4, a]", [1e-4, "a"]),
        ("null", None),
        ("", None),
        ("http://host:5000", "http://host:5000"),
    ],
)
def test_values_are_yaml_in_which_powers_of_ten_are_numbers(text, value):
    parsed = parse_overrides([f"a.b={text}"])["a.b"]
    assert parsed == value
    assert type(parsed) is type(value)


def test_all_arguments_that_are_no_overrides_are_named():
    with pytest.raises(ConfigError) as caught:
        parse_overrides(["a.b=1", "seed", "=3", "c=[1", "d={a: 1, a: 2}"])
    assert each_says(
        caught.value.mistakes, ("'seed' … dotted.key=value",), ("'=3' … dotted.key=value",), ("c:",), ("d:",)
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\nname: x\nseed: 2\n", "line 3: 'seed' stands here twice"),
        ("training:\n  log_every: 1\n  log_every: 2\n", "line 3: 'log_every' stands here twice"),
        ("a: {b: 1, b: 2}\n", "line 1: 'b' stands here twice"),
        ("a: [1, 2\n", "line 2: "),
        ("- 1\n", "must hold settings as key: value, found list"),
        ("", "must hold settings as key: value, found nothing"),
    ],
)
def test_files_that_cannot_be_read(write, text, message):
    path = write(text)
    with pytest.raises(ConfigError) as caught:
        read_yaml(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_a_key_may_stand_in_several_sections_and_merges_may_overrule(write):
    tree = read_yaml(write("a: &a {x: 1, y: 1}\nb: {x: 2}\nc: {<<: *a, x: 3}\n"))
    assert tree == {"a": {"x": 1, "y": 1}, "b": {"x": 2}, "c": {"x": 3, "y": 1}}


def test_a_missing_file(tmp_path):
    with refused(ConfigError, "none.yaml: cannot be read"):
        read_yaml(tmp_path / "none.yaml")


def test_mistakes_name_the_file(write):
    path = write("sed: 1\n")
    with pytest.raises(ConfigError) as caught:
        load(ExperimentConfig, path)
    assert says(str(caught.value), f"{path}: sed: … unknown … 'seed'?")


def test_overrides_make_sections_and_leave_the_tree_alone():
    tree = {"training": {"max_steps": 1}, "tracking": None}
    result = apply_overrides(tree, {"training.log_every": 2, "engine.deepspeed.zero.stage": 1, "tracking.uri": "x"})
    assert result == {
        "training": {"max_steps": 1, "log_every": 2},
        "engine": {"deepspeed": {"zero": {"stage": 1}}},
        "tracking": {"uri": "x"},
    }
    assert tree == {"training": {"max_steps": 1}, "tracking": None}


def test_another_variant_drops_the_options_of_the_one_before():
    tree = {"selection": {"policy": {"name": "top_k", "k": 3}, "reselect_every": 5}}
    assert apply_overrides(tree, {"selection.policy.name": "all"}) == {
        "selection": {"policy": {"name": "all"}, "reselect_every": 5}
    }


@pytest.mark.parametrize("keys", [("name", "k"), ("k", "name")])
def test_options_of_the_new_variant_apply_in_either_order(keys):
    values = {"name": "top_k", "k": 7}
    overrides = {f"selection.policy.{key}": values[key] for key in keys}
    result = apply_overrides({"selection": {"policy": {"name": "variance_split", "splits": 2}}}, overrides)
    assert result["selection"]["policy"] == values


def test_the_same_variant_keeps_its_options():
    named = {"selection": {"policy": {"name": "top_k", "k": 3}}}
    assert apply_overrides(named, {"selection.policy.name": "top_k"}) == named
    by_default = {"selection": {"policy": {"splits": 2}}}
    result = apply_overrides(by_default, {"selection.policy.name": "variance_split"})
    assert result["selection"]["policy"] == {"name": "variance_split", "splits": 2}


def test_an_unnamed_default_variant_gives_way_too():
    result = apply_overrides({"selection": {"policy": {"splits": 2}}}, {"selection.policy.name": "all"})
    assert result["selection"]["policy"] == {"name": "all"}


def test_all_overrides_that_lead_through_a_setting_are_named():
    with pytest.raises(ConfigError) as caught:
        apply_overrides({"seed": 1, "name": "x"}, {"seed.x": 1, "name.y.z": 2, "training.max_steps": 3})
    assert each_says(caught.value.mistakes, ("seed.x: seed … not a section",), ("name.y.z: name … not a section",))


def test_dimensions_are_overridden_by_their_dotted_key():
    overrides = parse_overrides(
        [
            "space.selection.policy.k.high=20",
            "space.selection.policy.k.when.in=[top_k, random]",
            "space.training.learning_rate={type: float, low: 1e-5, high: 1e-3, log: true}",
        ]
    )
    sweep = build(SweepConfig, apply_overrides(SWEEP, overrides), "x")
    assert sweep.space["selection.policy.k"].high == 20
    assert sweep.space["selection.policy.k"].when.values == ("top_k", "random")
    assert sweep.space["training.learning_rate"].low == 1e-5


def test_dotted_keys_and_back():
    config = with_overrides(
        ExperimentConfig(),
        {"selection.policy.name": "top_k", "selection.policy.k": 0.5, "engine.deepspeed.a.b": 1, "tracking.uri": "x"},
    )
    settings = json.loads(json.dumps(dotted_keys(config)))
    assert settings["selection.policy.k"] == 0.5
    assert settings["adapter.target_modules"][0] == "q_proj"
    assert build(ExperimentConfig, apply_overrides({}, settings), "x") == config


def test_flatten():
    assert flatten({"a": {"b": {"c": 1}, "d": [2]}, "e": {}}) == {"a.b.c": 1, "a.d": [2]}


def test_counts_stay_int_and_fractions_float():
    for k in (1, 1.0):
        config = with_overrides(ExperimentConfig(), {"selection.policy.name": "top_k", "selection.policy.k": k})
        again = with_overrides(config, {"seed": 1})
        assert type(again.selection.policy.k) is type(k)


def test_overrides_of_a_configuration_are_checked():
    with refused(ConfigError, "selection.policy.k: 0"):
        with_overrides(ExperimentConfig(), {"selection.policy.name": "top_k", "selection.policy.k": 0})


def test_a_file_with_a_space_is_a_sweep(write):
    text = "space:\n  training.max_steps: {type: int, low: 1, high: 3}\n"
    assert isinstance(load_any(write(text)), SweepConfig)
    assert type(load_any(write("seed: 1\n"))) is ExperimentConfig
    with pytest.raises(ConfigError, match="space: is required"):
        load_any(write("seed: 1\n"), {"tune.num_trials": 3})


def test_a_sweep_comes_back_from_json():
    sweep = build(SweepConfig, SWEEP, "x")
    dumped = json.loads(json.dumps(sweep.model_dump(mode="json")))
    assert dumped["space"]["selection.policy.k"]["when"] == {"key": "selection.policy.name", "in": ["top_k"]}
    assert build(SweepConfig, dumped, "x") == sweep


def test_the_experiment_of_a_sweep_is_all_but_the_search():
    experiment = build(SweepConfig, {**SWEEP, "seed": 3}, "x").experiment()
    assert experiment == build(ExperimentConfig, {"selection": SWEEP["selection"], "seed": 3}, "x")


def test_the_baseline_differs_in_its_policy_only():
    config = with_overrides(ExperimentConfig(), {"selection.policy.name": "top_k", "selection.policy.k": 3, "seed": 5})
    baseline = with_overrides(config, BASELINE_OVERRIDES)
    assert baseline == with_overrides(config, {"selection.policy.name": BASELINE})
    assert baseline.strategy == "all"
    assert baseline.seed == 5


def test_configurations_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        ExperimentConfig().training.max_steps = 3


def test_storage_is_absolute():
    assert storage_path(ExperimentConfig(storage="~/x")) == Path.home() / "x"
    assert storage_path(ExperimentConfig(storage="x")) == Path.cwd() / "x"


def test_relative_paths_are_found_wherever_they_are():
    assert relative_paths(ExperimentConfig()) == {}
    tree = {"storage": "results", "tracking": {"uri": "sqlite:///runs.db"}, "model": {"name": "models/a.gguf"}}
    assert relative_paths(build(ExperimentConfig, tree, "x")) == {
        "storage": "results",
        "tracking.uri": "runs.db",
        "model.name": "models/a.gguf",
    }
    tree = {"storage": "/results", "tracking": {"uri": "sqlite:////runs.db"}, "model": {"name": "org/model"}}
    assert relative_paths(build(ExperimentConfig, tree, "x")) == {}


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("none", "none"),
        ("balanced", "balanced"),
        ("{style: 3, fluency: 0.5}", {"style": 3.0, "fluency": 0.5}),
        ("{0: 1, 1: 2.5}", {"0": 1.0, "1": 2.5}),
    ],
)
def test_classes_are_weighted_by_name_or_by_label(argument, expected):
    config = load(ExperimentConfig, None, parse_overrides([f"training.class_weights={argument}"]))
    assert config.training.class_weights == expected
    assert with_overrides(config, {"seed": 1}).training.class_weights == expected


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("blanced", ["training.class_weights: ", "'none' or 'balanced'", "'blanced'"]),
        ("{}", ["training.class_weights: ", "none"]),
        ("{a: 0}", ["training.class_weights.a: ", "greater than 0"]),
        ("{a: -1, b: .inf}", ["training.class_weights.a: ", "training.class_weights.b: ", "finite"]),
        ("{a: .nan}", ["training.class_weights.a: ", "finite"]),
        ("{a: many}", ["training.class_weights.a: ", "number"]),
        ("{yes: 2}", ["training.class_weights", "True", "quotes"]),
    ],
)
def test_weights_that_are_none_are_refused_by_label(argument, words):
    with pytest.raises(ConfigError) as error:
        load(ExperimentConfig, None, parse_overrides([f"training.class_weights={argument}"]))
    assert all(word in str(error.value) for word in words)
