"""What forward passes keep for the backward pass."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from irtune.layers import recompute


def addresses(tensors: Collection[torch.Tensor]) -> set[int]:
    """Where the storages of tensors lie."""
    return {tensor.untyped_storage().data_ptr() for tensor in tensors}


@contextmanager
def kept_storages(apart_from: Collection[int]) -> Iterator[dict[int, torch.UntypedStorage]]:
    """Gather what passes keep, by address, views once; of a block that is recomputed that is what enters it.

    They are held until the caller lets go of them, so that no two are at one address, whatever the allocator has free.

    Args:
        apart_from: Addresses that are left out, such as those of parameters.
    """
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in apart_from:
            kept[storage.data_ptr()] = storage
        return tensor

    def again(*arguments: Any, **options: Any) -> Any:
        for value in tree_leaves((arguments, options)):
            if isinstance(value, torch.Tensor):
                keep(value)
        return checkpoint(*arguments, **options)

    with (
        patch.object(recompute, "checkpoint", again),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        yield kept


def num_bytes(kept: dict[int, torch.UntypedStorage]) -> int:
    """Of all of them together."""
    return sum(storage.nbytes() for storage in kept.values())
