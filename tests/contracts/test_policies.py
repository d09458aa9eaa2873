"""What every selection policy must keep to; a new policy is covered as soon as it is registered."""

import inspect
import json
import random
from itertools import count
from typing import Any, ClassVar

import numpy as np
import pytest
from refreshes import run
from saying import refused

from irtune.config.load import apply_overrides, build, dotted_keys
from irtune.config.schema import ExperimentConfig, SelectionConfig
from irtune.selection import (
    IST,
    POLICIES,
    AdaGradSelect,
    AutoFreeze,
    BlockOrder,
    CostAware,
    GradES,
    Progressive,
    SelectionPolicy,
    Static,
    Suppression,
    TopK,
    VarianceSplit,
)
from irtune.selection.policy_contract import CHECKS, accepted_sizes, check_policy


def examples():
    """Every policy with its defaults, or with each kind of k; some with further options."""
    for policy_class in POLICIES.values():
        if "k" in policy_class.model_fields:
            yield from (policy_class(k=k) for k in (1, 0.3, 1.0))
        else:
            yield policy_class()
    yield VarianceSplit(window=(0, 1), splits=2)
    yield VarianceSplit(keep="low", splits=2)
    yield VarianceSplit(cut="authors", initial_score=1000)
    yield VarianceSplit(cut="authors", keep="low", window=(0, 0))
    yield IST(probe_every=1, num_probes=5, suppressed_fraction=1.0, scale=0, score_learning_rate=1e6)
    yield AdaGradSelect(k=2, epsilon=0.7, decay=0, prior=0.01)
    yield AutoFreeze(percentile=100)
    yield GradES(tau=10, alpha=0)
    yield Progressive(start=0, end=0.3)
    yield BlockOrder(order="descending", group_size=3)
    yield Static(which="strided", k=3)
    yield Static(which="middle", k=3)
    yield Static(blocks=(5, 0, 2))
    yield CostAware(budget=0.55)
    yield CostAware(budget=1)


