"""Trying a few steps in a process of its own: which rows it takes, and what is said when it fails."""

import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from irtune.config.load import build
from irtune.config.schema import EngineConfig, ExperimentConfig
from irtune.data.base import Revision, RevisionDataset
from irtune.training import rehearsal
from irtune.training.rehearsal import Rehearsal, RehearsalError

CONFIG = build(ExperimentConfig, {"training": {"micro_batch_size": 2, "eval_batch_size": 3}}, "x")
LENGTHS = {"train": [10, 60, 20, 40, 30, 50, 70], "validation": [5, 9], "test": [4, 8]}
DATA = RevisionDataset(
    "few",
    ("a", "b"),
    {split: tuple(Revision("1", "x" * n, "y", "a") for n in lengths) for split, lengths in LENGTHS.items()},
    "?",
)


def in_place_of_python(monkeypatch, tmp_path, script):
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setattr(rehearsal.sys, "executable", str(program))


def test_rows_are_spread_over_the_lengths_and_the_longest_is_among_them():
    few = rehearsal.sample(CONFIG, DATA).splits
    assert [len(revision.before) for revision in few["train"]] == [70, 60, 50, 30, 20, 10]
    # As many as a batch has: 2 of each.
    assert [len(revision.before) for revision in few["validation"]] == [9, 5]
    assert [len(revision.before) for revision in few["test"]] == [8]
    fewer = replace(DATA, splits=DATA.splits | {"train": DATA.splits["train"][:1]})
    assert len(rehearsal.sample(CONFIG, fewer).splits["train"]) == 6


def test_a_failure_is_told_in_its_own_words(monkeypatch, tmp_path):
    in_place_of_python(
        monkeypatch, tmp_path, "cat > /dev/null; echo noise >&2; echo 'MemoryError: too big' >&2; exit 1"
    )
    with Rehearsal(EngineConfig()) as tried:
        tried.begin(CONFIG)
        with pytest.raises(RehearsalError, match=r"^measuring failed: MemoryError: too big$"):
            tried.result()


def test_what_takes_too_long_is_ended(monkeypatch, tmp_path):
    in_place_of_python(monkeypatch, tmp_path, f"echo $$ > '{tmp_path}/pid'; exec sleep 60")
    start = time.monotonic()
    with Rehearsal(EngineConfig(), limit_s=0.5) as tried:
        tried.begin(CONFIG)
        with pytest.raises(RehearsalError, match=r"^a step of the real model was not over after 0\.5 s$"):
            tried.result()
    assert time.monotonic() - start < 20
    pid = int((tmp_path / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_starting_it_imports_nothing_heavy():
    check = "import sys, irtune.training.rehearsal; assert not {'torch', 'ray', 'deepspeed'} & set(sys.modules)"
    run = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
