"""Adapters that have never trained, in blocks that do not train: they add exactly nothing, so they are passed over."""

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import nn

from irtune.layers.measured_model import MeasuredModel

_QUANTIZED = ("Linear4bit", "Linear8bitLt")
"""PEFT's LoRA layers over quantized matrices."""


class IdleAdapters:
    """The LoRA layers of each block, which can be passed over as long as they add zero.

    LoRA begins with a ``lora_B`` of zeros (unless ``adapter.options.init_lora_weights`` says otherwise), and a block
    that has not trained yet still has them. Variants that also scale the pretrained weight, as DoRA, are never idle.

    Args:
        blocks: The trainer's view of its model.
    """

    def __init__(self, blocks: MeasuredModel) -> None:
        self._blocks = blocks
        self._layers = [plain_lora(member) for member in blocks.members]
        self._trained = {index for index, layers in enumerate(self._layers) if not layers}

    def pass_over(self, active: Collection[int]) -> None:
        """Pass over the idle adapters of blocks that are not ``active``, and over no others. Collective at stage 3."""
        frozen = [index for index in range(len(self._layers)) if index not in active]
        self._notice_trained([index for index in frozen if index not in self._trained])
        idle = set(frozen) - self._trained
        for index, layers in enumerate(self._layers):
            for layer in layers:
                # PEFT's own way to do this, disable_adapters, also changes requires_grad.
                layer._disable_adapters = index in idle

    @torch.no_grad()
    def _notice_trained(self, blocks: Sequence[int]) -> None:
        """Look which of these blocks add something; what has trained once is never looked at again."""
        matrices = [ups(self._layers[index]) for index in blocks]
        if not matrices:
            return
        with self._blocks.gathered([parameter for block in matrices for parameter in block]):
            # NaN is not zero either.
            added = torch.stack([torch.stack([parameter.any() for parameter in block]).any() for block in matrices])
        self._trained |= {index for index, adds in zip(blocks, added.tolist(), strict=True) if adds}


@torch.no_grad()
def pass_over_untrained(model: nn.Module) -> None:
    """Pass over, for good, the adapters of a loaded model that add zero."""
    for layer in plain_lora(model):
        layer._disable_adapters = not any(bool(parameter.any()) for parameter in ups([layer]))


def ups(layers: Sequence[Any]) -> list[nn.Parameter]:
    """The matrices of LoRA layers that are zero until they train."""
    return [parameter for layer in layers for parameter in layer.lora_B.parameters()]


def plain_lora(member: nn.Module) -> list[Any]:
    """PEFT's linear LoRA layers of a block; none if something else than these is adapted in it."""
    from peft.tuners.lora import Linear, LoraLayer

    found = [module for module in member.modules() if isinstance(module, LoraLayer)]
    # By name: to ask for these classes imports bitsandbytes.
    linear = [layer for layer in found if isinstance(layer, Linear) or type(layer).__name__ in _QUANTIZED]
    plain = [layer for layer in linear if not layer.lora_variant and not layer.merged]
    return plain if len(plain) == len(found) else []
