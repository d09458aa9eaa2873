"""Probes under DeepSpeed measure what plain PyTorch measures, and leave no trace in training."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sweeps import ROOT


@pytest.mark.parametrize(("world_size", "class_weights"), [(1, None), (2, None), (2, [0.25, 1.5, 4.0])])
def test_measurements_are_right_and_leave_no_trace(
    world_size: int, class_weights: list[float] | None, tmp_path: Path
) -> None:
    out = tmp_path / "measured.json"
    script = str(ROOT / "tests" / "support" / "measuring.py")
    finished = subprocess.run(
        [sys.executable, script, str(world_size), "[0, 1, 2, 3]", str(out), json.dumps(class_weights)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        timeout=560,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    found = json.loads(out.read_text())
    for stage, result in found["stages"].items():
        told = f"stage {stage}, {world_size} ranks"
        assert result["trace_of_probes"] == 0, told
        assert result["steps_after_reset"] == [0, 3, 3, 0], told
        for name, expected in found["expected"].items():
            measured = result["measured"][name]
            pairs = [(measured[kind], expected[kind]) for kind in expected] if isinstance(expected, dict) else []
            for ours, theirs in pairs or [(measured, expected)]:
                np.testing.assert_allclose(ours, theirs, rtol=2e-5, err_msg=f"{name}, {told}")
