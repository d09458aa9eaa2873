import numpy as np
from saying import refused

from irtune.importance import Importance
from irtune.selection import RandomBlocks, SelectionContext


def select(k, seed, num_blocks=30):
    context = SelectionContext(num_blocks, seed, 1000, Importance.unseen(num_blocks), np.random.default_rng(seed))
    return RandomBlocks(k=k).select(context)[0]


def test_every_block_trains_equally_often():
    num_draws = 3000
    counts = np.zeros(30)
    for seed in range(num_draws):
        counts[list(select(10, seed))] += 1
    # A third of the draws each, give or take five standard deviations of a binomial count.
    deviation = np.sqrt(num_draws * (1 / 3) * (2 / 3))
    assert np.abs(counts - num_draws / 3).max() < 5 * deviation
    # And it is random: equal counts would mean a rotation.
    assert counts.std() > deviation / 3


def test_pairs_of_blocks_are_drawn_independently_of_their_distance():
    draws = [set(select(15, seed)) for seed in range(2000)]
    neighbours = sum({3, 4} <= draw for draw in draws)
    strangers = sum({3, 27} <= draw for draw in draws)
    # Both 15/30 * 14/29 of the draws; five standard deviations are 96.
    assert abs(neighbours - strangers) < 2 * 96
    assert abs(neighbours - 2000 * 15 / 30 * 14 / 29) < 96


def test_k_distinct_blocks():
    assert len(select(10, 0)) == 10
    assert len(select(0.5, 0)) == 15
    assert select(30, 0) == tuple(range(30))


def test_more_blocks_than_the_model_has():
    with refused(ValueError, "selection.policy.k: 31 … 30"):
        RandomBlocks(k=31).check(30)
