import numpy as np
import pytest

from irtune.importance import Importance
from irtune.selection import AllBlocks, SelectionContext, SelectionPolicy


def test_all_blocks_train():
    context = SelectionContext(5, 0, 10, Importance.unseen(5), np.random.default_rng(0))
    assert AllBlocks().select(context) == ((0, 1, 2, 3, 4), {})


def test_a_policy_without_a_rule_says_so():
    context = SelectionContext(5, 0, 10, Importance.unseen(5), np.random.default_rng(0))
    with pytest.raises(TypeError, match="'mine' does not say how it selects"):
        SelectionPolicy(name="mine").select(context)
