"""Trying a few steps in a process of its own: which rows it takes, and what is said when it fails."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest

from irtune.config.load import build
from irtune.config.schema import EngineConfig, ExperimentConfig
from irtune.data.base import Revision, RevisionDataset
from irtune.training import rehearsal
from irtune.training.cost import CostModel
from irtune.training.rehearsal import Rehearsal, RehearsalError

CONFIG = build(ExperimentConfig, {"training": {"micro_batch_size": 2, "eval_batch_size": 3}}, "x")
COST = CostModel(np.array([10.0]), np.array([1.0]), head=2.0, attention=0.0, recompute=False)
LENGTHS = {"train": np.array([10, 60, 20, 40, 30, 50, 70]), "validation": np.array([5, 9]), "test": np.array([4, 8])}
DATA = RevisionDataset(
    "few",
    ("a", "b"),
    {split: tuple(Revision(f"{i}", "x", "y", "ab"[i % 2]) for i in range(len(n))) for split, n in LENGTHS.items()},
    "?",
)


def in_place_of_python(monkeypatch, tmp_path, script):
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setattr(rehearsal.sys, "executable", str(program))


def test_rows_are_spread_over_the_lengths_and_the_longest_is_among_them():
    rows = rehearsal._rows(CONFIG, LENGTHS)
    # 6 of 7 rows, the longest first.
    assert LENGTHS["train"][rows["train"]].tolist() == [70, 60, 50, 30, 20, 10]
    # 3 of 2 rows: one of them comes twice.
    assert sorted(set(LENGTHS["validation"][rows["validation"]].tolist())) == [5, 9]
    assert LENGTHS["test"][rows["test"]].tolist() == [8]


def test_a_failure_is_told_in_its_own_words(monkeypatch, tmp_path):
    in_place_of_python(
        monkeypatch, tmp_path, "cat > /dev/null; echo noise >&2; echo 'MemoryError: too big' >&2; exit 1"
    )
    with (
        Rehearsal(EngineConfig()) as tried,
        pytest.raises(RehearsalError, match=r"^measuring failed: MemoryError: too"),
    ):
        tried.measure(CONFIG, DATA, LENGTHS, COST)


def test_what_takes_too_long_is_ended(monkeypatch, tmp_path):
    in_place_of_python(monkeypatch, tmp_path, f"echo $$ > '{tmp_path}/pid'; exec sleep 60")
    start = time.monotonic()
    with (
        Rehearsal(EngineConfig(), limit_s=0.5) as tried,
        pytest.raises(RehearsalError, match=r"3 steps of the real model took longer than 0 s|took longer"),
    ):
        tried.measure(CONFIG, DATA, LENGTHS, COST)
    assert time.monotonic() - start < 20
    pid = int((tmp_path / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_starting_it_imports_nothing_heavy():
    check = "import sys, irtune.training.rehearsal; assert not {'torch', 'ray', 'deepspeed'} & set(sys.modules)"
    run = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
