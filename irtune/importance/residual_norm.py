"""Projected residual norm: how much of what the loss asks for a block's adapter can deliver."""

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from irtune.importance.signal import ImportanceSignal, MeasuredBlocks


def projected_norm(gradient_gram: np.ndarray, moments: np.ndarray, damping: float) -> float:
    """Norm of a gradient after its features have been whitened: ``|G M^(-1/2)|``, from ``G^T G``.

    For a squared loss it is the norm of what a linear map of the features can take off the residual.

    Args:
        gradient_gram: ``(r, r)`` Gram matrix ``G^T G`` of the gradient ``(out, r)`` of the map.
        moments: ``(r, r)`` second moments ``M`` of the features.
        damping: What is added to the diagonal of ``M``, as a share of its mean.

    Returns:
        The norm; 0 without any feature.
    """
    mean = float(np.trace(moments)) / len(moments)
    if mean == 0:
        return 0.0
    damped = moments + damping * mean * np.eye(len(moments))
    square = float(np.trace(np.linalg.solve(damped, gradient_gram)))
    return float(np.sqrt(np.maximum(square, 0)))


class ResidualNorm(ImportanceSignal):
    """The norm of each block's gradient, normalised by the second moments of the features that it multiplies.

    A gradient norm is large also where activations are large; this one does not see how they are scaled or mixed, only
    how much of the residual they can explain. The features are what ``lora_A`` makes of a layer's input, and the
    gradient is that of ``lora_B``. A probe is a pass of its own, since it reads both.

    Source: Xu et al., Layer Card, 2026 (arXiv 2602.04019): for squared loss and linear adapters the projected residual
    norm equals a normalised gradient norm. Deviations: the loss is the one that is trained on, and its gradient by
    tokens stands in for the residual; the projection is onto what ``lora_A`` passes on, where a full adapter has all
    features; the norms of a block's layers are added as squares, as if they did not interact. How moments of few tokens
    are inverted is left open by what we could read of it; here they are damped. Layers that see tokens in no order of
    examples (experts, routers) do not count, and DoRA's scale of rows does not either.
    """

    name: Literal["residual_norm"] = "residual_norm"
    damping: float = Field(
        1e-4, gt=0, description="added to the diagonal of the features' second moments, as a share of its mean"
    )

    apart: ClassVar[bool] = True
    needs_low_rank: ClassVar[bool] = True

    def prepare(self, blocks: MeasuredBlocks) -> None:
        """Features are gone after a forward pass, so they have to be read as they pass."""
        blocks.record_features()

    def measure(self, blocks: MeasuredBlocks) -> np.ndarray:
        """Scores ``(L,)`` of this probe.

        Raises:
            ValueError: If a block has no layer with a ``lora_B`` that sees tokens.
        """
        found = blocks.low_rank_moments()
        empty = [index for index, layers in enumerate(found) if not layers]
        if empty:
            raise ValueError(
                f"importance.name: {self.name} reads the features of lora_B, and blocks {empty} have no such layer "
                "that sees tokens; use adapter.type: lora on linear layers, or importance.name: gradient_norm"
            )
        return np.array(
            [np.linalg.norm([projected_norm(gram, m, self.damping) for gram, m in layers]) for layers in found]
        )
