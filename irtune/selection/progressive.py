"""A frozen prefix that grows with training."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from irtune.selection.policy import PolicyState, SelectionContext, SelectionPolicy


class Progressive(SelectionPolicy):
    """Freezes blocks from the first upwards, their number growing linearly from none to all but the last.

    Source: layer freezing of MosaicML Composer, after FreezeOut (Brock et al., arXiv 1706.04983). Deviation: Composer
    reaches a freeze level at the end of training; here all but the last block are frozen from ``end`` on.
    """

    name: Literal["progressive"] = "progressive"
    start: float = Field(0.5, ge=0, lt=1, description="share of training after which freezing begins")
    end: float = Field(1.0, gt=0, le=1, description="share of training after which the last block alone trains")
    uses_importance: ClassVar[bool] = False

    @model_validator(mode="after")
    def _start_comes_first(self) -> "Progressive":
        if self.start >= self.end:
            raise ValueError(f"start must be below end, not {self.start:g} and {self.end:g}")
        return self

    def select(self, context: SelectionContext) -> tuple[tuple[int, ...], PolicyState]:
        """All blocks above the frozen prefix."""
        elapsed = (context.step / context.total_steps - self.start) / (self.end - self.start)
        # A share that is a whole number of blocks but for rounding is that number.
        frozen = int(min(max(elapsed, 0.0), 1.0) * (context.num_blocks - 1) + 1e-9)
        return tuple(range(frozen, context.num_blocks)), {}
