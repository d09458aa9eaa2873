"""What is recorded at every refresh, and where it goes."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from irtune.importance import Importance


@dataclass(frozen=True)
class SelectionRecord:
    """One refresh.

    Args:
        step: Optimizer step at which the choice was made; it holds from this step on.
        active: Sorted indices in the model of the blocks that train.
        importance: Scores ``(L,)`` of the model's blocks and their age, as the policy saw them; those that cannot train
            are unseen.
        trainable_parameters: Trainable parameters, head included, with these blocks active.
    """

    step: int
    active: tuple[int, ...]
    importance: Importance
    trainable_parameters: int

    @property
    def lowest_active(self) -> int:
        """The block down to which the backward pass runs."""
        return self.active[0]

    def to_json(self) -> dict[str, Any]:
        """The record in strict JSON; a score that was never measured is null."""
        importance = self.importance.to_json()
        return {
            "step": self.step,
            "active": list(self.active),
            "scores": importance["scores"],
            "measured_at": importance["measured_at"],
            "trainable_parameters": self.trainable_parameters,
            "lowest_active": self.lowest_active,
        }


class TraceSink(Protocol):
    """Somewhere that records go."""

    def write(self, record: SelectionRecord) -> None:
        """Take one record."""


class MemoryTrace:
    """Keeps the records, and gives them as arrays.

    Example:
        >>> from irtune import Importance, MemoryTrace
        >>> trace = MemoryTrace()
        >>> trace.write(SelectionRecord(0, (1, 2), Importance.unseen(3), 1000))
        >>> trace.active()
        array([[False,  True,  True]])
    """

    def __init__(self) -> None:
        self.records: list[SelectionRecord] = []

    def write(self, record: SelectionRecord) -> None:
        """Take one record."""
        self.records.append(record)

    def scores(self) -> np.ndarray:
        """Scores ``(refreshes, L)``, NaN where never measured."""
        return np.array([record.importance.scores for record in self.records])

    def active(self) -> np.ndarray:
        """Active sets ``(refreshes, L)`` as booleans."""
        num_blocks = len(self.records[0].importance.scores)
        return np.array([np.isin(np.arange(num_blocks), record.active) for record in self.records])
