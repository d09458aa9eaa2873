"""Gradient norm: how strongly the loss pulls at a block's adapter."""

from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator

from irtune.importance.aggregations import CLIPPED, WithinBlock, block_scores
from irtune.importance.signal import ClipQuantile, Gradient, ImportanceSignal, MeasuredBlocks


class GradientNorm(ImportanceSignal):
    """The norm of each block's gradient: by default as the optimizer sees it, averaged over ranks and accumulation.

    ``lora_B`` starts at zero, so in a block that has never trained the gradient of ``lora_A`` is exactly zero; summed
    over all tensors, blocks that trained once would score higher for ever. Scores therefore come from ``lora_B`` unless
    ``tensors`` says ``effective_update``, in which ``lora_A`` hardly counts as long as ``lora_B`` is small, or ``all``,
    which tuners without a ``lora_B`` need.

    Source: Liu & Litman, Findings of EMNLP 2025 (arXiv 2510.00268). Deviations of the defaults: fresh scores for frozen
    blocks from a probe at each refresh, where the authors' code keeps stale ones; the averaged gradient, where theirs
    is local to a process; ``lora_B`` and the plain norm of the block, where theirs takes the root of summed roots over
    all tensors; a gradient that is not finite is an overflow, where theirs counts as 1000. Theirs is ``gradient:
    local``, ``tensors: all``, ``within_block: root_of_roots``, ``frozen_blocks: stale``, ``nonfinite_norm: 1000``.
    ``effective_update`` and clipping are ours.
    """

    name: Literal["gradient_norm"] = "gradient_norm"
    tensors: Literal["lora_B", "all", "effective_update"] = Field(
        "lora_B",
        description="which gradients count: a part of the adapter, all of it, or that of the product lora_B lora_A",
    )
    gradient: Gradient = Field(
        "averaged", description="as the optimizer sees it, or local to a process and summed over its micro-batches"
    )
    within_block: WithinBlock = Field("l2", description="how a block's tensor norms become its score")
    clip_quantile: ClipQuantile = 0.9
    frozen_blocks: Literal["probe", "stale"] = Field(
        "probe",
        description="measure frozen blocks at each refresh, or leave them the score of their last training step",
    )
    nonfinite_norm: float | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        description="a tensor norm that is NaN or infinite counts as this; null treats it as an overflow",
    )

    @model_validator(mode="after")
    def _whole_steps_are_read_whole(self) -> Self:
        if self.stale and self.probe_fraction < 1:
            raise ValueError(
                f"probe_fraction: {self.probe_fraction:g} has no effect with frozen_blocks: stale, which reads the "
                "training steps themselves; leave it at 1"
            )
        if self.stale and self.within_block.endswith(CLIPPED):
            raise ValueError(
                f"within_block: {self.within_block} compares the blocks of one measurement, and with frozen_blocks: "
                f"stale only those that train are measured; use {self.within_block.removesuffix(CLIPPED)}, or "
                "frozen_blocks: probe"
            )
        if self.gradient == "local" and self.tensors == "effective_update":
            raise ValueError(
                "gradient: local with tensors: effective_update is not kept: the norm of a product needs whole "
                "gradients; use gradient: averaged, or tensors: lora_B or all"
            )
        if self.gradient == "local" and self.probe_fraction < 1:
            raise ValueError(
                f"probe_fraction: {self.probe_fraction:g} has no effect with gradient: local, which is recorded in "
                "training steps; leave it at 1"
            )
        return self

    @property
    def stale(self) -> bool:
        """Whether frozen blocks keep the score that they last had instead of being probed."""
        return self.frozen_blocks == "stale"

    def prepare(self, blocks: MeasuredBlocks) -> None:
        """Local norms are lost once gradients are reduced, so they have to be recorded as they arise."""
        if self.gradient == "local":
            blocks.record_local_norms()

    def measure(self, blocks: MeasuredBlocks) -> np.ndarray:
        """Scores ``(L,)`` of this step's gradients."""
        norms = blocks.gradient_norms(self.tensors, self.gradient)
        if self.nonfinite_norm is not None:
            norms = [np.where(np.isfinite(block), block, self.nonfinite_norm) for block in norms]
        return block_scores(self.within_block, norms, blocks.tensor_sizes(self.tensors), self.clip_quantile)
