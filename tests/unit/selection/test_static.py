import numpy as np
import pytest
from pydantic import ValidationError
from refreshes import choose
from saying import refused

from irtune.selection import Static


def blocks(num_blocks=10, **options):
    return choose(Static(**options), [np.nan] * num_blocks)


def test_the_first_the_last_and_listed_blocks():
    assert blocks(which="first", k=3) == (0, 1, 2)
    assert blocks(which="last", k=3) == (7, 8, 9)
    assert blocks(k=0.2) == (8, 9)
    assert blocks(blocks=[7, 0, 3]) == (0, 3, 7)


@pytest.mark.parametrize(
    ("num_blocks", "k", "expected"),
    # 32 blocks in 4 parts of 8, as LLaMA Pro places its blocks; 10 in parts of 3, 3 and 4.
    [(32, 4, (7, 15, 23, 31)), (10, 3, (2, 5, 9)), (10, 1, (9,)), (10, 10, tuple(range(10))), (5, 4, (0, 1, 2, 4))],
)
def test_strided_blocks_end_equal_parts_of_the_model(num_blocks, k, expected):
    # 5 blocks in 4 parts end at 5/4, 10/4, 15/4 and 5, rounded down.
    assert blocks(num_blocks, which="strided", k=k) == expected


@pytest.mark.parametrize(
    ("num_blocks", "k", "expected"),
    [
        # The middle one and the middle three of five equal parts of 16 blocks, which the authors cut at 3.2, 6.4, 9.6
        # and 12.8, rounded down.
        (16, 3, range(6, 9)),
        (16, 9, range(3, 12)),
        # And of 32, cut at 6.4, 12.8, 19.2, 25.6.
        (32, 7, range(12, 19)),
        (32, 19, range(6, 25)),
        (10, 4, range(3, 7)),
        (10, 3, range(3, 6)),
        (3, 1, [1]),
        (4, 4, range(4)),
    ],
)
def test_blocks_in_the_middle(num_blocks, k, expected):
    assert blocks(num_blocks, which="middle", k=k) == tuple(expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "found neither"),
        ({"k": 3, "blocks": [1]}, "found both"),
        ({"blocks": []}, "distinct … from 0 … at least one … []"),
        ({"blocks": [1, 1]}, "distinct … [1, 1]"),
        ({"blocks": [-1]}, "from 0 … [-1]"),
        ({"k": 0}, "0 is not … count from 1 … (0, 1]"),
        ({"which": "centre", "k": 3}, "'first', 'last', 'middle' or 'strided'"),
    ],
)
def test_what_is_no_choice_is_refused(options, message):
    with refused(ValidationError, message):
        Static(**options)


def test_the_lowest_block_is_known_in_advance():
    chosen = (Static(which="last", k=3), Static(which="middle", k=2), Static(blocks=[7, 4]), Static(which="first", k=3))
    assert [policy.lowest_ever(10) for policy in chosen] == [7, 4, 4, 0]


def test_blocks_that_the_model_does_not_have():
    with refused(ValueError, "selection.policy.blocks: … no block 10 … has 10"):
        Static(blocks=[3, 10]).check(10)
    with refused(ValueError, "selection.policy.k: 11 … 10"):
        Static(k=11).check(10)
    Static(blocks=[3, 9]).check(10)
    Static(k=10).check(10)
