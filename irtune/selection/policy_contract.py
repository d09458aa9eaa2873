"""What every selection policy must keep to, as checks that you can run on a policy of your own.

    from irtune.selection.policy_contract import check_policy

    def test_my_policy():
        check_policy(MyPolicy(name="my_pkg.mod:MyPolicy", k=3))

A check raises AssertionError that says what the policy did, where, and what it must do instead. Runs are made up: every
model of 1 to 80 blocks that the policy accepts, a few refreshes each, with scores that are ordinary, equal, zero, huge,
infinite or missing. Nothing but numpy is needed.
"""

import copy
import json
import pickle
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from irtune.importance import Importance
from irtune.selection.policy import PolicyState, SelectionContext, SelectionPolicy, StepCost, Suppression

SIZES = range(1, 81)
"""Numbers of blocks that policies are tried on."""

FEW_SIZES = (1, 2, 3, 5, 12, 30)
NUM_REFRESHES = 4
TOTAL_STEPS = 100

Outcome = tuple[tuple[int, ...], PolicyState]


def check_policy(policy: SelectionPolicy) -> None:
    """Run all checks.

    Raises:
        AssertionError: If the policy fails one.
    """
    for check in CHECKS:
        check(policy)


def check_documentation(policy: SelectionPolicy) -> None:
    """The class says what it does and where its rule is from."""
    text = type(policy).__dict__.get("__doc__") or ""
    if "Source:" not in text:
        _fail(policy, "has no docstring with a line 'Source: …', which names the paper, or says that the rule is new")


def check_pickling(policy: SelectionPolicy) -> None:
    """The policy reaches the processes that train."""
    try:
        arrived = pickle.loads(pickle.dumps(policy))
    except Exception as error:
        _fail(policy, f"cannot be pickled ({error}); define it at the top of a module, with plain fields")
    if arrived != policy:
        _fail(policy, f"is another after pickling: {arrived!r}")


def check_choices(policy: SelectionPolicy) -> None:
    """Whatever the scores and the number of blocks, ``select`` returns sorted indices, at least one, and a state."""
    for num_blocks in accepted_sizes(policy):
        for context, outcome in _refreshes(policy, _awkward_scores(num_blocks)):
            if not (isinstance(outcome, tuple) and len(outcome) == 2 and hasattr(outcome[1], "keys")):
                wanted = "the blocks and a state, {} if none"
                _fail(policy, f"select returned {outcome!r}; it must return {wanted}", context)
            if not _are_blocks(outcome[0], num_blocks):
                wanted = f"a tuple of sorted int indices of blocks, at least one, from 0 to {num_blocks - 1}"
                _fail(policy, f"select chose {outcome[0]!r}; it must choose {wanted}", context)
            lowest = policy.lowest_ever(context.num_blocks, context.cost)
            if outcome[0][0] < lowest:
                found = f"select chose block {outcome[0][0]}, and lowest_ever promises none below {lowest}"
                _fail(policy, f"{found}; it must return 0 where that is not known in advance", context)


def check_probes(policy: SelectionPolicy) -> None:
    """Probes suppress blocks of the model to a finite scale; who does not declare ``uses_probes`` asks for none."""
    for context, _ in _runs(policy):
        asked = replace(context, probes=(), probe_losses=np.empty(0))
        probes, again = (policy.probes(replace(asked, generator=_generator(1))) for _ in range(2))
        if probes != again:
            _fail(policy, f"asks for {probes} and then {again} in the same context; draw from its generator", context)
        if not policy.uses_probes:
            if probes != ():
                _fail(policy, "asks for probes, which nobody runs; set uses_probes: ClassVar[bool] = True")
            continue
        if not isinstance(probes, tuple) or not all(isinstance(probe, Suppression) for probe in probes):
            _fail(policy, f"probes returned {probes!r}; it must return a tuple of Suppression", context)
        for probe in probes:
            if not _are_blocks(probe.blocks, context.num_blocks) or not 0 <= probe.scale < np.inf:
                wanted = "its blocks must be sorted indices, at least one, its scale finite and not negative"
                _fail(policy, f"asks for {probe!r}; {wanted}", context)


