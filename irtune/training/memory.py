"""What a worker holds at most: counted on a model without weights before it runs, and as the machine reports it."""

import json
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from irtune.config.engine_schema import EngineConfig
from irtune.config.schema import Attention, ExperimentConfig
from irtune.layers.blocks import find_blocks, head_of
from irtune.training.model import DTYPES, enable_gradient_checkpointing, shapes_only
from irtune.training.quantized import BYTES_A_NUMBER, quantized_numbers

PROCESS_BYTES = 0.47 * 2**30
"""What Python, PyTorch, DeepSpeed and transformers take on a CPU (benchmarks/memory.py)."""

HEAP = 1.6
"""Times what tensors of a pass hold that the C library takes for them: their sizes differ, and what is freed is kept.
Where activations are recomputed, it takes as much more as if they were not (benchmarks/memory.py)."""

GATHERED_AT_MOST = 1_000_000_000
"""Numbers that ZeRO stage 3 keeps gathered on every rank (DeepSpeed's default)."""

CHECKPOINT_BYTES = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2}


@dataclass(frozen=True)
class Memory:
    """What a worker holds, in bytes; on a GPU only what lies there.

    Args:
        process: Before anything is loaded.
        loading: The most that loading takes beside it.
        weights: Of the whole model, in the precision that it computes in.
        training: Gradients, fp32 masters and Adam's moments of what trains.
        passing: The most that lives between the start of a forward pass and the end of its backward pass.
    """

    process: float
    loading: float
    weights: float
    training: float
    passing: float

    @property
    def peak(self) -> float:
        """The most at a time."""
        return self.process + max(self.loading, self.weights + self.training + self.passing)


def estimate(checkpoint: Path, config: ExperimentConfig, batch: int, length: int, *, lowest: int = 0) -> Memory:
    """Count what a worker will hold.

    Args:
        checkpoint: The model's folder, of which only the configuration and the kind of numbers are looked at.
        config: What it trains with.
        batch: Inputs of a micro-batch.
        length: Tokens of the longest.
        lowest: The lowest block that trains, or is measured in a step.
    """
    # Flash attention needs a GPU to run, and keeps what sdpa does.
    attention: Attention = "eager" if config.model.attention == "eager" else "auto"
    model = shapes_only(checkpoint, config.adapter, attention)
    return of_shapes(model, config, batch, length, lowest=lowest, stored=width_in_file(checkpoint))


def of_shapes(
    model: Any, config: ExperimentConfig, batch: int, length: int, *, lowest: int = 0, stored: int | None = None
) -> Memory:
    """The same of a classifier with its adapter on the meta device, which is of no use afterwards.

    Args:
        model: The classifier.
        config: What it trains with.
        batch: Inputs of a micro-batch.
        length: Tokens of the longest.
        lowest: The lowest block that trains, or is measured in a step.
        stored: Bytes of a number in the file that it is loaded from; None: it is loaded from none.
    """
    engine, on_gpu = config.engine, config.engine.gpus_per_worker > 0
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    frozen = sum(parameter.numel() for parameter in model.parameters()) - trained
    width = 4 if engine.precision == "fp32" else 2
    # Only rows of the embeddings that are read come into memory where the file itself is what is computed with.
    quantization = config.model.quantization
    is_mapped = not on_gpu and stored == width and engine.zero_stage < 3 and quantization is None
    unread = model.get_input_embeddings().weight.numel() if is_mapped else 0
    weights = width * (frozen - unread + trained) if engine.zero_stage < 3 else _sharded(width, frozen, engine)
    if quantization is not None:
        weights -= (width - BYTES_A_NUMBER[quantization]) * quantized_numbers(model, head_of(model.get_base_model()))
    loaded = weights if quantization is not None else width * frozen
    # It cuts the model down, so everything else has been counted by now.
    passing = passing_bytes(model, config, batch, length, lowest)
    whole = passing[config.model.gradient_checkpointing]
    return Memory(
        process=0.0 if on_gpu else PROCESS_BYTES,
        loading=0.0
        if on_gpu or stored is None or (stored == width and quantization is None)
        else stored * frozen + loaded,
        weights=weights,
        training=_training_bytes(trained, engine),
        passing=whole if on_gpu else whole + (HEAP - 1) * passing[False],
    )


def _sharded(width: int, frozen: int, engine: EngineConfig) -> float:
    """A rank's part of the weights, and what is whole at a time."""
    return width * (frozen / engine.num_workers + min(frozen, GATHERED_AT_MOST) * (engine.num_workers > 1))


def _training_bytes(trained: int, engine: EngineConfig) -> float:
    """Of gradients, masters and moments of ``trained`` numbers, as each ZeRO stage shards them."""
    stage, ranks = engine.zero_stage, engine.num_workers
    gradients = 4 * trained / (ranks if stage >= 2 else 1)
    state = (8 if engine.precision == "fp32" else 12) * trained / (ranks if stage >= 1 else 1)
    return gradients + state


