"""Blocks that forget what passed through them, and compute it again in the backward pass: a probe in little memory."""

import functools
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class Recomputed:
    """A model's blocks, of which some keep nothing of a forward pass but what entered them.

    The backward pass runs a block's forward pass once more, from the same inputs and random numbers, so that gradients
    are equal bit for bit, as far as the device's kernels are deterministic. Non-reentrant checkpointing, as
    ``model.gradient_checkpointing`` has it for every step: models that do this already are left as they are.

    Args:
        model: That holds the blocks.
        members: The blocks.

    Source: Chen et al., Training Deep Nets with Sublinear Memory Cost (arXiv 1604.06174).
    """

    def __init__(self, model: nn.Module, members: Sequence[nn.Module]) -> None:
        self._model, self._members = model, members
        self._before: dict[int, Any] = {}

    def only(self, blocks: Collection[int]) -> None:
        """From the next forward pass on recompute exactly these blocks."""
        for index in [index for index in self._before if index not in blocks]:
            _put_back(self._members[index], self._before.pop(index))
        wanted = sorted(set(blocks) - set(self._before))
        if not wanted or is_checkpointing(self._model):
            return
        for index in wanted:
            member = self._members[index]
            self._before[index] = member.__dict__.get("forward")
            # In place of the forward pass alone, so that hooks of the block run once.
            member.forward = functools.partial(_again_in_backward, member.forward)


def is_checkpointing(model: nn.Module) -> bool:
    """Tell whether activations are recomputed in the backward pass of every step."""
    return any(getattr(module, "gradient_checkpointing", False) is True for module in model.modules())


def _put_back(member: nn.Module, forward: Callable[..., Any] | None) -> None:
    if forward is None:
        del member.forward
    else:
        member.forward = forward


def _again_in_backward(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    named = {name: _unless_cache(value) for name, value in kwargs.items()}
    return checkpoint(forward, *map(_unless_cache, args), **named, use_reentrant=False)


def _unless_cache(value: Any) -> Any:
    """None in place of transformers' cache for generation, which a second pass would fill again."""
    return None if hasattr(value, "get_seq_length") else value
