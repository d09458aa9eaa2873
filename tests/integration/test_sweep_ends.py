"""How a sweep ends that cannot come to its end: said, with exit status and runs to match, and with what goes on."""

from pathlib import Path

import psutil
import pytest
from sweeps import SweepRun, run_sweep, start_sweep

from irtune.workers.node_watch import LOST

LONG = ("tests/support/tiny_sweep.yaml", "training.max_steps=3000", "training.eval_every=1000")


@pytest.mark.parametrize("process", ["raylet", "gcs_server"])
def test_the_death_of_rays_node_is_said_with_the_command_that_goes_on(tmp_path: Path, process: str) -> None:
    driver = start_sweep(tmp_path, *LONG)
    try:
        while not list(tmp_path.glob("*/trials/*/checkpoints/*")):
            assert driver.poll() is None, driver.communicate()[0]
        for child in psutil.Process(driver.pid).children(recursive=True):
            if child.name() == process:
                child.kill()
        output, _ = driver.communicate(timeout=240)
    finally:
        driver.kill()
    assert driver.returncode == LOST, output
    (told,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert "Ray's" in told
    assert told.endswith(f"training.eval_every=1000 storage={tmp_path} --resume")
    if process == "raylet":
        # A call to a dead head may not return; then the next sweep, or `irtune sync`, ends the runs.
        assert {run.info.status for run in SweepRun(LOST, output, tmp_path).runs()} == {"KILLED"}


def test_a_sweep_whose_time_is_over_ends_in_order_and_can_be_gone_on_with(tmp_path: Path) -> None:
    sweep = run_sweep(tmp_path, *LONG, "tune.time_budget_s=20")
    # No trial has finished.
    assert sweep.status == 1, sweep.output
    assert "has had its tune.time_budget_s=20 and ends here" in sweep.output
    assert "--resume" in sweep.output
    assert "\nAnswer " in sweep.output
    assert "error" not in sweep.output
    assert (sweep.folder / "report.html").is_file()
    assert {run.info.status for run in sweep.runs()} == {"KILLED"}
    assert '"complete": false' in (sweep.folder / "sweep.json").read_text()
