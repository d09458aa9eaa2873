"""Checks of a run's own machinery before its first step, since a mistake there would bend results without a sign.

One example of at most 32 tokens passes three times forwards and backwards, so they cost less than a training step.
"""

import logging
import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from irtune.layers.blocks import Blocks, find_blocks, shape_of
from irtune.layers.collectives import gather
from irtune.layers.measured_model import Batch
from irtune.training.engine import DeepSpeedBlocks

MAX_TOKENS = 32
MAX_NOISE = 0.05
"""How much of a gradient may change from one probe to the next where kernels are not deterministic."""

Tensors = Mapping[str, torch.Tensor]
Gather = Callable[[Any], list[Any]]


class SelfCheckError(ValueError):
    """Blocks, freezing or probing do not do what every result rests on."""


def check_at_start(blocks: DeepSpeedBlocks, batch: Batch, gather: Gather = gather) -> None:
    """Check blocks, freezing and probing before the first step, while every block trains. Leaves no trace.

    Every rank calls it, and if one finds a mistake all of them raise.

    Args:
        blocks: The trainer.
        batch: This rank's first micro-batch, on its device.
        gather: Every rank's value in rank order, on every rank.

    Raises:
        SelfCheckError: With every mistake of every rank, and what to do.
    """
    # Before any pass, so that no rank waits in a collective call for another that has given up.
    _agree([*_unequal_blocks(blocks.model, blocks.blocks), *_wrong_owners(blocks.model, blocks.blocks)], gather)
    example, before = one_example(batch), _state(blocks)
    first = _probe(blocks, example)
    mistakes = before.mistakes(_state(blocks), "a probe")
    second = _probe(blocks, example)
    mistakes += _mistakes_of_freezing(blocks)
    mistakes += _differences(first, second, _probe(blocks, example))
    if not any(gather(bool(first))):
        mistakes.append("a probe computes no gradients; probing(…, gradients=True) must run a backward pass")
    _agree(mistakes, gather)


def one_example(batch: Batch) -> dict[str, Any]:
    """The first example of ``batch``, without its padding, at most ``MAX_TOKENS`` long.

    Args:
        batch: Tensors ``(batch, …)``, of which those that are ``(batch, length, …)`` are cut.
    """
    first = {name: values[:1] for name, values in batch.items()}
    mask = first["attention_mask"] if "attention_mask" in first else torch.ones_like(first["input_ids"])
    kept = mask[0].nonzero().flatten()[:MAX_TOKENS]
    return {
        name: values[:, kept] if values.dim() > 1 and values.shape[1] == mask.shape[1] else values
        for name, values in first.items()
    }


@dataclass(frozen=True)
class _State:
    """Everything that a probe must leave as it is."""

    weights: Tensors
    gradients: Tensors
    generators: Mapping[str, Any]
    trains: Mapping[str, bool]

    def mistakes(self, after: "_State", culprit: str) -> list[str]:
        """What ``culprit`` has changed."""
        changes = {
            "moves weights or optimizer state": _changed(self.weights, after.weights),
            "leaves gradients behind": _changed(self.gradients, after.gradients),
            "draws from random generators": [k for k, state in self.generators.items() if after.generators[k] != state],
            "changes which parameters train": [name for name, on in self.trains.items() if after.trains[name] != on],
        }
        return [
            f"{culprit} {what}, of {_few(names)}; it must put back what it touches, or training would depend on how "
            "often blocks are measured"
            for what, names in changes.items()
            if names
        ]


def _state(blocks: DeepSpeedBlocks) -> _State:
    left = {name: gradient for name, gradient in _copied(blocks.local_gradients()).items() if gradient.any()}
    trains = {name: parameter.requires_grad for name, parameter in blocks.blocks.all()}
    return _State(_copied(blocks.local_state()), left, _generators(), trains)


def _probe(blocks: DeepSpeedBlocks, example: Batch) -> Tensors:
    """Gradients of a pass over the example."""
    with blocks.probing(example, gradients=True):
        return _copied(blocks.local_gradients())


def _mistakes_of_freezing(blocks: DeepSpeedBlocks) -> list[str]:
    """Of training every block alone for no step, and then all of them again."""
    before, every = _state(blocks), tuple(range(len(blocks.blocks)))
    mistakes: list[str] = []
    for active in [*((index,) for index in every), every]:
        blocks.set_active(active)
        mistakes = mistakes or _wrongly_frozen(blocks.blocks, active)
    return mistakes or before.mistakes(_state(blocks), "freezing and thawing")


def _wrongly_frozen(trainable: Blocks, active: Sequence[int]) -> list[str]:
    chosen = {id(p) for index in active for _, p in trainable.per_block[index]}
    chosen |= {id(p) for _, p in trainable.shared}
    wrong = {
        "leaves frozen": [n for n, p in trainable.all() if id(p) in chosen and not p.requires_grad],
        "lets train": [n for n, p in trainable.all() if id(p) not in chosen and p.requires_grad],
    }
    return [
        f"set_active({list(active)}) {what} {_few(names)}; exactly the parameters of active blocks and the shared "
        "ones must have requires_grad"
        for what, names in wrong.items()
        if names
    ]


