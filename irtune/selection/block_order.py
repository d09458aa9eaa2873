"""One block, or group of neighbours, after the other."""

from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from irtune.selection.policy import BlockCount, PolicyState, SelectionContext, SelectionPolicy, resolve_count


class BlockOrder(SelectionPolicy):
    """Trains one group of neighbouring blocks until the next refresh, then the next group, in cycles over all.

    ``selection.reselect_every`` is BAdam's K (50 to 100). Its optimizer state starts anew at every switch:
    ``selection.on_thaw: reset``.

    Source: Luo et al., BAdam (arXiv 2404.02827). Deviation: the blocks' adapters and the head train, instead of a
    block's weights alone.
    """

    name: Literal["block_order"] = "block_order"
    order: Literal["random", "ascending", "descending"] = Field(
        "random", description="order of the groups in a cycle: random is a fresh permutation for each cycle"
    )
    group_size: BlockCount = Field(
        1, description="neighbouring blocks that train together: a count, or a fraction of all"
    )
    uses_importance: ClassVar[bool] = False

    def select(self, context: SelectionContext) -> tuple[tuple[int, ...], PolicyState]:
        """The next group."""
        group, *left = context.state.get("left") or self._cycle(context.num_blocks, context.generator)
        return tuple(group), {"left": left}

    def check(self, num_blocks: int) -> None:
        """Raise ValueError if a group would have more blocks than there are."""
        resolve_count(self.group_size, num_blocks, "group_size")

    def _cycle(self, num_blocks: int, generator: np.random.Generator) -> list[Any]:
        """The groups in the order of their turns; the highest may be smaller than the others."""
        size = resolve_count(self.group_size, num_blocks, "group_size")
        groups = [list(range(first, min(first + size, num_blocks))) for first in range(0, num_blocks, size)]
        if self.order == "random":
            return [groups[position] for position in generator.permutation(len(groups))]
        return groups if self.order == "ascending" else groups[::-1]
