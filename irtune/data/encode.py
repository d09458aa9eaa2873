"""Text to token ids once, and token ids to batches of like length, the same on every machine."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from irtune.data.base import SPLITS, LabelledDataset, Split

BUCKETS_PER_POOL = 32
"""Batches are cut from pools of this many batches' worth of examples sorted by length: less padding, yet random."""


@dataclass(frozen=True)
class EncodedSplit:
    """Token ids of one split, end to end.

    Args:
        token_ids: ``(sum of lengths,)`` int32.
        offsets: ``(N + 1,)``; example i is ``token_ids[offsets[i]:offsets[i + 1]]``.
        labels: ``(N,)`` class indices.
    """

    token_ids: np.ndarray
    offsets: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each example ``(N,)``."""
        return np.diff(self.offsets)

    def collate(self, indices: np.ndarray, pad_token_id: int) -> dict[str, np.ndarray]:
        """A batch padded on the right to its longest: ``input_ids``, ``attention_mask`` (B, T) and ``labels`` (B,)."""
        longest = int(self.lengths[indices].max())
        input_ids = np.full((len(indices), longest), pad_token_id, dtype=np.int64)
        attention_mask = np.zeros((len(indices), longest), dtype=np.int64)
        for row, index in enumerate(indices):
            tokens = self.token_ids[self.offsets[index] : self.offsets[index + 1]]
            input_ids[row, : len(tokens)] = tokens
            attention_mask[row, : len(tokens)] = 1
        return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": self.labels[indices]}


def encode(dataset: LabelledDataset, tokenizer: Any, max_length: int) -> dict[Split, EncodedSplit]:
    """Tokenise every split with the dataset's one prompt."""
    return {split: _encode_split(dataset, split, tokenizer, max_length) for split in SPLITS}


def _encode_split(dataset: LabelledDataset, split: Split, tokenizer: Any, max_length: int) -> EncodedSplit:
    examples, instruction = dataset.splits[split], dataset.prompt.asked(dataset.labels)
    texts = [dataset.prompt.render(instruction, example.texts) for example in examples]
    rows = tokenizer(texts, truncation=True, max_length=max_length, add_special_tokens=True)["input_ids"]
    class_index = {label: index for index, label in enumerate(dataset.labels)}
    return EncodedSplit(
        np.concatenate([np.asarray(row, dtype=np.int32) for row in rows]),
        np.cumsum([0, *map(len, rows)]),
        np.array([class_index[example.label] for example in examples]),
    )


def encode_once(dataset: LabelledDataset, tokenizer: Any, max_length: int, folder: Path) -> dict[Split, EncodedSplit]:
    """Like ``encode``, but kept in ``folder`` and memory-mapped, so that all trials of a sweep share one copy."""
    key = f"{dataset.fingerprint()}|{_tokenizer_fingerprint(tokenizer)}|{max_length}"
    target = folder / hashlib.sha256(key.encode()).hexdigest()[:16]
    if not target.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if not target.is_dir():
                partial = target.with_name(target.name + ".partial")
                partial.mkdir(exist_ok=True)
                for split, encoded in encode(dataset, tokenizer, max_length).items():
                    for name, array in vars(encoded).items():
                        np.save(partial / f"{split}.{name}.npy", array, allow_pickle=False)
                partial.rename(target)
    return {split: EncodedSplit(**_mapped_arrays(target, split)) for split in SPLITS}


def _mapped_arrays(folder: Path, split: Split) -> Mapping[str, np.ndarray]:
    names = ("token_ids", "offsets", "labels")
    return {name: np.load(folder / f"{split}.{name}.npy", mmap_mode="r", allow_pickle=False) for name in names}


def _tokenizer_fingerprint(tokenizer: Any) -> str:
    definition = json.loads(tokenizer.backend_tokenizer.to_str())
    # These are what its latest call asked for, not what it is.
    del definition["truncation"], definition["padding"]
    return hashlib.sha256(json.dumps(definition).encode()).hexdigest()


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
    epoch = 0
    while True:
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
        for index in generator.permutation(len(batches)):
            yield batches[index][rank::world_size]
        epoch += 1


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
    num_batches = sum(
        (min(start + batch_size * world_size * BUCKETS_PER_POOL, len(lengths)) - start) // (batch_size * world_size)
        for start in range(0, len(lengths), batch_size * world_size * BUCKETS_PER_POOL)
    )
    stream = training_batches(lengths, batch_size, seed=seed, rank=rank, world_size=world_size)
    share = np.sort(np.concatenate([next(stream) for _ in range(num_batches)]))
    return hashlib.sha256(share.astype(np.int64).tobytes()).hexdigest()[:16]