def _differences(first: Tensors, second: Tensors, thawed: Tensors) -> list[str]:
    """Whether two probes in a row have the same gradients, and one after freezing and thawing has them again.

    Bit for bit; where kernels are not deterministic, which the first two tell, up to that noise.
    """
    noise = _distance(first, second)
    if not noise <= MAX_NOISE:
        return [
            f"the gradients of two probes of one example differ by {noise:.2g} of their norm; a probe may depend on "
            "weights, input and random generators only"
        ]
    if noise > 0:
        message = "gradients of two probes of one example differ by %.2g of their norm: kernels are not deterministic"
        logging.getLogger(__name__).warning(message, noise)
    if _distance(second, thawed) <= 10 * noise:
        return []
    return [
        f"freezing and thawing blocks changes the gradients of {_few(_changed(second, thawed))}, so training k blocks "
        "of k would not be what policy all is; set_active of all blocks must undo that of one"
    ]


def _unequal_blocks(model: nn.Module, trainable: Blocks) -> list[str]:
    """What makes a block another kind of thing than the first."""
    name, members = find_blocks(model)
    if (name, len(members)) != (trainable.name, len(trainable)):
        return [
            f"parameters were mapped to {len(trainable)} blocks of {trainable.name}, but the model has {len(members)} "
            f"in {name}; map them after the last change to the model"
        ]
    mistakes = []
    kinds = [type(member).__name__ for member in members]
    other = next((index for index, kind in enumerate(kinds) if kind != kinds[0]), None)
    if other is not None:
        mistakes.append(
            f"model.name: block {other} of {name} is of class {kinds[other]}, block 0 of {kinds[0]}; scores of blocks "
            "of different kinds cannot be compared"
        )
    shapes = [_shapes(f"{name}.{index}.", block) for index, block in enumerate(trainable.per_block)]
    differing = [(i, key) for i, own in enumerate(shapes) for key in sorted(own.items() ^ shapes[0].items())]
    if differing:
        index, (key, _) = differing[0]
        here, there = (f"{s[key]}" if key in s else "absent" for s in (shapes[index], shapes[0]))
        mistakes.append(
            f"adapter.target_modules: {key} is {here} in block {index} of {name} and {there} in block 0; scores of "
            "unequal blocks cannot be compared, so name modules that every block has alike"
        )
    return mistakes


def _shapes(prefix: str, block: Iterable[tuple[str, nn.Parameter]]) -> dict[str, tuple[int, ...]]:
    """Whole shapes by name within the block."""
    return {name.rpartition(prefix)[2]: shape_of(p) for name, p in block}


def _wrong_owners(model: nn.Module, trainable: Blocks) -> list[str]:
    """Parameters that train and belong nowhere, or twice, or that belong somewhere and do not train."""
    trained = {id(parameter): name for name, parameter in model.named_parameters() if parameter.requires_grad}
    owned: dict[int, str] = {}
    twice = []
    for name, parameter in trainable.all():
        twice += [name] if id(parameter) in owned else []
        owned[id(parameter)] = name
    wrong = {
        "trained, but neither in a block nor shared": [name for key, name in trained.items() if key not in owned],
        "in a block or shared, but not trained": [name for key, name in owned.items() if key not in trained],
        "in two places": twice,
    }
    return [
        f"parameters are {what}: {_few(names)}; map them after the last change to the model"
        for what, names in wrong.items()
        if names
    ]


def _agree(mistakes: list[str], gather: Gather) -> None:
    """Raise on every rank if any of them has found a mistake."""
    found: list[list[str]] = gather(mistakes)
    if not any(found):
        return
    lines = [f"rank {rank}: {mistake}" for rank, own in enumerate(found) for mistake in own]
    if all(own == found[0] for own in found):
        lines = found[0]
    raise SelfCheckError(
        "\n- ".join(["the check at the start failed:", *lines])
        + "\nResults could not be trusted. If you know better, selection.self_check=false trains without the check."
    )


def _generators() -> dict[str, Any]:
    """State of every random generator that training may draw from, comparable."""
    numpy_state: Any = np.random.get_state()
    states: dict[str, Any] = {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": (numpy_state[1].tobytes(), *numpy_state[2:]),
        "python": random.getstate(),
    }
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states["torch.cuda"] = torch.cuda.get_rng_state().numpy().tobytes()
    return states


def _copied(tensors: Tensors) -> Tensors:
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}


def _changed(before: Tensors, after: Tensors) -> list[str]:
    """Names of tensors that are not the same bit for bit, or only on one side."""
    names = sorted(before.keys() | after.keys())
    return [n for n in names if n not in before or n not in after or not _same_bits(before[n], after[n])]


def _same_bits(first: torch.Tensor, second: torch.Tensor) -> bool:
    alike = first.shape == second.shape and first.dtype == second.dtype
    return alike and torch.equal(first.reshape(-1).view(torch.uint8), second.reshape(-1).view(torch.uint8))


def _distance(first: Tensors, second: Tensors) -> float:
    """Norm of the difference over the norm; infinite if not the same tensors exist."""
    if not _changed(first, second):
        return 0.0
    if first.keys() != second.keys():
        return math.inf
    moved = sum(float((first[name].double() - second[name].double()).square().sum()) for name in first)
    whole = sum(float(first[name].double().square().sum()) for name in first)
    return math.sqrt(moved / whole) if whole else math.inf


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