EXAMPLES = list(examples())
over_policies = pytest.mark.parametrize(
    "policy", EXAMPLES, ids=[f"{number}-{policy.name}" for number, policy in enumerate(EXAMPLES)]
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@over_policies
@pytest.mark.filterwarnings("error")
def test_policies_pass_the_checks(policy, check):
    check(policy)


@over_policies
def test_policies_work_on_models_of_all_sizes(policy):
    needed = {Static: 6, BlockOrder: 3, AdaGradSelect: 2, CostAware: 10}.get(type(policy), 1)
    assert set(range(needed, 81)) <= set(accepted_sizes(policy))


@over_policies
def test_dotted_keys_bring_a_policy_back(policy):
    config = ExperimentConfig(selection=SelectionConfig(policy=policy))
    settings = json.loads(json.dumps(dotted_keys(config)))
    back = build(ExperimentConfig, apply_overrides({}, settings), "settings")
    assert back.selection.policy == policy
    assert type(getattr(back.selection.policy, "k", None)) is type(getattr(policy, "k", None))


@over_policies
def test_who_asks_for_scores_uses_them(policy):
    if not policy.uses_importance:
        return
    generator = np.random.default_rng(3)
    runs = {tuple(run(policy, {step: generator.normal(size=30) for step in (0, 60, 80)})) for _ in range(5)}
    everything = (tuple(range(30)),) * 3
    assert len(runs) > 1 or runs == {everything}


@pytest.mark.parametrize(("name", "policy_class"), POLICIES.items())
def test_the_documentation_says_what_settings_mean(name, policy_class):
    assert policy_class.model_fields["name"].default == name
    assert all(field.description for key, field in policy_class.model_fields.items() if key != "name")
    assert inspect.getmodule(policy_class).__doc__


USERS_POLICY = '''
"""A policy of a user."""

from pydantic import Field

from irtune.selection import SelectionPolicy


class MyPolicy(SelectionPolicy):
    """Trains the blocks that score above the mean; every other time those below.

    Source: mine.
    """

    name: str
    at_most: int = Field(3, gt=0, description="blocks that train")

    def select(self, context):
        turn = context.state.get("turn", 0)
        scores = context.importance.scores
        order = sorted(range(context.num_blocks), key=lambda block: (str(scores[block]), block), reverse=turn % 2 == 0)
        return tuple(sorted(order[: self.at_most])), {"turn": turn + 1}
'''


def test_a_policy_of_a_user_is_checked_like_ours(tmp_path, monkeypatch):
    (tmp_path / "my_pkg").mkdir()
    (tmp_path / "my_pkg" / "__init__.py").touch()
    (tmp_path / "my_pkg" / "mod.py").write_text(USERS_POLICY)
    monkeypatch.syspath_prepend(tmp_path)
    options = {"name": "my_pkg.mod:MyPolicy", "at_most": 4}
    policy = build(ExperimentConfig, {"selection": {"policy": options}}, "mine.yaml").selection.policy
    assert type(policy).__module__ == "my_pkg.mod"
    check_policy(policy)
    test_dotted_keys_bring_a_policy_back(policy)


class Users(TopK):
    """What users get wrong.

    Source: life.
    """

    name: str = "users"
    k: int | float = 0.5


class Unsorted(Users):
    """Source: life."""

    def select(self, context):
        blocks, state = super().select(context)
        return blocks[::-1], state


class Empty(Users):
    """Source: life."""

    def select(self, context):
        return tuple(block for block in range(context.num_blocks) if context.importance.scores[block] > 1e9), {}


class NumpyIntegers(Users):
    """Source: life."""

    def select(self, context):
        return tuple(np.argsort(context.importance.scores)[-1:]), {}


class OneTooMany(Users):
    """Source: life."""

    def select(self, context):
        return (context.num_blocks,), {}


class NoState(Users):
    """Source: life."""

    def select(self, context):
        return super().select(context)[0]


class SortsInPlace(Users):
    """Source: life."""

    def select(self, context):
        context.importance.scores.sort()
        return super().select(context)


class ChangesItsState(Users):
    """Source: life."""

    def select(self, context):
        turns = context.state.get("turns", [])
        turns.append(context.step)
        return super().select(context)[0], {"turns": turns}


class RemembersInItself(Users):
    """Source: life."""

    _turn: int = 0

    def select(self, context):
        self._turn += 1
        return super().select(context)


class RemembersInItsModule(Users):
    """Source: life."""

    turns: ClassVar[Any] = count()

    def select(self, context):
        return (next(self.turns) % context.num_blocks,), {}


class GlobalNumpy(Users):
    """Source: life."""

    def select(self, context):
        return (int(np.random.randint(context.num_blocks)),), {}


class GlobalRandom(Users):
    """Source: life."""

    def select(self, context):
        return (random.randrange(context.num_blocks),), {}


class OwnGenerator(Users):
    """Source: life."""

    def select(self, context):
        return (int(np.random.default_rng().integers(context.num_blocks)),), {}


class ArrayInState(Users):
    """Source: life."""

    def select(self, context):
        return super().select(context)[0], {"scores": context.importance.scores}


class NanInState(Users):
    """Source: life."""

    def select(self, context):
        return super().select(context)[0], {"best": float(context.importance.scores.max())}


class ForgetsThroughJson(Users):
    """Source: life."""

    def select(self, context):
        blocks = context.state.get("blocks", (0,))
        return (0,) if isinstance(blocks, tuple) else (context.num_blocks - 1,), {"blocks": blocks}


class Undocumented(Users):
    def select(self, context):
        return super().select(context)


class SecretlyUsesScores(Users):
    """Source: life."""

    uses_importance: ClassVar[bool] = False


class ProbesUnasked(Users):
    """Source: life."""

    def probes(self, context):
        return (Suppression((0,), 0.5),)


class ProbesNothing(Users):
    """Source: life."""

    uses_probes: ClassVar[bool] = True

    def probes(self, context):
        return (Suppression((), 0.5),)


class ProbesByChance(Users):
    """Source: life."""

    uses_probes: ClassVar[bool] = True

    def probes(self, context):
        return (Suppression((0,), float(np.random.default_rng().random())),)


class RefusesAll(Users):
    """Source: life."""

    def check(self, num_blocks):
        raise ValueError("selection.policy.k: never")


class RefusesWithoutSayingWhy(Users):
    """Source: life."""

    def select(self, context):
        if context.num_blocks == 1:
            raise ValueError("math domain error")
        return super().select(context)


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        (Unsorted, r"select chose \(2, 1\); it must choose a tuple of sorted int indices of blocks, at least one"),
        (Empty, r"select chose \(\); it must choose"),
        (NumpyIntegers, r"select chose \(.*int64\(0\),\); it must choose a tuple of sorted int indices"),
        (OneTooMany, r"select chose \(1,\); it must choose .* from 0 to 0 \(at step 0, 1 blocks of scores"),
        (NoState, "it must return the blocks and a state"),
        (SortsInPlace, "changes its context; it must copy what it changes and return a new state"),
        (ChangesItsState, "changes its context"),
        (RemembersInItself, "changes itself; what it remembers belongs in the state"),
        (RemembersInItsModule, "from the same context; it must be the same"),
        (GlobalNumpy, "draws from the global random or numpy.random; draw from context.generator"),
        (GlobalRandom, "draws from the global random or numpy.random"),
        (OwnGenerator, "from the same context; it must be the same"),
        (ArrayInState, "its state is not JSON"),
        (NanInState, "its state is not JSON .*nan"),
        (ForgetsThroughJson, "after its state went through JSON"),
        (Undocumented, "has no docstring with a line 'Source: …'"),
        (SecretlyUsesScores, "depends on scores of .* blocks; remove uses_importance = False"),
        (ProbesUnasked, "asks for probes, which nobody runs"),
        (ProbesNothing, r"asks for Suppression\(blocks=\(\), scale=0.5\); its blocks must be sorted indices"),
        (ProbesByChance, "in the same context; draw from its generator"),
        (RefusesAll, "refuses every model of 1 to 80 blocks"),
        (RefusesWithoutSayingWhy, "refuses 1 blocks without naming the setting .* math domain error"),
    ],
)
def test_a_broken_policy_fails(broken, complaint):
    assert issubclass(broken, SelectionPolicy)
    with pytest.raises(AssertionError, match=f"^policy {broken.__name__} .*{complaint}"):
        check_policy(broken())


def test_a_policy_that_cannot_be_pickled_fails():
    class Local(Users):
        """Source: life."""

    with refused(AssertionError, "cannot be pickled", "top of a module"):
        check_policy(Local())


def test_the_policy_that_users_derive_from_is_not_what_fails():
    check_policy(Users())
