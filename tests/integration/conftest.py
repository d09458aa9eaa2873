"""Sweeps that several integration tests look at."""

import pytest
from sweeps import SweepRun, run_sweep


@pytest.fixture(scope="session")
def tiny_sweep(tmp_path_factory: pytest.TempPathFactory) -> SweepRun:
    """A small sweep with one worker a trial, and two trials at once."""
    # A folder with spaces in its name, as people have them.
    storage = tmp_path_factory.mktemp("a storage") / "with spaces"
    overrides = ("tune.max_concurrent_trials=2", "tracking.register_winner=true")
    return run_sweep(storage, "tests/support/tiny_sweep.yaml", *overrides)
