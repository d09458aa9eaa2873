"""Importance signals as a user would bring them, which misbehave on purpose."""

from pathlib import Path

import numpy as np
import torch

from irtune.importance import Importance
from irtune.importance.gradient_norm import GradientNorm


class RaisesOnRankOneOnce(GradientNorm):
    """The norm of gradients, but rank 1 raises at the third measurement, once.

    Args:
        flags: A folder; the file ``raised`` in it says whether it was done.
    """

    name: str  # type: ignore[assignment]
    flags: str

    def update(self, importance: Importance, scores: np.ndarray, step: int) -> Importance:
        """Like the gradient norm."""
        flag = Path(self.flags) / "raised"
        if step >= 6 and torch.distributed.get_rank() == 1 and not flag.exists():
            flag.touch()
            raise RuntimeError("rank 1 has a bug")
        return super().update(importance, scores, step)