def check_determinism(policy: SelectionPolicy) -> None:
    """The same context gives the same choice, and all randomness comes from ``context.generator``."""
    before = random.getstate(), _numpy_state()
    for context, outcome in _runs(policy):
        if (random.getstate(), _numpy_state()) != before:
            _fail(policy, "draws from the global random or numpy.random; draw from context.generator", context)
        again = policy.select(replace(context, generator=_generator(context.step)))
        if _plain(again) != _plain(outcome):
            found = f"chose {outcome[0]} and then {again[0]} from the same context"
            _fail(policy, f"{found}; it must be the same", context)


def check_purity(policy: SelectionPolicy) -> None:
    """Deciding changes neither the policy nor its context; what it remembers is in the state that it returns."""
    before_all = copy.deepcopy(policy)
    for context, _ in _runs(policy):
        before = _contents(context)
        policy.probes(replace(context, generator=_generator(1)))
        policy.select(replace(context, generator=_generator(context.step)))
        if _contents(context) != before:
            _fail(policy, "changes its context; it must copy what it changes and return a new state", context)
        if policy != before_all:
            _fail(policy, "changes itself; what it remembers belongs in the state that it returns", context)


def check_resuming(policy: SelectionPolicy) -> None:
    """A run that goes on from a checkpoint, where the state is JSON, chooses as one that never stopped."""
    for context, outcome in _runs(policy):
        try:
            state = json.loads(json.dumps(dict(context.state), allow_nan=False))
        except (TypeError, ValueError) as error:
            _fail(policy, f"its state is not JSON ({error}): {context.state!r}", context)
        resumed_policy = pickle.loads(pickle.dumps(policy))
        resumed = resumed_policy.select(replace(context, state=state, generator=_generator(context.step)))
        if _plain(resumed) != _plain(outcome):
            _fail(policy, f"chose {outcome[0]}, but {resumed[0]} after its state went through JSON", context)


def check_inputs(policy: SelectionPolicy) -> None:
    """Who declares ``uses_importance = False`` chooses the same whatever the scores."""
    if policy.uses_importance:
        return
    for num_blocks in _few(policy):
        unseen = [outcome for _, outcome in _refreshes(policy, [np.full(num_blocks, np.nan)] * NUM_REFRESHES)]
        scored = [outcome for _, outcome in _refreshes(policy, _awkward_scores(num_blocks))]
        if _plain(unseen) != _plain(scored):
            _fail(policy, f"depends on scores of {num_blocks} blocks; remove uses_importance = False")


CHECKS: tuple[Callable[[SelectionPolicy], None], ...] = (
    check_documentation,
    check_pickling,
    check_choices,
    check_probes,
    check_determinism,
    check_purity,
    check_resuming,
    check_inputs,
)
"""All checks, in the order in which ``check_policy`` runs them."""


def accepted_sizes(policy: SelectionPolicy) -> list[int]:
    """The numbers of blocks from 1 to 80 that the policy works on.

    It may refuse others, by a ValueError from ``check`` or from the first ``select`` that names ``selection.policy``.

    Raises:
        AssertionError: If it refuses all, or refuses one without naming the setting.
    """
    accepted = [num_blocks for num_blocks in SIZES if _accepts(policy, num_blocks)]
    if not accepted:
        _fail(policy, f"refuses every model of 1 to {SIZES[-1]} blocks")
    return accepted


def _accepts(policy: SelectionPolicy, num_blocks: int) -> bool:
    try:
        policy.check(num_blocks)
        _refresh(policy, _context(np.arange(1.0, num_blocks + 1), 0, {}, None))
    except ValueError as error:
        if "selection.policy" not in str(error):
            _fail(policy, f"refuses {num_blocks} blocks without naming the setting selection.policy.…: {error}")
        return False
    return True


def _few(policy: SelectionPolicy) -> list[int]:
    return [size for size in FEW_SIZES if _accepts(policy, size)] or accepted_sizes(policy)[:3]


def _runs(policy: SelectionPolicy) -> Iterator[tuple[SelectionContext, Outcome]]:
    """Every refresh of a run on each of a few numbers of blocks."""
    for num_blocks in _few(policy):
        yield from _refreshes(policy, _awkward_scores(num_blocks))


