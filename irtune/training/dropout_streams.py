"""Dropout of one block does not move that of another: each forward pass of a block has a random stream of its own."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

_LEAVES = 0x9E3779B97F4A7C15
"""Makes what follows a block another stream than the block's own; any odd number does."""


def give_streams(members: Sequence[nn.Module], device: torch.device) -> None:
    """Seed the random generator as a block is entered in training, and again as it is left.

    The seed is the next number of the stream outside of blocks, so that what a block draws, or that it draws nothing,
    moves neither the blocks behind it nor what comes after them. Activation checkpointing puts generators back to
    where they were as a block was entered, so that its second pass draws what the first one drew.

    Args:
        members: The blocks.
        device: Where they compute.
    """
    outside = torch.default_generator
    inside = outside if device.type == "cpu" else torch.cuda.default_generators[device.index or 0]
    seed = torch.empty((), dtype=torch.int64)
    for member in members:
        left_with = [0]

        def enter(module: nn.Module, _: Any, left_with: list[int] = left_with) -> None:
            if module.training:
                number = int(seed.random_(generator=outside))
                left_with[0] = (number ^ _LEAVES) & (2**63 - 1)
                inside.manual_seed(number)

        def leave(module: nn.Module, *_: Any, left_with: list[int] = left_with) -> None:
            if module.training:
                inside.manual_seed(left_with[0])

        member.register_forward_pre_hook(enter)
        member.register_forward_hook(leave)
