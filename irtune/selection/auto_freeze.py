"""A frozen prefix that grows over blocks whose gradient has settled."""

from typing import Literal

import numpy as np
from pydantic import Field

from irtune.importance import Importance
from irtune.selection.policy import PolicyState, SelectionContext, SelectionPolicy
from irtune.selection.scores import relative_change


class AutoFreeze(SelectionPolicy):
    """Freezes, for good, the blocks below the first whose score still changes much.

    At each refresh after the first, every block that still trains has a change ``|score - previous| / previous``, and
    those before the first at or above the given percentile of these changes freeze. The backward pass gets shorter each
    time; the last block always trains.

    Source: Liu, Agarwal & Venkataraman, AutoFreeze (arXiv 2102.01386). Deviations: the score of one refresh is compared
    with that of the refresh before, where the paper accumulates gradients over the steps between (500, which is
    ``selection.reselect_every``; ``importance.over_time: ema`` smooths); a block whose change is not known goes on.
    """

    name: Literal["auto_freeze"] = "auto_freeze"
    percentile: float = Field(
        50.0, ge=0, le=100, description="of the changes of blocks that train; the prefix below it freezes"
    )

    def select(self, context: SelectionContext) -> tuple[tuple[int, ...], PolicyState]:
        """All blocks above the frozen prefix."""
        frozen = context.state.get("frozen", 0)
        if context.state:
            previous = Importance.from_json(context.state["previous"])
            frozen += num_settled(relative_change(previous, context.importance)[frozen:], self.percentile)
        state = {"frozen": frozen, "previous": context.importance.to_json()}
        return tuple(range(frozen, context.num_blocks)), state


def num_settled(changes: np.ndarray, percentile: float) -> int:
    """How many of the first blocks changed by less than the percentile of all known ``changes`` ``(n,)``."""
    known = changes[~np.isnan(changes)]
    if not known.size:
        return 0
    return int(np.argmin(changes < np.percentile(known, percentile)))
