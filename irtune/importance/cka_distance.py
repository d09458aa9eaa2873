"""CKA distance: how much a block changes the way in which examples are alike."""

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from irtune.importance.signal import ImportanceSignal, MeasuredBlocks, Source, Token

FEWEST_EXAMPLES = 3
"""Two examples are alike in one way only, so that their CKA is 1 whatever a block does."""

CONSTANT = 1e-12
"""Variance between examples, as a share of their squared norm, below which lies rounding."""


def linear_cka(before: np.ndarray, after: np.ndarray) -> float:
    """Linear centred kernel alignment of two representations of the same examples, in [0, 1].

    It is 1 if one is a rotated, scaled and shifted copy of the other.

    Args:
        before: ``(n, d)`` one row an example.
        after: ``(n, e)`` likewise.

    Returns:
        The alignment; 0 if the examples do not differ in one of them.

    Source: Kornblith et al., 2019 (arXiv 1905.00414), in its form by examples: with the centred Gram matrices K and L,
    ``<K, L> / (|K| |L|)``.
    """
    grams = []
    for states in (before, after):
        rows = np.asarray(states, dtype=float)
        centred = rows - rows.mean(axis=0)
        if np.sum(centred**2) <= CONSTANT * np.sum(rows**2):
            return 0.0
        grams.append(centred @ centred.T)
    first, second = grams
    return float(np.sum(first * second) / (np.linalg.norm(first) * np.linalg.norm(second)))


class CkaDistance(ImportanceSignal):
    """1 minus the linear CKA between what enters and what leaves a block at one token of each example, in [0, 1].

    A block of large distance changes much. Where all examples have the same token at that place, what enters the first
    block does not differ between them, and its distance is 1: that says nothing about the block.

    Source: Ogawa et al., 2026 (arXiv 2602.05988), which takes the last token for decoders and the first one (CLS) for
    encoders. Deviations: the examples are those of one probe on all ranks, a micro-batch each, where theirs are 128 or
    more, and CKA of few examples is high for every block; the last block counts by its own output, where theirs has
    passed the final norm; the first block stays in the ranking for encoders too, where their code leaves out the
    highest score.
    """

    name: Literal["cka_distance"] = "cka_distance"
    token: Token = Field("last", description="the real token that stands for an example; first is CLS of encoders")

    source: ClassVar[Source] = "forward"

    def check(self, num_examples: int) -> None:
        """Raise ValueError for fewer than three examples."""
        if num_examples < FEWEST_EXAMPLES:
            raise ValueError(
                f"{self.name} compares at least {FEWEST_EXAMPLES} examples with each other, and a probe has "
                f"{num_examples}; raise training.micro_batch_size or importance.probe_fraction"
            )

    def measure(self, blocks: MeasuredBlocks) -> np.ndarray:
        """Distances ``(L,)`` of this forward pass.

        Raises:
            ValueError: If the probe has fewer than three examples.
        """
        states = blocks.token_states(self.token)
        try:
            self.check(len(states[0][0]))
        except ValueError as error:
            raise ValueError(f"importance.name: {error}") from None
        return np.array([1 - linear_cka(before, after) for before, after in states])
