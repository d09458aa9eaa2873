import itertools

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from irtune.config.sweep_schema import Dimension
from irtune.search.space import in_order, size, suggest

POLICY = "selection.policy.name"
K = "selection.policy.k"


def dimension(**fields):
    return Dimension.model_validate(fields)


def categorical(*choices, **fields):
    return dimension(type="categorical", choices=choices, **fields)


def when(key, *values):
    return {"key": key, "in": values}


CONDITIONAL = {
    # Written before what it depends on.
    K: dimension(type="int", low=1, high=5, when=when(POLICY, "top_k", "random")),
    POLICY: categorical("top_k", "random", "all"),
    "selection.reselect_every": categorical(10, 20),
    "importance.within_block": categorical("l2", "max", when=when(POLICY, "top_k")),
}


def draws(space, num_trials=60, seed=0):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    return [suggest(study.ask(), space) for _ in range(num_trials)]


def test_a_dimension_exists_only_while_its_condition_holds():
    seen = set()
    for values in draws(CONDITIONAL):
        expected = {POLICY, "selection.reselect_every"}
        expected |= {K} if values[POLICY] in ("top_k", "random") else set()
        expected |= {"importance.within_block"} if values[POLICY] == "top_k" else set()
        assert set(values) == expected
        seen.add(values[POLICY])
    assert seen == {"top_k", "random", "all"}


def test_conditions_may_hang_on_conditions():
    space = {
        "c": categorical(1, 2, when=when("b", True)),
        "b": categorical(True, False, when=when("a", "x")),
        "a": categorical("x", "y"),
    }
    assert in_order(space) == ["a", "b", "c"]
    assert {tuple(values) for values in draws(space)} == {("a",), ("a", "b"), ("a", "b", "c")}


def test_a_condition_on_a_fixed_setting_holds():
    assert draws({"a": categorical(1, when=when("seed", 0))}, 1) == [{"a": 1}]


def test_types_are_kept():
    space = {
        "count": dimension(type="int", low=1, high=1),
        "fraction": dimension(type="float", low=1, high=1),
        "choice": categorical(None, True, 2, 0.5, "x"),
    }
    values = draws(space, 100)
    assert {type(v["count"]) for v in values} == {int}
    assert {type(v["fraction"]) for v in values} == {float}
    assert {repr(v["choice"]) for v in values} == {"None", "True", "2", "0.5", "'x'"}


def test_bounds_steps_and_logarithms():
    space = {
        "stepped": dimension(type="int", low=5, high=20, step=5),
        "grid": dimension(type="float", low=0.1, high=0.3, step=0.1),
        "log": dimension(type="float", low=1e-6, high=1, log=True),
        "log_int": dimension(type="int", low=1, high=1000, log=True),
    }
    values = draws(space, 300)
    assert {v["stepped"] for v in values} == {5, 10, 15, 20}
    assert {round(v["grid"], 6) for v in values} == {0.1, 0.2, 0.3}
    # Half of an even draw in the logarithm lies under the geometric middle.
    assert 100 < sum(v["log"] < 1e-3 for v in values) < 200
    assert 100 < sum(v["log_int"] < 31.6 for v in values) < 200


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        ({"a": categorical(1, 2, 3)}, 3),
        ({"a": categorical(1, 2, 3), "b": dimension(type="int", low=5, high=20, step=5)}, 12),
        ({"a": dimension(type="float", low=0.1, high=0.3, step=0.1)}, 3),
        ({"a": dimension(type="float", low=0.1, high=0.1)}, 1),
        ({"a": categorical(1, 2), "b": dimension(type="float", low=0, high=1)}, None),
        # top_k: 5 * 2, random: 5, all: 1; each with two intervals
        (CONDITIONAL, 32),
        ({"a": dimension(type="int", low=1, high=1000), "b": categorical(1, 2, when=when("a", 7, 8))}, 1002),
        ({"a": categorical(1), "b": categorical(1, 2, when=when("seed", 0))}, 2),
    ],
)
def test_size(space, expected):
    assert size(space) == expected


@st.composite
def small_spaces(draw):
    keys = ["a", "b", "c", "d"][: draw(st.integers(1, 4))]
    space = {}
    for index, key in enumerate(keys):
        parent = draw(st.sampled_from([None, *keys[:index]]))
        values = draw(st.sets(st.integers(1, 3), min_size=1)) if parent else None
        condition = when(parent, *values) if parent else None
        space[key] = categorical(*range(1, draw(st.integers(1, 3)) + 1), when=condition)
        if parent and not values <= set(space[parent].choices):
            space[key] = categorical(1, 2)
    return space


@settings(max_examples=40, deadline=None)
@given(space=small_spaces())
def test_size_is_the_number_of_configurations(space):
    configurations = set()
    for values in itertools.product(*(space[key].choices for key in space)):
        everything = dict(zip(space, values, strict=True))
        active = {}
        for key, value in everything.items():
            condition = space[key].when
            if condition is None or active.get(condition.key) in condition.values:
                active[key] = value
        configurations.add(tuple(active.items()))
    assert size(space) == len(configurations)
