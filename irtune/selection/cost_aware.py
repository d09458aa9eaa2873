"""The most important set of blocks that a budget pays for."""

from typing import Literal

import numpy as np
from pydantic import Field

from irtune.selection.policy import PolicyState, SelectionContext, SelectionPolicy, StepCost
from irtune.selection.scores import finite_scores, ranked_scores


class CostAware(SelectionPolicy):
    """Trains the set of blocks with the largest sum of scores among those whose step costs no more than the budget.

    A step costs the forward pass, plus passing backwards through every block down to the lowest active one, plus a part
    of its own for each active block (``StepCost``; where the trainer does not know it, all blocks cost alike, and half
    of a full step is the forward pass). So one block near the input costs nearly as much as all blocks, and one more
    block above the lowest nearly nothing. For each possible lowest block, the best set adds blocks above it by
    descending score as far as the budget goes; the best of these sets trains. The dearer training a block is against
    passing it, the more the scores decide: where it costs nothing more, as without a known cost, every block with a
    score above zero trains, from the lowest that the budget reaches upwards.

    That is exact if training costs the same in every block, however much passing each of them does. If not, the set is
    still within the budget, but a better one may exist.

    Blocks of score zero or below are never added. One that was never measured counts like the lowest score; while none
    is measured, all count alike. Of equal sums the set with the shorter backward pass trains.

    Source: this project. That freezing saves the backward pass below the lowest active block only is shown by Liu,
    Agarwal & Venkataraman, AutoFreeze (arXiv 2102.01386).
    """

    name: Literal["cost_aware"] = "cost_aware"
    budget: float = Field(0.75, gt=0, le=1, description="cost of a step, as a share of what a step of all blocks costs")

    def select(self, context: SelectionContext) -> tuple[tuple[int, ...], PolicyState]:
        """The best set.

        Raises:
            ValueError: If the budget does not pay for a single block.
        """
        num_blocks = context.num_blocks
        cost = context.cost or StepCost.uniform(num_blocks)
        full = cost.of(range(num_blocks))
        scores = context.importance.scores
        values = np.ones(num_blocks) if np.isnan(scores).all() else finite_scores(ranked_scores(scores))
        blocks = best_set(values, cost, self._limit(cost, num_blocks))
        if not blocks:
            cheapest = min(range(num_blocks), key=lambda block: cost.of([block]))
            share = cost.of([cheapest]) / full
            raise ValueError(
                f"selection.policy.budget: {self.budget:g} of a step of all {num_blocks} blocks pays for none: the "
                f"cheapest set, block {cheapest} alone, costs {share:.4f} of it, the forward pass included; set the "
                f"budget between that and 1"
            )
        return blocks, {}

    def lowest_ever(self, num_blocks: int, cost: StepCost | None = None) -> int:
        """The lowest block that the budget pays for alone."""
        cost = cost or StepCost.uniform(num_blocks)
        limit = self._limit(cost, num_blocks)
        return next((block for block in range(num_blocks) if cost.of([block]) <= limit), 0)

    def _limit(self, cost: StepCost, num_blocks: int) -> float:
        # A budget that is the cost of a set but for rounding pays for it.
        return self.budget * cost.of(range(num_blocks)) * (1 + 1e-9)


def best_set(values: np.ndarray, cost: StepCost, limit: float) -> tuple[int, ...]:
    """The blocks of largest summed ``values`` ``(L,)`` whose step costs at most ``limit``; empty if there are none."""
    best: tuple[float, list[int]] = (-np.inf, [])
    descending = sorted(range(len(values)), key=lambda block: (values[block], block), reverse=True)
    for lowest in reversed(range(len(values))):
        spent = cost.of([lowest])
        if spent > limit:
            continue
        chosen = [lowest]
        for block in descending:
            if block > lowest and values[block] > 0 and spent + cost.trained[block] <= limit:
                chosen.append(block)
                spent += cost.trained[block]
        total = float(values[chosen].sum())
        if total > best[0]:
            best = (total, chosen)
    return tuple(sorted(best[1]))
