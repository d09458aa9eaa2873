"""Weights straight into ZeRO stage 3's partitions, one parameter after the other, before there is an engine."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


def partition(model: nn.Module, settings: Mapping[str, Any], dtype: torch.dtype) -> None:
    """Leave each rank with its own part of every parameter, on its device and cast to ``dtype``.

    DeepSpeed's engine moves the whole model to the device first, where it may have no room. Here one parameter at a
    time is whole.

    Args:
        model: The classifier with its adapter, on the CPU.
        settings: DeepSpeed's configuration.
        dtype: What it computes with.
    """
    import deepspeed
    from deepspeed.accelerator import get_accelerator

    for parameter in model.parameters():
        if parameter.dtype != dtype:
            parameter.data = parameter.data.to(dtype)
    deepspeed.zero.Init(module=model, config_dict_or_path=dict(settings), dtype=dtype)
    device = get_accelerator().current_device_name()
    for buffer in model.buffers():
        buffer.data = buffer.data.to(device)
