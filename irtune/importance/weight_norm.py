"""Weight norm: how large a block's pretrained weights are."""

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from irtune.importance.aggregations import WithinBlock, block_scores
from irtune.importance.matrices import Modules, frobenius_norm, per_matrix
from irtune.importance.signal import ClipQuantile, ImportanceSignal, MeasuredBlocks, Source


class WeightNorm(ImportanceSignal):
    """The norm of each block's pretrained matrices. It sees neither data nor loss: a control for the other signals.

    Source: a baseline in the code of Liu & Litman (arXiv 2510.00268): the norm of the matrix ``o_proj``, which is
    ``modules: o_proj``, with the high side of the variance split training. Deviation of the defaults: all matrices of
    the block.
    """

    name: Literal["weight_norm"] = "weight_norm"
    modules: Modules = "all"
    within_block: WithinBlock = Field("l2", description="how the norms of a block's matrices become its score")
    clip_quantile: ClipQuantile = 0.9

    source: ClassVar[Source] = "weights"

    def measure(self, blocks: MeasuredBlocks) -> np.ndarray:
        """Scores ``(L,)`` of the weights as they lie there.

        Raises:
            ValueError: If no matrix is called ``modules``.
        """
        return block_scores(
            self.within_block, *per_matrix(blocks, self.modules, frobenius_norm), clip_quantile=self.clip_quantile
        )
