"""Frozen means bit-identical, trained means equal to PyTorch, resumed means equal to uninterrupted: a part of
benchmarks/exactness.py, at every ZeRO stage, on one rank and on two."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
CELLS = (
    "stage=0,precision=fp32,accumulation=2,clipping=on,tuner=lora",
    "stage=1,precision=fp32,accumulation=2,clipping=on,tuner=dora",
    "stage=2,precision=fp32,accumulation=1,clipping=off,tuner=loha",
    "stage=3,precision=fp32,accumulation=2,clipping=on,tuner=dora",
    "stage=0,precision=bf16,accumulation=1,clipping=off,tuner=ia3",
    "stage=2,precision=bf16,accumulation=2,clipping=off,tuner=dora",
    "stage=3,precision=bf16,accumulation=2,clipping=on,tuner=lora",
    # On processors with bf16 units a master of the last bit lies on the edge between two bf16 numbers here.
    "stage=0,precision=bf16,accumulation=2,clipping=on,tuner=loha",
)
MOVES = (
    "ranks=2>1,stage=2>0,precision=fp32",
    "ranks=1>2,stage=0>3,precision=bf16",
    "ranks=2,stage=3>1,precision=bf16",
)


def run_benchmark(only: Iterable[str], folder: Path, *options: str) -> tuple[int, str, list[dict[str, Any]]]:
    out = folder / "found.json"
    filters = [part for each in only for part in ("--only", each)]
    finished = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "exactness.py"), *filters, "--out", str(out), *options],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=580,
    )
    assert out.is_file(), finished.stderr[-3000:]
    return finished.returncode, finished.stdout, json.loads(out.read_text())


def test_freezing_training_and_resuming_are_exact(tmp_path: Path) -> None:
    status, printed, found = run_benchmark([*CELLS, *MOVES], tmp_path)
    assert printed.endswith(f"PASS {2 * len(CELLS)}/{2 * len(CELLS)}, resumed elsewhere {len(MOVES)}/{len(MOVES)}\n"), (
        printed
    )
    assert status == 0
    assert Counter(row["ranks"] for row in found) == {"1": len(CELLS), "2": len(CELLS) + 1, "1>2": 1, "2>1": 1}
    for row in found:
        assert row["frozen_changed"] == row["resume_differing"] == 0, row


def test_frozen_blocks_that_are_not_frozen_are_noticed(tmp_path: Path) -> None:
    cell = "ranks=1,stage=2,precision=fp32,accumulation=1,clipping=on,tuner=lora"
    status, printed, [row] = run_benchmark([cell], tmp_path, "--sabotage")
    assert printed.endswith("FAIL 0/1\n"), printed
    assert status == 1
    assert row["frozen_drift"] > 1e-4, row
    assert row["wrong_step_counts"] == 1, row
    assert row["moments_error"] > 1, row


@pytest.mark.parametrize("fault", ["scale", "micro-batch", "clipping"])
def test_faults_that_are_larger_than_rounding_are_noticed(fault: str, tmp_path: Path) -> None:
    shared = "ranks=1,accumulation=2,clipping=on,tuner=loha"
    cells = [f"stage={stage},precision={precision},{shared}" for stage, precision in ((0, "bf16"), (2, "fp32"))]
    cells += [f"stage=3,precision=fp32,{shared}"]
    status, printed, found = run_benchmark(cells, tmp_path, "--sabotage", fault)
    assert printed.endswith("FAIL 0/3\n"), printed
    assert status == 1
    for row in found:
        # Ten times what rounding allows: the tolerance has room for other processors, not for a fault of 1 %.
        assert row["moments_error"] > 10, row
