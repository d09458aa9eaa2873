"""A gradient norm that misbehaves on purpose: what benchmarks/faults.py puts into the trials of real sweeps.

``IRTUNE_FAULTS`` names a folder with ``faults.json``: clip quantile of the trial -> what strikes there, in which step
and on which rank. A fault strikes once, and leaves a file of its name behind; one that waits strikes at each refresh.
"""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from irtune.importance import Importance
from irtune.importance.gradient_norm import GradientNorm
from irtune.training.record import RecordWriter

FOLDER = Path(os.environ["IRTUNE_FAULTS"])
WAIT_S = 12.0
_last_refresh = 0


class Faulty(GradientNorm):
    """The gradient norm, with a fault in some trials."""

    name: str  # type: ignore[assignment]

    def measure(self, blocks: Any) -> np.ndarray:
        """Measure like the gradient norm; a fault of weights strikes here."""
        if self._strikes("nan", _last_refresh + 3):
            # The head's, which every pass reads: an adapter that has never trained would be passed over.
            *_, parameter = (p for p in blocks.model.parameters() if p.requires_grad)
            parameter.data.fill_(float("nan"))
        return super().measure(blocks)

    def update(self, importance: Importance, scores: np.ndarray, step: int) -> Importance:
        """Fold like the gradient norm; every other fault strikes here."""
        global _last_refresh
        _last_refresh = step
        if self._strikes("raise", step) or self._strikes("always raise", step):
            raise RuntimeError("an injected bug")
        if self._strikes("out of memory", step):
            raise torch.OutOfMemoryError("CUDA out of memory (injected)")
        if self._strikes("worker killed", step):
            os.kill(os.getpid(), signal.SIGKILL)
        if self._strikes("waits", step):
            time.sleep(WAIT_S)
        return super().update(importance, scores, step)

    def _strikes(self, kind: str, step: int) -> bool:
        fault = json.loads((FOLDER / "faults.json").read_text()).get(f"{self.clip_quantile:g}")
        if fault is None or fault["kind"] != kind or step == 0 or fault.get("step", step) != step:
            return False
        if fault.get("rank", dist.get_rank()) != dist.get_rank():
            return False
        struck = FOLDER / f"struck {self.clip_quantile:g}"
        if struck.exists() and kind not in ("always raise", "waits"):
            return False
        struck.touch()
        return True


def _time_tracking() -> None:
    """Keep how long each record held up the process that trains, in seconds, a line each."""
    write = RecordWriter._write
    kept = FOLDER / f"tracking_{os.getpid()}.txt"

    def timed(self: RecordWriter, kind: str, **content: Any) -> None:
        started = time.perf_counter()
        write(self, kind, **content)
        seconds = time.perf_counter() - started
        with kept.open("a") as file:
            file.write(f"{seconds}\n")

    RecordWriter._write = timed  # type: ignore[method-assign]


_time_tracking()
