"""Outlier ratio: how many of a block's weights are far larger than the rest."""

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from irtune.importance.matrices import Modules, matrices, pieces
from irtune.importance.signal import ImportanceSignal, MeasuredBlocks, Source


class OutlierRatio(ImportanceSignal):
    """The share of a block's weights whose magnitude is above ``multiple`` times the mean magnitude of the block.

    The idea is that blocks with many outliers are heavy-tailed, and better trained. The matrices are read twice, first
    for the mean, so that none has to be held.

    Source: Li et al., OwLore (arXiv 2405.18380), which draws blocks with probabilities proportional to it. The ratio
    comes from OWL (arXiv 2310.05175). Deviations: OWL weighs each magnitude by the norm of the activations that it
    meets, here the weights count alone; a share in [0, 1], where theirs is in percent.
    """

    name: Literal["outlier_ratio"] = "outlier_ratio"
    multiple: float = Field(
        5.0, gt=0, description="a weight is an outlier above this many times the mean magnitude (M)"
    )
    modules: Modules = "all"

    source: ClassVar[Source] = "weights"

    def measure(self, blocks: MeasuredBlocks) -> np.ndarray:
        """Shares ``(L,)``.

        Raises:
            ValueError: If no matrix is called ``modules``.
        """
        return np.array([self._share(blocks, block) for block in range(len(blocks.tensor_sizes("all")))])

    def _share(self, blocks: MeasuredBlocks, block: int) -> float:
        num_weights = 0
        total = 0.0
        for matrix in matrices(blocks, block, self.modules):
            num_weights += matrix.numel()
            total += sum(float(piece.abs().sum()) for piece in pieces(matrix))
        threshold = self.multiple * total / num_weights
        num_outliers = sum(
            int((piece.abs() > threshold).sum())
            for matrix in matrices(blocks, block, self.modules)
            for piece in pieces(matrix)
        )
        return num_outliers / num_weights
