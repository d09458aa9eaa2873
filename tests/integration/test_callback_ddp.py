"""The callback under DistributedDataParallel: two processes train as one on the doubled batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[1] / "support" / "ddp_training.py"


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each process found, by world size and rank, and which libraries the callback loads."""
    folder = tmp_path_factory.mktemp("ddp")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "DS_ACCELERATOR": "cpu"}
    finished = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder)], env=environment, capture_output=True, text=True, timeout=560
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in ("2_0", "2_1", "1_0", "loaded")}


@pytest.mark.parametrize("cell", ["lora", "full", "random", "checkpointing"])
def test_two_processes_train_as_one_with_the_doubled_batch(found, cell):
    first, alone = found["2_0"][cell], found["1_0"][cell]
    assert first["active"] == alone["active"]
    if cell == "lora":
        assert first["active"] == first["schedule"]
    if cell != "random":
        np.testing.assert_allclose(first["scores"], alone["scores"], rtol=1e-4)
    for name, weight in alone["weights"].items():
        # An Adam step of 0.01 moves by about its size wherever a gradient is not exactly zero.
        np.testing.assert_allclose(first["weights"][name], weight, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("cell", ["lora", "full", "random", "checkpointing", "apart"])
def test_processes_stay_alike(found, cell):
    first, second = found["2_0"][cell], found["2_1"][cell]
    assert first["weights"] == second["weights"]
    assert first["controller"] == second["controller"]
    assert first["active"]
    assert second["active"] == []


def test_what_would_hang_or_be_wrong_is_refused(found):
    for rank in ("2_0", "2_1"):
        reasons = found[rank]["refused"]
        assert "set ddp_find_unused_parameters=True" in reasons["unused"]
        assert "set ddp_find_unused_parameters=True" in reasons["checkpointing"]
        assert "ddp_static_graph" in reasons["static_graph"]
    assert found["1_0"]["refused"].startswith("IRTuningCallback: deepspeed: under ZeRO")


def test_the_callback_loads_neither_ray_nor_deepspeed_nor_mlflow(found):
    loaded = set(found["loaded"])
    assert {"irtune", "torch", "transformers"} <= loaded
    assert not loaded & {"ray", "deepspeed", "mlflow", "optuna"}
