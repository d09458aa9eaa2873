"""Signal-to-noise ratio: how much of a block's weights stands out from a random matrix."""

from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from irtune.importance.aggregations import WithinBlock, block_scores
from irtune.importance.matrices import Modules, per_matrix, singular_values
from irtune.importance.signal import ClipQuantile, ImportanceSignal, MeasuredBlocks, Source

IQR_OF_NORMAL = 1.349
"""Interquartile range of a normal distribution in standard deviations."""

NOISE_FLOOR = 1e-6
"""Smallest noise in units of the largest singular value: below it lies rounding."""


def signal_to_noise(values: np.ndarray, aspect: float) -> float:
    """Sum of the singular values above the Marchenko-Pastur threshold, divided by the sum of the others.

    The threshold is ``sigma * (1 + sqrt(aspect))``, with ``sigma`` the interquartile range of the singular values
    divided by that of the standard normal distribution.

    Args:
        values: ``(n,)`` singular values, ascending.
        aspect: Shorter side of the matrix divided by the longer one, in (0, 1].

    Returns:
        The ratio; 0 for a matrix of zeros.
    """
    low, high = np.quantile(values, [0.25, 0.75])
    is_signal = values > (high - low) / IQR_OF_NORMAL * (1 + np.sqrt(aspect))
    # The smallest value counts as noise in any case, or a matrix without noise would have an infinite ratio.
    noise = max(values[~is_signal].sum(), values[0], NOISE_FLOOR * values[-1])
    return float(values[is_signal].sum() / noise) if noise > 0 else 0.0


class SignalToNoise(ImportanceSignal):
    """How far the singular values of a block's pretrained matrices stand out from those of noise.

    It needs all singular values of every matrix, which makes it the costliest signal; but unless training changes the
    weights themselves, it is measured once.

    Source: Hartford et al., Spectrum (arXiv 2406.06623), threshold and normalisation as in their code. Deviations: one
    score a block, folded from those of its matrices, where theirs ranks the matrices of each kind apart; a matrix whose
    singular values all lie above the threshold is finite, since its smallest one counts as noise.
    """

    name: Literal["signal_to_noise"] = "signal_to_noise"
    relative_to_largest: bool = Field(
        True,
        description="divide by the largest singular value, as Spectrum does; else the scale of the weights is not seen",
    )
    modules: Modules = "all"
    within_block: WithinBlock = Field("mean", description="how the ratios of a block's matrices become its score")
    clip_quantile: ClipQuantile = 0.9

    source: ClassVar[Source] = "weights"

    def measure(self, blocks: MeasuredBlocks) -> np.ndarray:
        """Scores ``(L,)`` of the weights as they lie there.

        Raises:
            ValueError: If no matrix is called ``modules``.
        """

        def ratio(matrix: Any) -> float:
            values = singular_values(matrix)
            found = signal_to_noise(values, min(matrix.shape) / max(matrix.shape))
            return found / values[-1] if self.relative_to_largest and found > 0 else found

        return block_scores(
            self.within_block, *per_matrix(blocks, self.modules, ratio), clip_quantile=self.clip_quantile
        )