def _refreshes(policy: SelectionPolicy, scores: Iterable[np.ndarray]) -> Iterator[tuple[SelectionContext, Outcome]]:
    """A run with these scores ``(L,)`` at its refreshes: each context as ``select`` saw it, and what came out."""
    state: PolicyState = {}
    for number, of_refresh in enumerate(scores):
        step = number * (TOTAL_STEPS - 1) // (NUM_REFRESHES - 1)
        cost = StepCost.uniform(len(of_refresh)) if number % 2 else None
        context, outcome = _refresh(policy, _context(of_refresh, step, state, cost))
        yield context, outcome
        state = outcome[1]


def _refresh(policy: SelectionPolicy, context: SelectionContext) -> tuple[SelectionContext, Outcome]:
    """What a trainer does at a refresh; the losses of probes are made up, now and then not finite."""
    if policy.uses_probes:
        probes = policy.probes(_own(context, context.step, 1))
        losses = _generator(context.step, 2).choice([0.0, 0.5, 1.0, 2.0, 800.0, np.inf, np.nan], size=len(probes))
        context = replace(context, probes=probes, probe_losses=losses)
    return context, policy.select(_own(context, context.step))


def _context(scores: np.ndarray, step: int, state: PolicyState, cost: StepCost | None) -> SelectionContext:
    seen = ~np.isnan(scores)
    importance = Importance(scores.copy(), np.where(seen, step, -1), seen.astype(int))
    return SelectionContext(len(scores), step, TOTAL_STEPS, importance, _generator(step), state, cost)


def _own(context: SelectionContext, *seed: int) -> SelectionContext:
    """The same context with data of its own, which a policy may spoil, and a generator of this seed."""
    importance, state = copy.deepcopy((context.importance, context.state))
    return replace(context, importance=importance, state=state, generator=_generator(*seed))


def _awkward_scores(num_blocks: int) -> list[np.ndarray]:
    """Scores for the refreshes of one run, others for each number of blocks."""
    generator = _generator(num_blocks)
    special = [0.0, -0.0, 1.0, 1.0, -1.0, 5e-324, 1e308, -1e308, np.nan, np.inf, -np.inf]
    kinds = [
        generator.lognormal(sigma=2, size=num_blocks),
        np.full(num_blocks, np.nan),
        generator.choice(special, size=num_blocks),
        np.zeros(num_blocks),
        generator.normal(size=num_blocks),
        np.full(num_blocks, 7.0),
        generator.choice([1.0, 2.0, np.nan], size=num_blocks),
        np.full(num_blocks, np.inf),
        np.arange(num_blocks, dtype=float),
        np.full(num_blocks, -np.inf),
        generator.choice([1e308, -1e308], size=num_blocks),
    ]
    return [kinds[(num_blocks + number) % len(kinds)] for number in range(NUM_REFRESHES)]


def _generator(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def _are_blocks(blocks: Any, num_blocks: int) -> bool:
    return (
        isinstance(blocks, tuple)
        and len(blocks) > 0
        and all(type(block) is int and 0 <= block < num_blocks for block in blocks)
        and list(blocks) == sorted(set(blocks))
    )


def _contents(context: SelectionContext) -> tuple[Any, ...]:
    importance, cost = context.importance, context.cost
    arrays = [importance.scores, importance.measured_at, importance.num_probes, context.probe_losses]
    arrays += [cost.passed, cost.trained] if cost else []
    return repr(context.state), *(array.tobytes() for array in arrays)


def _numpy_state() -> tuple[bytes, int]:
    _, key, position, *_ = np.random.get_state()
    return np.asarray(key).tobytes(), int(position)


def _plain(value: Any) -> str:
    """A form that can be compared, in which tuples and lists are alike, as JSON makes them."""
    return json.dumps(value, default=repr, sort_keys=True)


def _fail(policy: SelectionPolicy, message: str, context: SelectionContext | None = None) -> Any:
    where = ""
    if context is not None:
        where = f" (at step {context.step}, {context.num_blocks} blocks of scores {context.importance.scores.tolist()})"
    raise AssertionError(f"policy {type(policy).__name__} {message}{where}")
