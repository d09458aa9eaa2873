"""Blocks stop one by one, each when its gradient has settled."""

from typing import Literal

from pydantic import Field

from irtune.importance import Importance
from irtune.selection.policy import PolicyState, SelectionContext, SelectionPolicy
from irtune.selection.scores import relative_change


class GradES(SelectionPolicy):
    """Trains all blocks at first; after ``alpha`` of all steps a block stops for good once its score changes little.

    The change is ``|score - previous| / previous`` between two refreshes. One block always goes on: when all would
    stop, the one that changes most, of equals the one nearest to the output.

    Source: Wen et al., GradES (arXiv 2509.01842). Deviations: whole blocks stop, there single matrices; the change is
    that of the block's score, there the L1 norm of the change of the gradient; ``tau`` is relative to the score, since
    the size of a score depends on model and signal, so their value of .023 is on another scale.
    """

    name: Literal["grad_es"] = "grad_es"
    tau: float = Field(0.023, gt=0, description="relative change of a block's score below which it stops")
    alpha: float = Field(0.55, ge=0, le=1, description="share of all steps before which no block stops")

    def select(self, context: SelectionContext) -> tuple[tuple[int, ...], PolicyState]:
        """The blocks that have not stopped."""
        active = context.state.get("active", list(range(context.num_blocks)))
        if context.state and context.step >= int(self.alpha * context.total_steps):
            change = relative_change(Importance.from_json(context.state["previous"]), context.importance)
            going_on = [block for block in active if not change[block] < self.tau]
            active = going_on or [max(active, key=lambda block: (change[block], block))]
        return tuple(active), {"active": active, "previous": context.importance.to_json()}
