import numpy as np
import pytest
from pydantic import ValidationError
from refreshes import choose
from saying import refused

from irtune.selection import TopK


def select(scores, k):
    return choose(TopK(k=k), scores)


def test_the_largest_scores_train():
    assert select([3, 9, 1, 7, 5], 2) == (1, 3)


def test_ties_go_to_the_block_nearer_to_the_output():
    assert select([1, 1, 1, 1], 2) == (2, 3)
    assert select([5, 1, 1, 0], 2) == (0, 2)


def test_blocks_never_seen_rank_last():
    assert select([np.nan, 0, np.nan, -3], 2) == (1, 3)
    assert select([np.nan, 0, np.nan, -3], 3) == (1, 2, 3)


def test_infinite_scores_rank_at_the_ends():
    assert select([1, np.inf, -np.inf, 2], 2) == (1, 3)


@pytest.mark.parametrize(("k", "num_active"), [(1, 1), (10, 10), (0.5, 5), (0.01, 1), (0.34, 3), (1.0, 10)])
def test_counts_are_int_and_fractions_float(k, num_active):
    assert len(select(range(10), k)) == num_active


def test_more_blocks_than_the_model_has():
    with refused(ValueError, "selection.policy.k: 5 … 4"):
        TopK(k=5).check(4)
    TopK(k=4).check(4)
    TopK(k=1.0).check(4)


@pytest.mark.parametrize(
    ("k", "message"),
    [
        (0, "0 is not a number of blocks: give a count from 1"),
        (-2, "-2 is not a number of blocks"),
        (0.0, "0.0 is not a fraction"),
        (1.5, "1.5 is not a fraction"),
        (float("nan"), "nan is not a fraction"),
        (True, "True is not a number of blocks"),
        ("10", "'10' is not a number of blocks"),
        (None, "None is not a number of blocks"),
    ],
)
def test_what_is_no_count_is_refused(k, message):
    with pytest.raises(ValidationError, match=message):
        TopK(k=k)
