"""The k blocks of largest score."""

from typing import Literal

from pydantic import Field

from irtune.selection.policy import BlockCount, PolicyState, SelectionContext, SelectionPolicy, resolve_count
from irtune.selection.scores import top_blocks


class TopK(SelectionPolicy):
    """Trains the k most important blocks.

    Ties go to the block nearer to the output, whose backward pass is shorter. Blocks that were never measured rank
    last.

    Source: the ranking of Liu & Litman (arXiv 2510.00268) with a fixed number in place of their variance split.
    """

    name: Literal["top_k"] = "top_k"
    k: BlockCount = Field(description="blocks that train: a count, or a fraction of all")

    def select(self, context: SelectionContext) -> tuple[tuple[int, ...], PolicyState]:
        """The k best."""
        k = resolve_count(self.k, context.num_blocks)
        return top_blocks(context.importance.scores, k), {}
