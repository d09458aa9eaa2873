"""Groups of test examples that are not independent of each other, such as the revisions of one essay."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

FEW = 10
"""Groups below which an interval that resamples them is not to be relied on."""

GROUPS, CALLED = "groups", "grouped_by"


@dataclass(frozen=True, eq=False)
class Groups:
    """The group of each test example.

    Args:
        of: Numbers ``(N,)`` of the groups, from 0 on.
        called: What they are, in the singular: ``essay``, or the name of a column.
    """

    of: NDArray[np.integer[Any]]
    called: str

    @classmethod
    def of_names(cls, names: Sequence[str], called: str) -> Self | None:
        """Number groups in the order of their first examples; an example without a name is a group of its own.

        Args:
            names: Of each example's group ``(N,)``.
            called: What groups are; empty where the data has none.

        Returns:
            None where every example stands for itself.

        Example:
            >>> Groups.of_names(["b", "a", "b", ""], "essay").of.tolist()
            [0, 1, 0, 2]
        """
        numbers: dict[object, int] = {}
        found = [numbers.setdefault(name or index, len(numbers)) for index, name in enumerate(names)]
        return cls(np.array(found, dtype=np.int64), called) if called and len(numbers) < len(names) else None

    @classmethod
    def read(cls, arrays: Mapping[str, NDArray[Any]], split: str) -> Self | None:
        """What ``arrays`` wrote; None where it wrote nothing, as of trials that were recorded before there were groups.

        Args:
            arrays: As they were read.
            split: Whose.
        """
        key = f"{split}_{GROUPS}"
        return cls(arrays[key], str(arrays[CALLED])) if key in arrays else None

    def arrays(self, split: str) -> dict[str, NDArray[Any]]:
        """The groups as arrays to be kept, without the names of the groups."""
        return {f"{split}_{GROUPS}": self.of, CALLED: np.array(self.called)}

    @property
    def num(self) -> int:
        """How many there are."""
        return int(self.of.max()) + 1 if len(self.of) else 0

    @property
    def caveat(self) -> str:
        """What is resampled, and how far that can be relied on."""
        if self.num == 1:
            return (
                f"All test examples are of one {self.called}, so the interval resamples examples and says nothing "
                "about others"
            )
        said = f"Test examples are resampled by {self.called} ({self.num} groups), as those of one are not independent"
        if self.num < FEW:
            said += f". From fewer than {FEW} groups the interval is unreliable: test on more of them"
        return said