def width_in_file(checkpoint: Path) -> int:
    """Bytes of a number in a safetensors checkpoint, going by its largest tensor."""
    file = min(checkpoint.glob("*.safetensors"))
    with file.open("rb") as opened:
        header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
    header.pop("__metadata__", None)
    largest = max(header.values(), key=lambda tensor: tensor["data_offsets"][1] - tensor["data_offsets"][0])
    return CHECKPOINT_BYTES.get(largest["dtype"], 2)


def passing_bytes(model: Any, config: ExperimentConfig, batch: int, length: int, lowest: int) -> dict[bool, float]:
    """The most that a forward and backward pass holds beside weights and their gradients.

    The pass is run on tensors without storage, through two blocks and through four, since blocks are alike. Blocks
    below the lowest that trains keep nothing.

    Args:
        model: The classifier with its adapter, on the meta device; it loses its other blocks.
        config: What it trains with.
        batch: Inputs.
        length: Tokens of each.
        lowest: The lowest block that trains.

    Returns:
        By whether activations are recomputed; that they are not is always told.
    """
    _, members = find_blocks(model)
    num_blocks, dtype = len(members), DTYPES[config.engine.precision]
    deep, shallow = min(4, num_blocks), min(2, num_blocks)
    ways = {False, config.model.gradient_checkpointing}
    found: dict[tuple[int, bool], float] = {}
    try:
        for depth in (deep, shallow):
            del members[depth:]
            found |= {(depth, way): _traced(model, dtype, batch, length, recompute=way) for way in ways}
    except (RuntimeError, NotImplementedError):
        # Routers of experts look at values, and there are none.
        blocks, tokens = num_blocks - lowest, batch * length
        return {way: _like_gpt(model, dtype, tokens, length, blocks, recompute=way) for way in ways}
    each = {way: (found[deep, way] - found[shallow, way]) / max(deep - shallow, 1) for way in ways}
    return {way: found[deep, way] + each[way] * (num_blocks - lowest - deep) for way in ways}


def _traced(model: Any, dtype: torch.dtype, batch: int, length: int, *, recompute: bool) -> float:
    model.config.pad_token_id, model.config.use_cache = 0, False
    model.train()
    if recompute:
        enable_gradient_checkpointing(model)
    elif model.is_gradient_checkpointing:
        model.gradient_checkpointing_disable()
    # The choice between fused kernels and others is made by the device, which meta tensors do not have.
    with FakeTensorMode():
        _refill(model, dtype)
        ids = torch.ones(batch, length, dtype=torch.int64)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids[:, 0]}
        with _Living([*model.parameters(), *model.buffers(), *inputs.values()]) as living:
            loss = model(**inputs).loss
            loss.backward()
        gradients = sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
        model.zero_grad()
    return float(living.most - gradients)


def _refill(model: nn.Module, dtype: torch.dtype) -> None:
    """Replace tensors by fake ones of a CPU, parameters that were one by one."""
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                fake = nn.Parameter(torch.empty(parameter.shape, dtype=dtype), requires_grad=parameter.requires_grad)
                module._parameters[name] = made.setdefault(id(parameter), fake)
        for name, buffer in list(module._buffers.items()):
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


class _Living(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of the tensors that are alive, and the most of them so far, but for those that were there before."""

    def __init__(self, before: list[torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = 0
        self._known: dict[int, Any] = {tensor.untyped_storage()._cdata: None for tensor in before}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(found):
            if isinstance(tensor, torch.Tensor):
                self._see(tensor.untyped_storage())
        return found

    def _see(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self.now += size
            self.most = max(self.most, self.now)
            self._known[key] = weakref.ref(storage, lambda _: self._forget(key, size))

    def _forget(self, key: int, size: int) -> None:
        del self._known[key]
        self.now -= size


def _like_gpt(model: Any, dtype: torch.dtype, tokens: int, length: int, blocks: int, *, recompute: bool) -> float:
    """Activations by a closed form: about ``17 h + 2.5 a s`` numbers a token and block for hidden size h, a attention
    heads and s tokens.

    Source: Korthikanti et al., Reducing Activation Recomputation in Large Transformer Models (arXiv 2205.05198).
    """
    text = model.get_base_model().config.get_text_config()
    block = 17 * text.hidden_size + 2.5 * text.num_attention_heads * length
    numbers = text.hidden_size * blocks + block if recompute else block * blocks
    return float(dtype.itemsize * numbers * tokens)


def most_resident_bytes() -> int:
    """The most that this process has held since this was asked before; what it holds now where Linux does not tell."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        kilobytes = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except (OSError, StopIteration):
        return int(psutil.Process().memory_info().rss)
    return kilobytes * 1024
