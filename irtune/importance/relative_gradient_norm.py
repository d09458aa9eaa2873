"""Relative gradient norm: how strongly the loss pulls at a block, measured by what the block weighs."""

from typing import Literal

import numpy as np
from pydantic import Field

from irtune.importance.aggregations import block_scores
from irtune.importance.matrices import Modules, frobenius_norm, per_matrix
from irtune.importance.signal import ImportanceSignal, MeasuredBlocks


class RelativeGradientNorm(ImportanceSignal):
    """The norm of each block's gradient divided by the norm of its pretrained weights ("RGN").

    A large value means that the loss asks for a large relative change. The weights are read at every probe, since some
    trainers change them; a model of 8 billion parameters in half precision is 16 GB to read.

    Source: Lee et al., surgical fine-tuning (arXiv 2210.11466). Deviations: the gradient is that of the adapter's
    effective update (what of the weights' own gradient the adapter can follow), since the weights have none; one ratio
    of norms a block, where theirs is one a tensor; it ranks blocks, where theirs scales learning rates. They average
    over 5 batches; ``over_time: mean`` averages over probes.
    """

    name: Literal["relative_gradient_norm"] = "relative_gradient_norm"
    tensors: Literal["effective_update", "lora_B", "all"] = Field(
        "effective_update",
        description="which gradients count: that of the product lora_B lora_A, a part of the adapter, or all of it",
    )
    modules: Modules = "all"

    def measure(self, blocks: MeasuredBlocks) -> np.ndarray:
        """Scores ``(L,)`` of this step's gradients.

        Raises:
            ValueError: If the weights of a block are all zero, or no matrix is called ``modules``.
        """
        gradients = block_scores("l2", blocks.gradient_norms(self.tensors), blocks.tensor_sizes(self.tensors))
        weights = block_scores("l2", *per_matrix(blocks, self.modules, frobenius_norm))
        if not weights.all():
            raise ValueError(
                f"importance.name: {self.name} divides by the norm of weights, and those of blocks "
                f"{np.flatnonzero(weights == 0).tolist()} are all zero; use gradient_norm, or other importance.modules"
            )
        scores: np.ndarray = gradients / weights
        return scores
