"""Trying a few steps in a process of its own: what is made of them, and what is said when it fails."""

import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import rehearsals
import torch

from irtune.config.load import build
from irtune.config.schema import ExperimentConfig
from irtune.training import rehearsal
from irtune.training.cost import CostModel
from irtune.training.rehearsal import Pace, Rehearsal, RehearsalError

CONFIG = build(ExperimentConfig, {}, "x")
COST = CostModel(np.array([10.0]), np.array([1.0]), head=2.0, attention=0.0, recompute=False)
# Half of the blocks: 6 FLOPs a token in 1 s, all of them: 10 FLOPs in 3 s.
PACE = Pace(7.0, 2.0, (6.0, 10.0), (1.0, 3.0), tokens=100, peak_bytes=80.0, passing_bytes=30.0, cost=COST)


@pytest.mark.parametrize(
    ("flops", "seconds"),
    # For 4 tokens: as measured; half-way between; half of the lesser one; twice the larger one.
    [(24, 4.0), (40, 12.0), (32, 8.0), (12, 2.0), (80, 24.0)],
)
def test_seconds_lie_on_the_line_between_the_measured_steps(flops, seconds):
    assert PACE.seconds(flops, tokens=4) == pytest.approx(seconds)


def test_memory_grows_with_the_tokens_of_a_batch():
    assert PACE.memory_bytes(200) == 80 + 30
    # What was held is held, also by smaller batches.
    assert PACE.memory_bytes(10) == 80


@pytest.mark.parametrize(
    ("process", "told"),
    [
        (rehearsals.refuses, "measuring failed: MemoryError: too big"),
        (rehearsals.dies, "measuring ended with status 3"),
        (rehearsals.hangs, "a step of the real model was not over after 0.5 s"),
        (rehearsals.waits, "measuring failed: asked to load, go"),
    ],
)
def test_a_failure_is_told_and_leaves_nothing(monkeypatch, process, told):
    monkeypatch.setattr(rehearsal, "_answer_with_pace", process)
    monkeypatch.setattr(rehearsal, "LIMIT_S", 0.5 if process is rehearsals.hangs else 600.0)
    with Rehearsal(CONFIG) as tried:
        with pytest.raises(RehearsalError) as failure:
            tried.pace()
        pid, folder = tried._process.pid, tried._folder.name
    assert str(failure.value) == told
    assert not os.path.exists(folder)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_nothing_is_loaded_before_it_is_told_to(monkeypatch):
    monkeypatch.setattr(rehearsal, "_answer_with_pace", rehearsals.notes_what_it_was_told)
    with Rehearsal(CONFIG) as tried:
        told = Path(tried._folder.name) / "told"
        while not told.exists():
            time.sleep(0.05)
        time.sleep(0.3)
        assert told.read_text() == "started"
        tried.load()
        tried.load()
        with pytest.raises(RehearsalError, match="started load go"):
            tried.pace()


def test_a_mistake_of_the_experiments_own_is_told_apart(monkeypatch):
    monkeypatch.setattr(rehearsal, "_answer_with_pace", rehearsals.mistaken)
    with Rehearsal(CONFIG) as tried, pytest.raises(RehearsalError) as failure:
        tried.pace()
    assert failure.value.is_of_trials


@pytest.mark.parametrize(
    ("error", "is_mistake"),
    [
        (ValueError("no module called q_proj"), True),
        (IndexError("index out of range in self"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), True),
        (MemoryError("too big"), False),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), False),
        (torch.OutOfMemoryError("CUDA out of memory"), False),
        (OSError("no space left on device"), False),
    ],
)
def test_a_machine_that_lacks_something_is_no_mistake_of_the_experiment(error, is_mistake):
    assert rehearsal.is_of_trials(error, CONFIG.engine) is is_mistake
    assert not rehearsal.is_of_trials(error, CONFIG.engine.model_copy(update={"gpus_per_worker": 1}))


def test_starting_it_imports_nothing_heavy():
    check = "import sys, irtune.training.rehearsal; assert not {'torch', 'ray', 'deepspeed'} & set(sys.modules)"
    run = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr


def test_locks_of_libraries_are_not_told_as_leaked():
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=rehearsals.tells_its_start_method, args=(theirs,))
    process.start()
    # Such locks have no name, by which they would be missed when the process is gone.
    assert ours.recv() == "fork"
    process.join()
