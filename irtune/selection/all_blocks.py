"""Every block trains: the plain PEFT baseline."""

from typing import ClassVar, Literal

from irtune.selection.policy import PolicyState, SelectionContext, SelectionPolicy


class AllBlocks(SelectionPolicy):
    """Trains the adapters of all blocks; every strategy is compared with it.

    Source: Hu et al., ICLR 2022 (arXiv 2106.09685); called "full" in the code of Liu & Litman.
    """

    name: Literal["all"] = "all"
    uses_importance: ClassVar[bool] = False

    def select(self, context: SelectionContext) -> tuple[tuple[int, ...], PolicyState]:
        """All blocks."""
        return tuple(range(context.num_blocks)), {}
