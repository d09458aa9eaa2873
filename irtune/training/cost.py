"""What a training step costs: floating-point operations by a closed form, memory as the machine reports it."""

import ctypes
import gc
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from irtune.layers.blocks import find_blocks
from irtune.layers.refresh import ProbePasses
from irtune.selection import SelectionPolicy, StepCost
from irtune.training.memory import most_resident_bytes
from irtune.training.prefix_reuse import NO_REUSE, Reuse
from irtune.training.shared_prefix import NO_SHARING, Sharing


@dataclass(frozen=True)
class CostModel:
    """Matrix-multiplication FLOPs of a step, counted from the shapes of a model's linear layers and attention.

    The backward pass runs from the head down to the lowest active block, so blocks below it cost a forward pass only.
    It computes gradients of activations through every block that it passes, and gradients of weights for trained
    adapters. Of experts kept as one stack a token passes as many as the router gives it. Tokens that all rows of a
    batch begin with count once where training shares them; passes apart from training do not. Norms, activations,
    embeddings, routers, DoRA's weight norms and DeBERTa's products with relative positions are left out.

    The lowest active block is taken to be passed through whole, and a recomputed one to be recomputed whole. PyTorch
    stops the one at its first adapter and the other before its last product, so the count is an upper bound, which with
    the default ``adapter.target_modules`` lies within 3 % of PyTorch's own on a Llama of 6 blocks or more.

    Args:
        forward: ``(L,)`` FLOPs a token of each block's linear layers, adapters included.
        trained: ``(L,)`` the part of ``forward`` that belongs to the block's adapters.
        head: FLOPs a token of what trains outside the blocks.
        attention: FLOPs a token and token of context of each block's two attention products.
        recompute: Whether the backward pass repeats the forward pass (gradient checkpointing).
        lowest_shared: The lowest block with a trained parameter that it shares with others, and that therefore always
            trains; None if there is no such block.
        sharing: How many tokens at the beginning of a batch's rows are computed once.
        reuse: Which passes do not compute the lowest blocks.
    """

    forward: np.ndarray
    trained: np.ndarray
    head: float
    attention: float
    recompute: bool
    lowest_shared: int | None = None
    sharing: Sharing = NO_SHARING
    reuse: Reuse = NO_REUSE

    @classmethod
    def of(cls, model: Any, *, recompute: bool, sharing: Sharing = NO_SHARING) -> "CostModel":
        """Count a PEFT model's layers, before DeepSpeed partitions them."""
        _, blocks = find_blocks(model)
        config = model.get_base_model().config.get_text_config()
        inside = {id(module) for block in blocks for module in block.modules()}
        outside = [module for module in model.modules() if id(module) not in inside]
        heads = config.num_attention_heads
        head_width = getattr(config, "head_dim", None) or config.hidden_size // heads
        return cls(
            forward=np.array([_linear_flops(block.modules()) + _expert_flops(block, config) for block in blocks]),
            trained=np.array([_linear_flops(block.modules(), trained_only=True) for block in blocks]),
            head=_linear_flops(outside, trained_only=True),
            attention=2 * 2 * heads * head_width,
            recompute=recompute,
            lowest_shared=_lowest_shared(blocks),
            sharing=sharing,
        )

    def under(self, policy: SelectionPolicy, length: float) -> "CostModel":
        """The same where this policy chooses at inputs of ``length`` tokens: what it never trains may be kept."""
        without = replace(self, reuse=NO_REUSE)
        lowest = policy.lowest_ever(len(self.forward), without.per_block(length))
        return replace(self, reuse=self.reuse.above(lowest))

    def forward_flops(self, batch_size: int, length: int, first: int = 0) -> float:
        """FLOPs of a forward pass over ``batch_size`` inputs of ``length`` tokens, padding included, from block
        ``first`` on."""
        through = (self.forward + self.attention * length)[first:]
        return float(through.sum() + self.head) * batch_size * length

    def evaluation_flops(self, batch_size: int, length: int) -> float:
        """The same in evaluation, which may share tokens and read what enters a block."""
        return self._evaluation_flops(batch_size, length, self.reuse.block if self.reuse.evaluation else 0)

    def keeping_flops(self, batch_size: int, length: int) -> float:
        """FLOPs of computing what enters the lowest block that ever trains, for it to be kept."""
        without = self._evaluation_flops(batch_size, length, 0)
        return without - self._evaluation_flops(batch_size, length, self.reuse.block)

    def _evaluation_flops(self, batch_size: int, length: int, first: int) -> float:
        shared = self.sharing.evaluation
        if not Sharing.applies(shared, batch_size, length):
            return self.forward_flops(batch_size, length, first)
        own = (length - shared) / length * self.forward_flops(batch_size, length, first)
        return own + self.forward_flops(1, shared, first) - self.head * shared

    def per_block(self, length: float) -> StepCost:
        """FLOPs a token of one step at inputs of ``length`` tokens, for policies that weigh blocks by their cost."""
        through = self.forward + self.attention * length
        passed = through * (2 if self.recompute else 1) + self.attention * length
        always = len(passed) if self.lowest_shared is None else self.lowest_shared
        return StepCost(
            fixed=float(through.sum() + 3 * self.head + passed[always:].sum()),
            passed=np.where(np.arange(len(passed)) < always, passed, 0.0),
            trained=self.trained,
            lowest=self.reuse.below_training,
            kept=float(through[: self.reuse.below_training].sum()),
        )

    def step_flops(self, active: Sequence[int], batch_size: int, length: int) -> float:
        """FLOPs of a forward and backward pass of training over ``batch_size`` inputs of ``length`` tokens, padding
        included."""
        shared = self.sharing.training
        if not Sharing.applies(shared, batch_size, length):
            return self._unshared_flops(active, batch_size, length)
        own = self.per_block(length).of(active) * batch_size * (length - shared)
        # The head reads own tokens only.
        return own + (self.per_block(shared).of(active) - 3 * self.head) * shared

    def _unshared_flops(self, active: Sequence[int], batch_size: int, length: int) -> float:
        return self.per_block(length).of(active) * batch_size * length

    def optimizer_step_flops(
        self, through: Sequence[int], shapes: Sequence[tuple[int, int]], passes: ProbePasses | None = None
    ) -> float:
        """FLOPs of an optimizer step on one rank.

        Args:
            through: The blocks whose gradients it computes: those that train, or all where it is a probe.
            shapes: Batch size and length of each of the rank's micro-batches.
            passes: What a refresh runs apart, over the first of them.
        """
        in_step = sum(self.step_flops(through, *shape) for shape in shapes)
        if passes is None:
            return in_step
        length = shapes[0][1]
        forward = self.forward_flops(passes.rows, length)
        through_all = self._unshared_flops(range(len(self.forward)), passes.rows, length)
        if passes.backward:
            through_all += self._again_flops(passes.recomputed, passes.rows, length, 0)
        else:
            in_step += sum(self._again_flops(passes.recomputed, *shape, self.sharing.training) for shape in shapes)
        return in_step + forward * (passes.forward - passes.backward) + through_all * passes.backward

    def _again_flops(self, blocks: Sequence[int], batch_size: int, length: int, shared: int) -> float:
        """FLOPs of the forward pass of blocks that a probe recomputes, where not every step does."""
        if self.recompute:
            return 0.0
        chosen = list(blocks)

        def of(rows: int, tokens: int, context: int) -> float:
            return float((self.forward[chosen] + self.attention * context).sum()) * rows * tokens

        if not Sharing.applies(shared, batch_size, length):
            return of(batch_size, length, length)
        return of(batch_size, length - shared, length) + of(1, shared, shared)


