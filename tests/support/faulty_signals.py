"""Importance signals as a user would bring them, which misbehave on purpose."""

import os
from pathlib import Path

import numpy as np
import psutil
import torch

from irtune.importance import Importance
from irtune.importance.gradient_norm import GradientNorm


class RaisesOnRankOneOnce(GradientNorm):
    """The norm of gradients, but rank 1 raises at the third measurement, once.

    Args:
        flags: A folder; the file ``raised`` in it says whether it was done, and ``process_…`` who measured.
    """

    name: str  # type: ignore[assignment]
    flags: str

    def update(self, importance: Importance, scores: np.ndarray, step: int) -> Importance:
        """Like the gradient norm."""
        flag = Path(self.flags) / "raised"
        (flag.parent / f"process_{os.getpid()}").touch()
        if step >= 6 and torch.distributed.get_rank() == 1 and not flag.exists():
            flag.touch()
            raise RuntimeError("rank 1 has a bug")
        return super().update(importance, scores, step)


class KillsLeadersOnce(GradientNorm):
    """The norm of gradients, but at two measurements rank 0 kills what leads its worker group.

    Args:
        flags: A folder; a file in it says what was killed.
    """

    name: str  # type: ignore[assignment]
    flags: str

    def update(self, importance: Importance, scores: np.ndarray, step: int) -> Importance:
        """Like the gradient norm."""
        leader = {3: "ray::TrainController", 6: "ray::Pool"}.get(step)
        if leader is not None and torch.distributed.get_rank() == 0:
            flag = Path(self.flags) / leader
            if not flag.exists():
                flag.touch()
                # Ray's processes on this node; those of another cluster have another parent.
                (process,) = (p for p in psutil.Process(os.getppid()).children() if _title(p).startswith(leader))
                process.kill()
        return super().update(importance, scores, step)


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
