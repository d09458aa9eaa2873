"""Pretrained matrices held in 8 or 4 bits, by bitsandbytes; adapters, head, norms and embeddings stay as they are.

Source: Dettmers et al., LLM.int8() (arXiv 2208.07339) and QLoRA (arXiv 2305.14314): 8-bit matrices with outliers of
activations apart, and 4-bit NormalFloat in blocks of 64.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from irtune.config.schema import ExperimentConfig, Quantization
from irtune.training.errors import ModelError

if TYPE_CHECKING:
    import torch
    from torch import nn

BYTES_A_NUMBER: Mapping[Quantization, float] = {"8bit": 1.0, "4bit": 0.5 + 4 / 64}
"""What a number of a matrix takes, scales of its block in 4 bits included."""


def check_quantization(config: ExperimentConfig) -> None:
    """Refuse what needs a package that is not there.

    Raises:
        ModelError: With the command that installs it.
    """
    if config.model.quantization is not None and importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError(
            f"model.quantization: {config.model.quantization} needs the package bitsandbytes, which is not installed: "
            "pip install 'irtune[quantization]' (on every node), or set model.quantization=null"
        )


def import_bitsandbytes() -> None:
    """Import bitsandbytes where it is there, as PEFT does, but without code from the hub.

    On a CPU that multiplies bf16 it would fetch a native kernel by the package ``kernels`` as it is imported, and
    without that package warn. Nothing here uses that kernel (``keep_layout``).
    """
    if "bitsandbytes" in sys.modules or importlib.util.find_spec("bitsandbytes") is None:
        return
    before = sys.modules.get("kernels")
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    sys.modules["kernels"] = None  # type: ignore[assignment]
    try:
        with contextlib.suppress(ImportError):
            importlib.import_module("bitsandbytes")
    finally:
        del sys.modules["kernels"]
        if before is not None:
            sys.modules["kernels"] = before


def loading_arguments(quantization: Quantization | None, head: list[str], dtype: torch.dtype) -> dict[str, Any]:
    """What transformers' ``from_pretrained`` has to be told.

    Args:
        quantization: How matrices are held; None as they are computed with.
        head: Names of what trains whole.
        dtype: What is computed with.
    """
    if quantization is None:
        return {}
    from transformers import BitsAndBytesConfig

    how = BitsAndBytesConfig(
        load_in_8bit=quantization == "8bit",
        load_in_4bit=quantization == "4bit",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=head,
    )
    return {"quantization_config": how}


def keep_layout(model: nn.Module) -> None:
    """Have matrices computed with in one and the same way in training and evaluation.

    On processors that multiply bf16 bitsandbytes packs 4-bit matrices anew at the first evaluation, for a kernel with
    other last digits: a run that is resumed would go on with others than one that is not.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            vars(module)["support_avx512bf16_for_cpu"] = False


SCRIPT_LAYOUT = """
for module in model.modules():
    # On a CPU that multiplies bf16, bitsandbytes would lay matrices out for a kernel that rounds otherwise.
    module.support_avx512bf16_for_cpu = False"""
"""The same for a script that needs no irtune."""


def quantized_numbers(shapes: nn.Module, head: list[str]) -> int:
    """How many numbers of a classifier's shapes, with its adapter, lie in matrices that are quantized."""
    from torch import nn

    return sum(
        module.weight.numel()
        for name, module in shapes.named_modules()
        if isinstance(module, nn.Linear)
        and not module.weight.requires_grad
        and not any(part in head or part.startswith("lora_") for part in name.split("."))
    )


def script_arguments(quantization: Quantization | None, head: list[str], dtype: str) -> str:
    """The same for a script that needs no irtune: an argument of ``from_pretrained`` in Python; empty if None."""
    if quantization is None:
        return ""
    bits = f"load_in_{quantization}=True"
    kind = f', bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.{dtype}' if quantization == "4bit" else ""
    return f"quantization_config=BitsAndBytesConfig({bits}{kind}, llm_int8_skip_modules={head!r})"


def saved_head(folder: Path) -> list[str]:
    """The same of an adapter's folder, as PEFT wrote it down."""
    return list(json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["modules_to_save"] or ())
