"""Random blocks, important ones more often."""

from typing import Literal

import numpy as np
from pydantic import Field

from irtune.selection.policy import BlockCount, PolicyState, SelectionContext, SelectionPolicy, resolve_count
from irtune.selection.scores import draw_blocks


class WeightedRandom(SelectionPolicy):
    """Draws k blocks without replacement at each refresh, with probability proportional to their importance.

    A block that was never measured counts like the median (on a logarithmic scale) of those above zero. Blocks of score
    zero or below come when no other is left.

    Source: Li et al., OwLore (arXiv 2405.18380), over their outlier ratio as the importance signal. Deviation: the
    blocks' adapters train, instead of their weights by gradients projected to low rank (GaLore).
    """

    name: Literal["weighted_random"] = "weighted_random"
    k: BlockCount = Field(description="blocks that train: a count, or a fraction of all")

    def select(self, context: SelectionContext) -> tuple[tuple[int, ...], PolicyState]:
        """K fresh blocks."""
        k = resolve_count(self.k, context.num_blocks)
        return draw_blocks(context.generator, log_weights(context.importance.scores), k), {}


def log_weights(scores: np.ndarray) -> np.ndarray:
    """Logarithms of the scores ``(L,)`` as weights: -inf up to zero, the median of finite ones for NaN."""
    with np.errstate(divide="ignore"):
        logarithms = np.log(np.maximum(scores, 0))
    known = logarithms[np.isfinite(logarithms)]
    return np.where(np.isnan(logarithms), np.median(known) if known.size else 0.0, logarithms)
