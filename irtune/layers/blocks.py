"""The transformer blocks of any model, and which tuner parameter belongs to which."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import nn

EFFECTIVE_UPDATE = "effective_update"
"""Stands for the products of pairs of low-rank matrices, in place of the matrices themselves."""


class BlockError(ValueError):
    """The model's blocks, or the adapter's parameters in them, are not what selection needs."""


@dataclass(frozen=True)
class Blocks:
    """Trainable parameters of a model by block.

    Args:
        name: Dotted name of the list of blocks, as ``model.layers``.
        per_block: For each of the L blocks its parameters as (name, parameter), in model order.
        shared: Parameters of no single block (the head, shared banks), which always train.
        left_out: Indices of further blocks of the model, which have no trainable parameter and are none of the L.
    """

    name: str
    per_block: tuple[tuple[tuple[str, nn.Parameter], ...], ...]
    shared: tuple[tuple[str, nn.Parameter], ...]
    left_out: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.per_block)

    @property
    def num_in_model(self) -> int:
        """Number of blocks of the model, those without a trainable parameter included."""
        return len(self) + len(self.left_out)

    @property
    def indices(self) -> tuple[int, ...]:
        """``(L,)`` the index in the model of each block."""
        return tuple(index for index in range(self.num_in_model) if index not in self.left_out)

    def all(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Every parameter, shared ones first."""
        yield from self.shared
        for block in self.per_block:
            yield from block

    def sizes(self, tensors: str) -> list[np.ndarray]:
        """Per block the number of elements ``(P,)`` of each tensor that ``tensors`` means."""
        if tensors == EFFECTIVE_UPDATE:
            return [
                np.array([shape_of(up)[0] * shape_of(down)[1] for down, up in low_rank_pairs(block)])
                for block in self.per_block
            ]
        return [np.array([size_of(p) for n, p in block if counts(n, tensors)]) for block in self.per_block]


def counts(name: str, tensors: str) -> bool:
    """Whether the parameter called ``name`` is among ``tensors``: ``all``, or a component of dotted names."""
    return tensors == "all" or tensors in name.split(".")


def size_of(parameter: nn.Parameter) -> int:
    """Number of elements, also of a parameter that ZeRO stage 3 has partitioned away."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def shape_of(parameter: nn.Parameter) -> tuple[int, ...]:
    """Shape, also of a parameter that ZeRO stage 3 has partitioned away."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def low_rank_pairs(block: Sequence[tuple[str, nn.Parameter]]) -> list[tuple[nn.Parameter, nn.Parameter]]:
    """The matrices ``lora_A`` ``(r, in)`` and ``lora_B`` ``(out, r)`` of each adapted layer of a block."""
    named = dict(block)
    pairs = [(p, named.get(name.replace(".lora_A.", ".lora_B."))) for name, p in block if ".lora_A." in name]
    return [(down, up) for down, up in pairs if up is not None and len(shape_of(down)) == len(shape_of(up)) == 2]


def head_of(classifier: Any) -> list[str]:
    """Names of what a Hugging Face classifier has beside its pretrained body, without what has no parameters."""
    beside = [(name, child) for name, child in classifier.named_children() if child is not classifier.base_model]
    return [name for name, child in beside if next(child.parameters(), None) is not None]


def find_blocks(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """The list of transformer blocks of a Hugging Face model, PEFT-wrapped or not, with its dotted name.

    Of all module lists it is the one as long as ``num_hidden_layers``; of several such, the one whose members the model
    names as not to be split; of several such, the largest.

    Raises:
        BlockError: If the model has no such list, as one that shares a block among all layers, or more than one: an
            encoder's and a decoder's, or one a part of blocks.
    """
    # It takes a second, and shapes that were kept are looked at without it.
    from torch import nn

    base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    kind = type(base).__name__
    if getattr(base.config, "is_encoder_decoder", False):
        raise BlockError(_two_lists(kind, base))
    num_layers = getattr(base.config.get_text_config(), "num_hidden_layers", None)
    whole = set(getattr(base, "_no_split_modules", None) or ())

    def named_whole(members: nn.ModuleList) -> bool:
        return any(cls.__name__ in whole for member in members for cls in type(member).__mro__)

    lists = {
        name: module
        for name, module in base.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == num_layers
    }
    if not lists:
        raise BlockError(
            f"model.name: {kind} has no list of {num_layers or 'its'} separate blocks "
            "(ALBERT, for one, shares one block among all layers), so there is nothing to select"
        )
    found = max(lists, key=lambda name: (named_whole(lists[name]), sum(size_of(p) for p in lists[name].parameters())))
    beside = {name: module for name, module in lists.items() if not name.startswith(f"{found}.")}
    parts = [name for name, module in beside.items() if any(isinstance(part, nn.Linear) for part in module.modules())]
    if len(parts) > 1 and not named_whole(lists[found]):
        raise BlockError(
            f"model.name: {kind} has no list of whole blocks: their parts are in {', '.join(parts)}, so no block can "
            "be selected"
        )
    return found, lists[found]


def _two_lists(kind: str, model: nn.Module) -> str:
    """Why an encoder-decoder is refused."""
    from torch import nn

    names: list[str] = []
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and not any(name.startswith(f"{outer}.") for outer in names):
            names.append(name)
    return (
        f"model.name: {kind} has two lists of blocks, {' and '.join(names)}. A decoder block attends twice, so it has "
        "more parameters, and its scores cannot be compared with an encoder block's; use a model that is an encoder "
        "only (as BERT) or a decoder only (as Llama)"
    )


def map_parameters(model: nn.Module, *, leave_out_frozen: bool = False) -> Blocks:
    """Sort the trainable parameters of a model by block.

    A parameter belongs to a block if it lies in it, and in no other, by identity.

    Args:
        model: Any model that ``find_blocks`` knows.
        leave_out_frozen: Leave out blocks in which nothing is trainable, in place of refusing them.

    Raises:
        BlockError: If some block has no trainable parameter, or with ``leave_out_frozen`` none has, as under prefix or
            prompt tuning.
    """
    name, members = find_blocks(model)
    owners: dict[int, set[int]] = {}
    for index, member in enumerate(members):
        for parameter in member.parameters():
            owners.setdefault(id(parameter), set()).add(index)
    per_block: list[list[tuple[str, nn.Parameter]]] = [[] for _ in members]
    shared: list[tuple[str, nn.Parameter]] = []
    for parameter_name, parameter in model.named_parameters():
        if parameter.requires_grad:
            owner = owners.get(id(parameter), set())
            place = per_block[next(iter(owner))] if len(owner) == 1 else shared
            place.append((parameter_name, parameter))
    empty = [index for index, block in enumerate(per_block) if not block]
    common = [parameter_name for parameter_name, parameter in shared if len(owners.get(id(parameter), ())) > 1]
    left_out = tuple(empty) if leave_out_frozen and not common and len(empty) < len(per_block) else ()
    if empty and not left_out:
        reason = f"only share {common[0]}" if common else "hold no trainable parameter"
        raise BlockError(
            f"adapter.type: blocks {empty} of {name} {reason}, so they cannot be selected; use an adapter with "
            "parameters of its own in every block (lora, dora, ia3, …) and target_modules that every block has"
        )
    kept = tuple(tuple(block) for index, block in enumerate(per_block) if index not in left_out)
    return Blocks(name, kept, tuple(shared), left_out)
