"""A few steps of the real model on this machine, in a process of their own: the pace at which trials will train."""

import contextlib
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from irtune.config.engine_schema import EngineConfig
from irtune.config.schema import ExperimentConfig

# Nothing heavy is imported here, so that the process starts before its parent imports what it needs itself.
if TYPE_CHECKING:
    from irtune.training.cost import CostModel
    from irtune.training.loop import Loop

LIMIT_S = 180.0
ENOUGH_S = 0.5
"""Steps of a kind are repeated for so long; one step where it takes longer."""

MISTAKES = (ValueError, TypeError, LookupError, AttributeError, NotImplementedError)
"""What a wrong setting, model or tokenizer raises; a machine that lacks something raises others."""

NUM_BATCHES = 8
"""Rows that a rehearsal looks at, in micro-batches: tokenising a whole corpus would take long."""


class RehearsalError(Exception):
    """Nothing could be measured; the message says why.

    Args:
        message: Why.
        is_of_trials: Whether it is a mistake of the experiment's own, at which every trial would fail.
    """

    def __init__(self, message: str, *, is_of_trials: bool = False) -> None:
        super().__init__(message)
        self.is_of_trials = is_of_trials


@dataclass(frozen=True)
class Pace:
    """What a worker was seen to take.

    Args:
        process_s: From the start of a process to where it can train: its imports.
        load_s: From there to the first step: the model, the engine, the self-check.
        flops: FLOPs a token of a step in which the upper half of the blocks trains, and of one in which all do.
        token_s: Seconds a token of these steps.
        tokens: Of the micro-batch that they took.
        peak_bytes: The most that the worker held.
        passing_bytes: Of that what a step took that grows with its tokens, by a count.
        cost: Of the model.
    """

    process_s: float
    load_s: float
    flops: tuple[float, float]
    token_s: tuple[float, float]
    tokens: int
    peak_bytes: float
    passing_bytes: float
    cost: "CostModel"

    def seconds(self, flops: float, tokens: float) -> float:
        """Seconds that ``flops`` over ``tokens`` take: on the line between both steps, else in proportion to FLOPs."""
        each, most = flops / tokens, self.flops[1]
        inside = np.interp(min(each, most), [0.0, *self.flops], [0.0, *self.token_s])
        return float(inside * max(each / most, 1.0) * tokens)

    def memory_bytes(self, tokens: float) -> float:
        """What a worker holds that trains every block on micro-batches of ``tokens``."""
        return self.peak_bytes + self.passing_bytes * max(tokens / self.tokens - 1.0, 0.0)


class Rehearsal:
    """A process that measures the ``Pace`` of an experiment.

    From construction on it imports what it needs, beside whatever else there is to do. It loads model and data when
    told to, which is when they are known to be right, and takes its steps when asked to, since a machine that is busy
    with something else would be taken for a slow one. It ends with the context.
    """

    def __init__(self, config: ExperimentConfig) -> None:
        context = multiprocessing.get_context("spawn")
        self._folder = tempfile.TemporaryDirectory(prefix="irtune-rehearsal-")
        self._connection, theirs = context.Pipe()
        task = (theirs, config, Path(self._folder.name), time.time())
        self._process = context.Process(target=_answer_with_pace, args=task, daemon=True)
        self._process.start()
        theirs.close()
        self._outcome: Pace | RehearsalError | None = None
        self._is_loading = False

    def __enter__(self) -> "Rehearsal":
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        self._process.join()
        self._folder.cleanup()

    def load(self) -> None:
        """Have model and data loaded, beside whatever else there is to do."""
        if not self._is_loading:
            self._is_loading = True
            self._tell("load")

    def pace(self) -> Pace:
        """Have the steps taken if they were not yet; nothing else should load the machine meanwhile.

        Raises:
            RehearsalError: If that failed or took too long.
        """
        self._outcome = self._outcome or self._measured()
        if isinstance(self._outcome, RehearsalError):
            raise self._outcome
        return self._outcome

    def _measured(self) -> Pace | RehearsalError:
        self.load()
        self._tell("go")
        try:
            if not self._connection.poll(LIMIT_S):
                return RehearsalError(f"a step of the real model was not over after {LIMIT_S:g} s")
            answer: Pace | tuple[str, bool] = self._connection.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            return RehearsalError(f"measuring ended with status {self._process.exitcode}")
        if isinstance(answer, Pace):
            return answer
        message, is_of_trials = answer
        return RehearsalError(f"measuring failed: {message}", is_of_trials=is_of_trials)

    def _tell(self, what: str) -> None:
        # Where it has failed by now, it has said so, and may be gone.
        with contextlib.suppress(BrokenPipeError):
            self._connection.send(what)