def _linear_flops(modules: Any, *, trained_only: bool = False) -> float:
    """Forward FLOPs a token of the linear layers among ``modules``: two for every element of a weight matrix."""
    total = 0
    for module in modules:
        weight = getattr(module, "weight", None)
        is_linear = isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
        if is_linear and isinstance(weight, nn.Parameter) and (weight.requires_grad or not trained_only):
            # Quantized matrices are packed.
            size = module.in_features * module.out_features if isinstance(module, nn.Linear) else weight.numel()
            total += 2 * size
    return float(total)


def _expert_flops(block: nn.Module, config: Any) -> float:
    """Forward FLOPs a token of experts kept as one stack ``(experts, out, in)``, of which it passes a few."""
    experts_per_token = getattr(config, "num_experts_per_tok", None) or 0
    stacks = [
        weight
        for module in block.modules()
        if not isinstance(module, nn.Conv1d)
        for weight in module.parameters(recurse=False)
        if weight.dim() == 3
    ]
    return float(sum(2 * weight[0].numel() * experts_per_token for weight in stacks))


def _lowest_shared(blocks: nn.ModuleList) -> int | None:
    """The lowest block with a trained parameter that another has too."""
    first: dict[int, int] = {}
    shared = []
    for index, block in enumerate(blocks):
        for parameter in block.parameters():
            if parameter.requires_grad and first.setdefault(id(parameter), index) != index:
                shared.append(first[id(parameter)])
    return min(shared, default=None)


def release_memory() -> None:
    """Hand back what earlier runs of this process freed: Python's cycles, and pages that the C library keeps; and
    forget how much they held at most.

    Without it a process that trains one model after the other grows, since activations of ever other sizes leave the
    heap in pieces.
    """
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
    most_resident_bytes()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


StepKind = Literal["ordinary", "probe"]
"""Whether a step also measured blocks that it does not train."""


class PeakMemory:
    """The most memory that this process held: before the first step, in each kind of step, and otherwise."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.peaks_bytes: dict[StepKind, int] = {"ordinary": 0, "probe": 0}
        self.otherwise_bytes = 0
        self.sample()

    def sample(self, kind: StepKind | None = None) -> int:
        """Look at what was held since the last look, in a step of this kind or otherwise; returns the peak of all so
        far in bytes."""
        if self.device.type == "cuda":
            held = int(torch.cuda.max_memory_allocated(self.device))
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            held = most_resident_bytes()
        if kind is None:
            self.otherwise_bytes = max(self.otherwise_bytes, held)
        else:
            self.peaks_bytes[kind] = max(self.peaks_bytes[kind], held)
        return max(self.otherwise_bytes, *self.peaks_bytes.values())
