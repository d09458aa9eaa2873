from contextlib import nullcontext
from dataclasses import replace
from itertools import chain, combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refreshes import choose
from saying import refused

from irtune.selection import CostAware, StepCost


def costs(fixed, passed, trained):
    return StepCost(float(fixed), np.array(passed, dtype=float), np.array(trained, dtype=float))


def test_a_high_score_far_from_the_output_is_not_worth_its_backward_pass():
    """Without a known cost, 4 blocks cost 4 forward and 4 backward; 6 pays for a backward pass of two blocks."""
    assert choose(CostAware(budget=0.75), [100, 1, 2, 3]) == (2, 3)
    assert choose(CostAware(budget=0.874), [100, 1, 2, 3]) == (2, 3)
    assert choose(CostAware(budget=0.875), [100, 1, 2, 3]) == (1, 2, 3)
    assert choose(CostAware(budget=1), [100, 1, 2, 3]) == (0, 1, 2, 3)


def test_what_is_not_computed_below_pays_for_blocks_above():
    """A budget of 7 pays for block 2 (4 + 2 + .5); without 2 of 4 forward for block 3 too, and never for block 1."""
    cost = costs(4, [1, 1, 1, 1], [0.5, 0.5, 0.5, 0.9])
    policy = CostAware(budget=7 / cost.of(range(4)))
    assert policy.lowest_ever(4, cost) == 2
    kept = replace(cost, lowest=2, kept=2.0)
    assert kept.of([2]) == cost.of([2]) - 2
    assert kept.of(range(4)) == cost.of(range(4))
    assert choose(policy, [9, 9, 2, 1], cost=cost) == (2,)
    assert choose(policy, [9, 9, 2, 1], cost=kept) == (2, 3)


def test_a_budget_that_is_the_cost_of_a_set_pays_for_it():
    """Also where the sum of the parts is not the whole by a rounding."""
    for num_blocks in range(2, 20):
        cost = costs(0.1 * num_blocks, [0.1] * num_blocks, [0.01] * num_blocks)
        for lowest in range(num_blocks):
            share = cost.of(range(lowest, num_blocks)) / cost.of(range(num_blocks))
            upwards = tuple(range(lowest, num_blocks))
            assert choose(CostAware(budget=share), [1] * num_blocks, cost=cost) == upwards


def test_more_blocks_higher_up_against_one_lower_down():
    """A full step costs 4 + 4 + 4. The budget of 9 pays for block 0 alone, 1 and one above, or 2 and 3."""
    cost = costs(4, [1] * 4, [1] * 4)
    assert choose(CostAware(budget=0.75), [10, 4, 5, 3], cost=cost) == (0,)
    assert choose(CostAware(budget=0.75), [8, 4, 5, 3], cost=cost) == (1, 2)
    assert choose(CostAware(budget=0.75), [8, 2, 5, 4], cost=cost) == (2, 3)


def test_of_equal_sums_the_shorter_backward_pass():
    cost = costs(4, [1] * 4, [1] * 4)
    assert choose(CostAware(budget=0.75), [9, 4, 5, 4], cost=cost) == (2, 3)


def test_blocks_that_do_not_help_are_left_out():
    assert choose(CostAware(budget=1), [0, 3, -1, 2]) == (1, 3)
    assert choose(CostAware(budget=1), [-1, -2, -3, -4]) == (0,)
    assert choose(CostAware(budget=0.75), [-1, -2, -3, -4]) == (2,)
    assert choose(CostAware(budget=1), [0, 0, 0, 0]) == (3,)


def test_blocks_never_seen_count_like_the_lowest_score():
    cost = costs(4, [1] * 4, [1] * 4)
    assert choose(CostAware(budget=0.75), [np.nan, 4, np.nan, 3], cost=cost) == (1, 3)
    assert choose(CostAware(budget=1), [np.nan, 4, np.nan, 3], cost=cost) == (0, 1, 2, 3)
    assert choose(CostAware(budget=1), [np.nan, 4, np.nan, 0], cost=cost) == (1,)


def test_while_no_block_was_seen_all_count_alike():
    assert choose(CostAware(budget=0.75), [np.nan] * 4) == (2, 3)


def test_infinite_scores_count_as_the_ends_of_the_finite_ones():
    assert choose(CostAware(budget=1), [np.inf, 1, -np.inf, 9]) == (0, 1, 2, 3)
    assert choose(CostAware(budget=1), [np.inf, 1, -np.inf, -9]) == (0, 1)


def test_a_budget_below_a_single_block_says_what_to_do():
    facts = ("selection.policy.budget: 0.6 … 4 blocks", "cheapest … block 3 alone … 0.6250", "set … budget … 1")
    with refused(ValueError, *facts):
        choose(CostAware(budget=0.6), [1, 2, 3, 4])
    assert choose(CostAware(budget=0.625), [1, 2, 3, 4]) == (3,)
    # The last block is dear to train: the one before it is the cheapest.
    with pytest.raises(ValueError, match="block 2 alone"):
        choose(CostAware(budget=0.01), [1, 2, 3, 4], cost=costs(4, [1] * 4, [1, 1, 1, 9]))


def every_set(num_blocks):
    return chain.from_iterable(combinations(range(num_blocks), size) for size in range(1, num_blocks + 1))


@st.composite
def problems(draw, trained_alike):
    num_blocks = draw(st.integers(1, 10))
    each = st.lists(st.integers(0, 6), min_size=num_blocks, max_size=num_blocks)
    trained = [draw(st.integers(0, 4))] * num_blocks if trained_alike else draw(each)
    fixed = draw(st.integers(1, 20))
    passed = draw(each)
    scores = draw(st.lists(st.integers(-3, 20), min_size=num_blocks, max_size=num_blocks))
    allowed = draw(st.integers(1, fixed + sum(passed) + sum(trained)))
    return scores, fixed, passed, trained, allowed


def solve(scores, fixed, passed, trained, allowed):
    full = fixed + sum(passed) + sum(trained)
    blocks = choose(CostAware(budget=allowed / full), scores, cost=costs(fixed, passed, trained))
    paid = {block: fixed + sum(passed[block:]) for block in range(len(scores))}
    possible = [s for s in every_set(len(scores)) if paid[min(s)] + sum(trained[b] for b in s) <= allowed]
    return blocks, possible


@settings(max_examples=80, deadline=None)
@given(problem=problems(trained_alike=True))
def test_no_set_of_blocks_within_the_budget_is_better(problem):
    scores = problem[0]
    try:
        blocks, possible = solve(*problem)
    except ValueError:
        return
    assert blocks in possible
    assert sum(scores[b] for b in blocks) == max(sum(scores[b] for b in s) for s in possible)


@settings(max_examples=80, deadline=None)
@given(problem=problems(trained_alike=False))
def test_the_budget_holds_whatever_training_a_block_costs(problem):
    try:
        blocks, possible = solve(*problem)
    except ValueError:
        return
    assert blocks in possible


@settings(max_examples=100, deadline=None)
@given(problem=problems(trained_alike=False))
def test_a_budget_is_refused_only_if_no_set_is_within_it(problem):
    _, fixed, passed, trained, allowed = problem
    cheapest = min(fixed + sum(passed[block:]) + trained[block] for block in range(len(passed)))
    refused = pytest.raises(ValueError, match=r"selection\.policy\.budget: .* pays for none")
    with nullcontext() if cheapest <= allowed else refused:
        solve(*problem)
