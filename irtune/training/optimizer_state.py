"""What AdamW knows of each trained parameter, whole: read from and put back to wherever a ZeRO stage keeps it.

Stage 0 steps the parameters themselves, or fp32 masters of them; stages 1 and 2 step one flat partition a param group
and rank, stage 3 one or more. ``stepped_slices`` says where in these a parameter lies; the rest follows from it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import safe_open
from torch import nn

from irtune.layers.blocks import shape_of, size_of
from irtune.training.engine import DeepSpeedBlocks

MASTER, STEP = "master", "step"
PER_ELEMENT = (MASTER, "exp_avg", "exp_avg_sq")
"""What is kept for every element of a parameter; its step count is one number."""


@dataclass(frozen=True)
class Slice:
    """Where this rank's part of a parameter lies in a tensor that the optimizer steps.

    Args:
        name: The parameter's.
        parameter: The parameter itself.
        start: First element in the stepped tensor.
        offset: First element in the whole parameter, flattened.
        length: Number of elements; 0 where this rank has none of it.
    """

    name: str
    parameter: nn.Parameter
    start: int
    offset: int
    length: int


def stepped_slices(blocks: DeepSpeedBlocks) -> Iterator[tuple[torch.Tensor, list[Slice]]]:
    """Each tensor that the optimizer steps, in the same order on every rank, with what lies where in it."""
    names = {id(parameter): name for name, parameter in blocks.blocks.all()}
    for _, tensor, members in blocks.stepped():
        yield tensor, [_slice(blocks, names[id(parameter)], parameter) for parameter in members]


def gather_state(blocks: DeepSpeedBlocks) -> dict[str, torch.Tensor]:
    """Masters, moments and step counts of every trained parameter, frozen or not, whole, on the CPU.

    All ranks call it. Stages 1 to 3 take one collective a param group (that is, a block), stage 0 none.

    Returns:
        On rank 0 ``master/<name>``, ``exp_avg/<name>`` and ``exp_avg_sq/<name>`` in the parameter's shape and fp32, and
        ``step/<name>`` ``()``; on other ranks nothing.
    """
    gathered: dict[str, torch.Tensor] = {}
    for tensor, slices in stepped_slices(blocks):
        state = blocks.base_optimizer.state.get(tensor) or blocks.no_moments(tensor)
        sizes = [size_of(each.parameter) for each in slices]
        # Bit patterns rather than numbers: added to the zeros of other ranks they stay what they are.
        bits = torch.zeros(len(PER_ELEMENT), sum(sizes), dtype=torch.int32, device=tensor.device)
        for each, rows in zip(slices, torch.split(bits, sizes, dim=1), strict=True):
            for kind, row in zip(PER_ELEMENT, rows, strict=True):
                row[each.offset : each.offset + each.length] = (
                    _part(tensor, state, kind, each).float().view(torch.int32)
                )
        if blocks.stage > 0 and dist.get_world_size() > 1:
            dist.reduce(bits, dst=0)
        if blocks.rank > 0:
            continue
        values = bits.cpu().view(torch.float32)
        for each, rows in zip(slices, torch.split(values, sizes, dim=1), strict=True):
            for kind, row in zip(PER_ELEMENT, rows, strict=True):
                gathered[f"{kind}/{each.name}"] = row.reshape(shape_of(each.parameter))
            gathered[f"{STEP}/{each.name}"] = state[STEP].detach().float().cpu().clone()
    return gathered


def load_state(blocks: DeepSpeedBlocks, file: Path) -> None:
    """Put back what ``gather_state`` gave, from a safetensors file, at any world size, stage and precision.

    All ranks call it, and each reads the file. The model's own weights become the masters, cast to its precision.

    Raises:
        ValueError: If the file holds other parameters than the engine trains.
    """
    with safe_open(file, framework="pt") as saved, torch.no_grad():
        _refuse_other_parameters(blocks, saved, file)
        for tensor, slices in stepped_slices(blocks):
            state = blocks.moments_of(tensor)
            state[STEP].copy_(saved.get_tensor(f"{STEP}/{slices[0].name}"))
            with blocks.gathered([each.parameter for each in slices], writer=0):
                for each in slices:
                    for kind in PER_ELEMENT:
                        whole = saved.get_tensor(f"{kind}/{each.name}")
                        part = whole.flatten()[each.offset : each.offset + each.length]
                        _part(tensor, state, kind, each).copy_(part)
                        if kind == MASTER:
                            each.parameter.copy_(whole)


def _part(tensor: torch.Tensor, state: Mapping[str, torch.Tensor], kind: str, where: Slice) -> torch.Tensor:
    """This rank's part of one kind of state of a parameter ``(length,)``, as a view."""
    values = tensor.detach() if kind == MASTER else state[kind]
    return values.view(-1)[where.start : where.start + where.length]


def _slice(blocks: DeepSpeedBlocks, name: str, parameter: Any) -> Slice:
    if blocks.stage == 0:
        return Slice(name, parameter, 0, 0, parameter.numel())
    if blocks.stage == 3:
        optimizer = blocks.engine.optimizer
        _, start, share = optimizer.grad_position[optimizer.get_param_id(parameter)]
        offset = min(share * dist.get_rank(parameter.ds_process_group), size_of(parameter))
        # Shares are equal, so what does not divide evenly is padded at its end.
        return Slice(name, parameter, start, offset, min(share, size_of(parameter) - offset))
    if parameter._hp_mapping is None:
        return Slice(name, parameter, 0, 0, 0)
    at, of = parameter._hp_mapping.hp_fragment_address, parameter._hp_mapping.lp_fragment_address
    return Slice(name, parameter, at.start, of.start, at.numel)


def _refuse_other_parameters(blocks: DeepSpeedBlocks, saved: Any, file: Path) -> None:
    trained = {name: shape_of(parameter) for name, parameter in blocks.blocks.all()}
    prefix = f"{MASTER}/"
    found = {key.removeprefix(prefix): key for key in saved.keys() if key.startswith(prefix)}  # noqa: SIM118
    shapes = {name: tuple(saved.get_slice(key).get_shape()) for name, key in found.items()}
    if shapes != trained:
        name = min(name for name in {*shapes, *trained} if shapes.get(name) != trained.get(name))
        raise ValueError(
            f"{file}: the checkpoint is of another model or adapter: {name} is {_described(shapes.get(name))} in it, "
            f"{_described(trained.get(name))} here; resume with the model and adapter settings that it was written "
            "with, or start anew in another folder"
        )


def _described(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else f"of shape {shape}"
