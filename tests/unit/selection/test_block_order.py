from refreshes import refresh, run
from saying import refused

from irtune.selection import BlockOrder


def turns(num_refreshes, num_blocks=5, seed=0, **options):
    return run(BlockOrder(**options), {step: [1] * num_blocks for step in range(num_refreshes)}, seed=seed)


def test_ascending_and_descending_cycles():
    assert turns(7, order="ascending") == [(0,), (1,), (2,), (3,), (4,), (0,), (1,)]
    assert turns(7, order="descending") == [(4,), (3,), (2,), (1,), (0,), (4,), (3,)]


def test_groups_of_neighbours():
    assert turns(4, order="ascending", group_size=2) == [(0, 1), (2, 3), (4,), (0, 1)]
    assert turns(4, order="descending", group_size=2) == [(4,), (2, 3), (0, 1), (4,)]
    assert turns(3, num_blocks=8, order="ascending", group_size=0.5) == [(0, 1, 2, 3), (4, 5, 6, 7), (0, 1, 2, 3)]
    assert turns(2, order="ascending", group_size=5) == [(0, 1, 2, 3, 4)] * 2


def test_random_order_is_a_fresh_permutation_each_cycle():
    policy = BlockOrder()
    state, cycles = {}, []
    for cycle in range(4):
        chosen = []
        for turn in range(12):
            blocks, state = policy.select(refresh([1] * 12, state=state, seed=100 * cycle + turn))
            chosen += blocks
        assert sorted(chosen) == list(range(12))
        cycles.append(tuple(chosen))
    assert len(set(cycles)) == 4
    assert tuple(range(12)) not in cycles


def test_a_group_larger_than_the_model():
    with refused(ValueError, "selection.policy.group_size: 6 … 5"):
        BlockOrder(group_size=6).check(5)
    BlockOrder(group_size=5).check(5)
