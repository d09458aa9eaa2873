"""Cosine similarity: how much a block leaves of what enters it."""

from typing import ClassVar, Literal

import numpy as np

from irtune.importance.signal import ImportanceSignal, MeasuredBlocks, Source


class CosineSimilarity(ImportanceSignal):
    """The mean cosine between the hidden states before and after each block, in [-1, 1].

    Mind the sign: a block of LOW similarity changes much and is the one to train, so use it with a policy that can keep
    the low side (``variance_split`` with ``keep: low``). Policies that train the highest scores would train the blocks
    that do least.

    Source: the "cosine" variant in the code of Liu & Litman (arXiv 2510.00268). Deviations: one cosine per real token
    of each example, and their mean, where theirs averages hidden states over the batch first, padding included; fresh
    at each refresh, and no starting value of 1.
    """

    name: Literal["cosine_similarity"] = "cosine_similarity"

    source: ClassVar[Source] = "forward"

    def measure(self, blocks: MeasuredBlocks) -> np.ndarray:
        """Similarities ``(L,)`` of this forward pass."""
        return np.array(blocks.similarities(), dtype=float)
