"""Uniformly random blocks."""

from typing import ClassVar, Literal

from pydantic import Field

from irtune.selection.policy import BlockCount, PolicyState, SelectionContext, SelectionPolicy, resolve_count


class RandomBlocks(SelectionPolicy):
    """Draws k blocks uniformly without replacement at each refresh.

    With ``selection.reselect_every: 1`` this is the RST baseline of Liu & Litman (arXiv 2510.00268), with 10 to 50 it
    is LISA.

    Source: Pan et al., LISA (arXiv 2403.17919). Deviation: the blocks' adapters train instead of their weights, so of
    embeddings and head only the head always trains.
    """

    name: Literal["random"] = "random"
    k: BlockCount = Field(description="blocks that train: a count, or a fraction of all")
    uses_importance: ClassVar[bool] = False

    def select(self, context: SelectionContext) -> tuple[tuple[int, ...], PolicyState]:
        """K fresh blocks."""
        k = resolve_count(self.k, context.num_blocks)
        drawn = context.generator.choice(context.num_blocks, size=k, replace=False)
        return tuple(sorted(int(block) for block in drawn)), {}
