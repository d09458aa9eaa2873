"""Hidden states of a split's examples, from the files of all ranks to a batch in the layout that blocks expect."""

from collections.abc import Sequence

import numpy as np
import torch

from irtune.data.encode import EncodedSplit


class KeptStates:
    """The states of a split's examples, by example.

    Args:
        data: The split.
        shares: The batches that each rank computed.
        files: ``(tokens, d)`` of each rank.
    """

    def __init__(self, data: EncodedSplit, shares: Sequence[Sequence[np.ndarray]], files: list[torch.Tensor]) -> None:
        self._lengths, self._files = data.lengths, files
        self._owner, self._start = np.zeros(len(data), dtype=int), np.zeros(len(data), dtype=int)
        for rank, batches in enumerate(shares):
            order = np.concatenate(batches).astype(int)
            self._owner[order] = rank
            self._start[order] = np.cumsum([0, *self._lengths[order]])[:-1]

    def rows(self, indices: np.ndarray, length: int) -> torch.Tensor:
        """``(B, length, d)``, zero where there is padding, which nothing reads."""
        first = self._files[0]
        found = torch.zeros(len(indices), length, first.shape[1], dtype=first.dtype)
        for row, index in enumerate(indices):
            start, tokens = self._start[index], self._lengths[index]
            found[row, :tokens] = self._files[self._owner[index]][start : start + tokens]
        return found


def laid_out(rows: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """States ``(B, T, d)`` in the layout of what entered the blocks: the same, or one row that begins with what is
    common to all (``irtune.training.shared_prefix``)."""
    if hidden.shape == rows.shape:
        return rows
    shared = _shared(hidden, *rows.shape[:2])
    return torch.cat([rows[0, :shared], rows[:, shared:].flatten(0, 1)])[None]


def rows_of(hidden: torch.Tensor, batch_size: int, length: int) -> torch.Tensor:
    """The opposite of ``laid_out``."""
    if hidden.shape[:2] == (batch_size, length):
        return hidden
    shared = _shared(hidden, batch_size, length)
    own = hidden[0, shared:].view(batch_size, length - shared, -1)
    return torch.cat([hidden[:, :shared].expand(batch_size, -1, -1), own], dim=1)


def _shared(hidden: torch.Tensor, batch_size: int, length: int) -> int:
    return (batch_size * length - hidden.shape[1]) // (batch_size - 1)
