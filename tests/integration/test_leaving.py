"""No thread of a process group outlives it into the end of Python, where it may abort the process."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def ends(tmp_path: Path, stage: int, how: str) -> list[tuple[int, str, str]]:
    """Exit status, output and errors of two ranks."""
    support = ROOT / "tests" / "support"
    command = [sys.executable, str(support / "leaving.py")]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{support}"}
    ranks = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / "store"), str(stage), how],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    found = []
    for rank in ranks:
        printed, errors = rank.communicate(timeout=400)
        found.append((rank.returncode, printed, errors))
    return found


@pytest.mark.parametrize(("stage", "how"), [(0, "context"), (3, "exit")])
def test_every_rank_ends_without_threads_of_its_group(stage: int, how: str, tmp_path: Path) -> None:
    for status, printed, errors in ends(tmp_path, stage, how):
        assert status == 0, errors
        assert json.loads(printed.splitlines()[-1]) == []


def test_a_rank_that_fails_beside_a_dead_one_ends_with_its_own_error(tmp_path: Path) -> None:
    started = time.monotonic()
    (status, printed, errors), _ = ends(tmp_path, 2, "dead")
    assert status == 1, errors
    assert "rank 0 fails beside a dead rank" in errors
    assert json.loads(printed.splitlines()[-1]) == []
    assert time.monotonic() - started < 180
