"""The same blocks from beginning to end."""

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from irtune.selection.policy import (
    BlockCount,
    PolicyState,
    SelectionContext,
    SelectionPolicy,
    StepCost,
    resolve_count,
)


class Static(SelectionPolicy):
    """Trains the first k, the last k, the k in the middle, k evenly spread, or explicitly listed blocks.

    Evenly spread blocks end each of k parts of the model, so the last one is among them. Where the k in the middle
    cannot have as many blocks below as above, they have one fewer below.

    Source: freeze training of LLaMA-Factory (Zheng et al., arXiv 2403.13372); strided blocks as in LLaMA Pro (Wu et
    al., arXiv 2401.02415); middle blocks as in mid-block tuning (Zhao et al., ACL 2026, arXiv 2604.11838). Deviations:
    adapters train, not weights; LLaMA Pro trains blocks that it inserts there; mid-block tuning raises the adapters'
    rank by as much as it saves blocks.
    """

    name: Literal["static"] = "static"
    which: Literal["first", "last", "middle", "strided"] = Field("last", description="where the k blocks lie")
    k: BlockCount | None = Field(None, description="blocks that train: a count, or a fraction of all")
    blocks: tuple[int, ...] | None = Field(None, description="indices from 0 of the blocks that train, instead of k")
    uses_importance: ClassVar[bool] = False

    @field_validator("blocks")
    @classmethod
    def _blocks_are_indices(cls, blocks: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if blocks is None:
            return None
        if not blocks or min(blocks) < 0 or len(set(blocks)) < len(blocks):
            raise ValueError(f"must be distinct indices of blocks, counted from 0, at least one, not {list(blocks)}")
        return tuple(sorted(blocks))

    @model_validator(mode="after")
    def _one_way_to_say_it(self) -> "Static":
        if (self.k is None) == (self.blocks is None):
            found = "neither" if self.k is None else "both"
            raise ValueError(f"static takes either k, a number of blocks, or blocks, a list of them; found {found}")
        return self

    def select(self, context: SelectionContext) -> tuple[tuple[int, ...], PolicyState]:
        """The blocks, always the same."""
        return self._blocks_of(context.num_blocks), {}

    def lowest_ever(self, num_blocks: int, cost: StepCost | None = None) -> int:
        """The first of the blocks."""
        return self._blocks_of(num_blocks)[0]

    def _blocks_of(self, num_blocks: int) -> tuple[int, ...]:
        if self.blocks is not None:
            return self.blocks
        assert self.k is not None
        k = resolve_count(self.k, num_blocks)
        if self.which == "strided":
            return tuple(num_blocks * part // k - 1 for part in range(1, k + 1))
        first = {"first": 0, "middle": (num_blocks - k) // 2, "last": num_blocks - k}[self.which]
        return tuple(range(first, first + k))

    def among(self, indices: Sequence[int]) -> "Static":
        """The listed blocks by their places among those at ``indices``, which alone can train."""
        if self.blocks is None:
            return self
        frozen = sorted(set(self.blocks) - set(indices))
        if frozen:
            raise ValueError(
                f"selection.policy.blocks: {frozen} hold nothing trainable; list some of {list(indices)}, or make "
                "them trainable"
            )
        return self.model_copy(update={"blocks": tuple(list(indices).index(block) for block in self.blocks)})

    def check(self, num_blocks: int) -> None:
        """Raise ValueError if the model has fewer blocks."""
        super().check(num_blocks)
        if self.blocks is not None and self.blocks[-1] >= num_blocks:
            raise ValueError(
                f"selection.policy.blocks: there is no block {self.blocks[-1]}; the model has {num_blocks}, "
                f"counted from 0 to {num_blocks - 1}"
            )
