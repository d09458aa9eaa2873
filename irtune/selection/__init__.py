"""Which blocks train next: one file a policy."""

from irtune.selection.ada_grad_select import AdaGradSelect
from irtune.selection.all_blocks import AllBlocks
from irtune.selection.auto_freeze import AutoFreeze
from irtune.selection.block_order import BlockOrder
from irtune.selection.cost_aware import CostAware
from irtune.selection.grad_es import GradES
from irtune.selection.ist import IST
from irtune.selection.policy import PolicyState, SelectionContext, SelectionPolicy, StepCost, Suppression
from irtune.selection.progressive import Progressive
from irtune.selection.random_blocks import RandomBlocks
from irtune.selection.static import Static
from irtune.selection.top_k import TopK
from irtune.selection.variance_split import VarianceSplit
from irtune.selection.weighted_random import WeightedRandom

POLICIES: dict[str, type[SelectionPolicy]] = {
    policy.model_fields["name"].default: policy
    for policy in (
        VarianceSplit,
        TopK,
        CostAware,
        RandomBlocks,
        WeightedRandom,
        IST,
        AdaGradSelect,
        AutoFreeze,
        GradES,
        Progressive,
        BlockOrder,
        Static,
        AllBlocks,
    )
}

__all__ = ["POLICIES", "PolicyState", "SelectionContext", "SelectionPolicy", "StepCost", "Suppression"]
