"""The blocks of largest gradient at first, later those that were chosen most."""

import math
from typing import Literal

import numpy as np
from pydantic import Field

from irtune.selection.policy import BlockCount, PolicyState, SelectionContext, SelectionPolicy, resolve_count
from irtune.selection.scores import draw_blocks, top_blocks


class AdaGradSelect(SelectionPolicy):
    """With a probability that falls, trains the k blocks of largest score; else k drawn by how often each was chosen.

    The draw takes probabilities from a Dirichlet distribution over the counts of past choices plus ``prior``, then k
    blocks without replacement.

    Source: Kumar, Gupta & Chawla, AdaGradSelect (arXiv 2512.15764). Deviations: the probability falls with the share of
    training that is over, as epsilon * exp(-decay * share), theirs within the first epoch, and is 0 after it; blocks
    rank by their score, theirs by accumulated gradient norms (``importance.over_time: mean`` ranks like that).
    """

    name: Literal["ada_grad_select"] = "ada_grad_select"
    k: BlockCount = Field(description="blocks that train: a count, or a fraction of all")
    epsilon: float = Field(1.0, ge=0, le=1, description="probability of the top k at the first step")
    decay: float = Field(10.0, ge=0, description="how fast that probability falls; 10: to a tenth in 23 % of training")
    prior: float = Field(1.0, gt=0, description="added to every count; larger draws more evenly")

    def select(self, context: SelectionContext) -> tuple[tuple[int, ...], PolicyState]:
        """The k best, or k by past choices."""
        k = resolve_count(self.k, context.num_blocks)
        counts = list(context.state.get("counts", [0] * context.num_blocks))
        epsilon = self.epsilon * math.exp(-self.decay * context.step / context.total_steps)
        if context.generator.random() < epsilon:
            blocks = top_blocks(context.importance.scores, k)
        else:
            with np.errstate(divide="ignore"):
                log_weights = np.log(context.generator.dirichlet(np.array(counts) + self.prior))
            blocks = draw_blocks(context.generator, log_weights, k)
        for block in blocks:
            counts[block] += 1
        return blocks, {"counts": counts}