def _answer_with_pace(connection: Connection, config: ExperimentConfig, folder: Path, started_at: float) -> None:
    """Send a pace once it is asked for, or why there is none."""
    # As in workers; it is read as torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # What libraries print is nothing for the user.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)
    if sys.platform == "linux":
        # Should memory run out, this process is the one to go.
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    # This process ends without cleaning up: locks of libraries, such as tqdm's, would be told as leaked when the driver
    # ends, but for those of this kind, which lose their names as they are made.
    multiprocessing.set_start_method("fork", force=True)
    # DeepSpeed's autotuner, which nothing uses here, would import it, and that takes longer than the rest of DeepSpeed.
    sys.modules["mlflow"] = None  # type: ignore[assignment]
    try:
        connection.send(measure(config, folder, started_at, connection.recv))
    except Exception as error:
        connection.send((f"{type(error).__name__}: {error}", is_of_trials(error, config.engine)))
    # Taking the interpreter down in order takes seconds, and somebody waits.
    os._exit(0)


def is_of_trials(error: Exception, engine: EngineConfig) -> bool:
    """Return whether every trial would fail at this too, and not only this process on this machine at this moment.

    Args:
        error: What the model, the data or a step raised.
        engine: Of the experiment; what needs a GPU may fail for want of one here.
    """
    if engine.gpus_per_worker > 0 or "allocate" in str(error):
        return False
    # PyTorch's lack of memory and failures of networks are subclasses of RuntimeError; mistakes in shapes are not.
    return isinstance(error, MISTAKES) or type(error) is RuntimeError


def measure(config: ExperimentConfig, folder: Path, started_at: float, wait: Callable[[], object]) -> Pace:
    """Train a few steps in this process.

    Args:
        config: The experiment.
        folder: Where it may write.
        started_at: When the process was started, in seconds since the epoch.
        wait: Returns when model and data are to be loaded, and again when the steps are to be taken.
    """
    from irtune.training.distributed import select_accelerator

    select_accelerator(config.engine)
    import deepspeed  # noqa: F401

    from irtune.training.memory import estimate
    from irtune.training.pretrained import materialize
    from irtune.training.record import NoRecorder
    from irtune.training.run import prepared

    process_s = time.time() - started_at
    wait()
    rows = NUM_BATCHES * config.training.micro_batch_size
    dataset = config.data.load()
    dataset = replace(dataset, splits={split: revisions[:rows] for split, revisions in dataset.splits.items()})
    one_batch = config.training.model_copy(update={"gradient_accumulation_steps": 1})
    # Compiling takes longer than all of the rehearsal, and is not what a step takes.
    uncompiled = config.engine.model_copy(update={"compile": None})
    config = config.model_copy(update={"training": one_batch, "engine": uncompiled})
    begun_at = time.perf_counter()
    with prepared(config, folder, NoRecorder(), lambda metrics: None, folder, dataset) as loop:
        load_s = time.perf_counter() - begun_at
        every = loop.controller.all_blocks
        kinds = (every[len(every) // 2 :], every)
        wait()
        batch, length = loop.first_batch()["input_ids"].shape
        token_s = [_step_s(loop, active) / (batch * length) for active in kinds]
        flops = [loop.cost.step_flops(active, batch, length) / (batch * length) for active in kinds]
        return Pace(
            process_s,
            load_s,
            (flops[0], flops[1]),
            (token_s[0], token_s[1]),
            batch * length,
            float(loop.memory.sample()),
            estimate(materialize(config.model), config, batch, length).passing,
            loop.cost,
        )


def _step_s(loop: "Loop", active: Sequence[int]) -> float:
    """Seconds of an optimizer step in which these blocks train: the median of several where that is quick."""
    batch = loop.first_batch()
    loop.blocks.set_active(active)
    taken: list[float] = []
    while sum(taken) < ENOUGH_S:
        start = time.perf_counter()
        loss = loop.blocks.train_step([batch])
        loop.blocks.optimizer_step()
        # A GPU is done when the loss is here.
        float(loss)
        taken.append(time.perf_counter() - start)
    return float(np.median(taken))
