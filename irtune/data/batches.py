"""Token ids to batches of like length, the same on every machine."""

import hashlib
import itertools
import math
from collections.abc import Iterator

import numpy as np

BUCKETS_PER_POOL = 32
"""Batches are cut from pools of this many batches' worth of examples sorted by length: less padding, yet random."""

ROWS_AT_ONCE = 4096
"""Rows to predict that are put together into batches; a split of fewer is put into those of its run's evaluation."""


def training_batches(
    lengths: np.ndarray, batch_size: int, *, seed: int, rank: int = 0, world_size: int = 1
) -> Iterator[np.ndarray]:
    """This rank's micro-batches of indices ``(batch_size,)``, epoch after epoch, without end.

    Every epoch shuffles the examples anew, sorts them by length within pools, cuts them into one batch of like length
    for all ranks together, shuffles those, and deals each out among the ranks, so that no two ranks see the same
    example in an epoch. What does not fill a batch is left out of that epoch.

    Raises:
        ValueError: If there are fewer examples than one batch for all ranks needs.
    """
    global_size = batch_size * world_size
    if len(lengths) < global_size:
        raise ValueError(
            f"training.micro_batch_size: {batch_size} on {world_size} ranks needs at least {global_size} training "
            f"examples, there are {len(lengths)}"
        )
    for epoch in itertools.count():
        for batch in _epoch(lengths, global_size, seed, epoch):
            yield batch[rank::world_size]


def _epoch(lengths: np.ndarray, global_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """The batches of indices ``(global_size,)`` of an epoch, for all ranks together."""
    generator = np.random.default_rng([seed, epoch])
    order = generator.permutation(len(lengths))
    batches = []
    for start in range(0, len(order), global_size * BUCKETS_PER_POOL):
        pool = order[start : start + global_size * BUCKETS_PER_POOL]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        spare = len(pool) % global_size
        if spare:
            pool = np.delete(pool, generator.choice(len(pool), spare, replace=False))
        batches += np.split(pool, len(pool) // global_size) if len(pool) else []
    return [batches[index] for index in generator.permutation(len(batches))]


def evaluation_batches(lengths: np.ndarray, batch_size: int, *, rank: int = 0, world_size: int = 1) -> list[np.ndarray]:
    """This rank's batches of indices ``(<= batch_size,)``, longest first; over all ranks every example appears once.

    All ranks get the same number of batches, as collectives in the forward pass of ZeRO stage 3 need; where examples
    run out, the last batches of a rank are empty.
    """
    order = np.argsort(-lengths, kind="stable")
    mine = order[rank::world_size]
    longest_share = math.ceil(len(order) / world_size)
    num_batches = math.ceil(longest_share / batch_size)
    return [mine[index * batch_size : (index + 1) * batch_size] for index in range(num_batches)]


def share_hash(lengths: np.ndarray, batch_size: int, *, seed: int, rank: int, world_size: int) -> str:
    """SHA-256 of the examples that a rank sees in the first epoch, 16 hexadecimal digits; it shows disjoint shares."""
    first = _epoch(lengths, batch_size * world_size, seed, epoch=0)
    share = np.sort(np.concatenate([batch[rank::world_size] for batch in first]))
    return hashlib.sha256(share.astype(np.int64).tobytes()).hexdigest()[:16]
