"""A few steps of the real model on this machine, in a process of their own: what a run will take, measured.

The process is this module run as a program. It imports at once what training needs, so that whoever has things to
import and checks to make does so at the same time; hence nothing heavy is imported at the top of this file. Nothing of
it stays: it writes to a temporary folder.
"""

import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from irtune.config.schema import EngineConfig, ExperimentConfig
from irtune.data.base import RevisionDataset

if TYPE_CHECKING:
    from irtune.training.estimate import StepEstimate, Times
    from irtune.training.loop import Loop

LIMIT_S = 180.0
"""How long a rehearsal may take."""

ENOUGH_S = 2.0
"""Where a first step took less than half of this, it only warmed up, and steps for about this long are measured."""

MAX_STEPS = 20
NUM_BATCHES = 3
"""Batches of different lengths that those steps take in turn."""


class RehearsalError(Exception):
    """Nothing could be measured; the message says why."""


class Rehearsal:
    """A process that trains for a few steps when it is asked to. It ends with the context.

    Args:
        engine: What it trains on.
        limit_s: How long the answer may take.
    """

    def __init__(self, engine: EngineConfig, limit_s: float = LIMIT_S) -> None:
        self._limit_s = limit_s
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        threads = str(max(1, int(engine.cpus_per_worker)))
        # DeepSpeed looks for an accelerator as it is imported.
        accelerator = {} if engine.gpus_per_worker else {"DS_ACCELERATOR": "cpu"}
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            # Policies and signals of the user's own are found where they are found here.
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": threads} | accelerator,
        )

    def __enter__(self) -> "Rehearsal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def begin(self, config: ExperimentConfig) -> None:
        """Start measuring; once only.

        Args:
            config: What to train: the baseline, which needs the most.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(pickle.dumps(config))
            self._process.stdin.close()
        except BrokenPipeError:
            # It has died; ``result`` says of what.
            pass
        self._process.stdin = None

    def result(self) -> "StepEstimate":
        """What was measured.

        Raises:
            RehearsalError: If that failed or took too long.
        """
        try:
            answer, _ = self._process.communicate(timeout=self._limit_s)
        except subprocess.TimeoutExpired as error:
            raise RehearsalError(f"a step of the real model was not over after {self._limit_s:g} s") from error
        if self._process.returncode != 0:
            self._errors.seek(0)
            lines = self._errors.read().decode(errors="replace").strip().splitlines()
            raise RehearsalError(f"measuring failed: {lines[-1] if lines else f'status {self._process.returncode}'}")
        estimate: StepEstimate = pickle.loads(answer)
        return estimate


def sample(config: ExperimentConfig, dataset: RevisionDataset) -> RevisionDataset:
    """A few rows of each split, spread evenly over their lengths in characters, the longest among them."""
    training = config.training
    wanted = {
        "train": NUM_BATCHES * training.micro_batch_size,
        "validation": min(training.micro_batch_size, training.eval_batch_size),
        "test": 1,
    }
    chosen = {}
    for split, revisions in dataset.splits.items():
        by_length = np.argsort([len(dataset.prompt(revision)) for revision in revisions], kind="stable")
        rows = by_length[np.linspace(len(by_length) - 1, 0, wanted[split]).round().astype(int)]
        chosen[split] = tuple(revisions[row] for row in rows)
    return replace(dataset, splits=chosen)


def rehearse(config: ExperimentConfig, process_s: float, folder: Path) -> "StepEstimate":
    """Train a few steps, score a batch, save a checkpoint and the adapter, in this process.

    Args:
        config: What to train.
        process_s: Seconds that this process took to where it could train.
        folder: For what a run writes.

    Raises:
        ValueError: If the model does not fit into memory.
    """
    from irtune.training.estimate import StepEstimate
    from irtune.training.run import prepared

    _check_memory(config)
    dataset, notes = sample(config, config.data.load()), _Notes()
    recorder: Any = notes
    called_at = time.perf_counter()
    with prepared(_brief(config, 1), dataset, folder, recorder, lambda metrics: None, folder / "encoded") as loop:
        start_s = time.perf_counter() - called_at
        measured = _train(loop, notes)
        times = _times(loop, notes, measured, process_s, start_s)
    steps = f"{len(measured)} step{'s' if len(measured) > 1 else ''} of the real model on this machine"
    alone = "" if config.engine.num_workers == 1 else "; one worker by itself, without what workers send each other"
    return StepEstimate("measured", steps + alone, notes.memory_bytes, times)


def _check_memory(config: ExperimentConfig) -> None:
    import psutil

    from irtune.training.model import materialize

    if config.engine.gpus_per_worker:
        return
    weights = 2 * sum(file.stat().st_size for file in materialize(config.model).glob("*.safetensors"))
    free = psutil.virtual_memory().available
    if weights > free:
        raise ValueError(f"the model's weights (up to {weights / 2**30:.1f} GiB) need more than the free memory here")


def _brief(config: ExperimentConfig, num_steps: int) -> ExperimentConfig:
    """The run cut to ``num_steps``, with one evaluation at its end and no checkpoint."""
    never = num_steps + 1
    brief = {"max_steps": num_steps, "eval_every": never, "checkpoint_every": never, "log_every": 1}
    training = config.training.model_copy(update=brief | {"gradient_accumulation_steps": 1})
    return config.model_copy(update={"training": training})


class _Notes:
    """A recorder that notes how long steps and evaluations took."""

    def __init__(self) -> None:
        self.steps: list[tuple[float, float]] = []
        self.evaluation_s = 0.0
        self.memory_bytes = 0.0
        self._latest = 0.0

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Take seconds and FLOPs of a step, or that an evaluation has followed it."""
        now = time.perf_counter()
        if "cost/step_s" in values:
            self.steps.append((values["cost/step_s"], values["cost/step_flops"]))
            self.memory_bytes = max(self.memory_bytes, values["cost/memory_bytes"])
        else:
            self.evaluation_s = now - self._latest
        self._latest = now

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: None


def _train(loop: "Loop", notes: _Notes) -> Sequence[tuple[float, float]]:
    """Seconds and FLOPs of the steps that count: one of middling length, or where that is quick more of all lengths."""
    from irtune.data.encode import EncodedSplit

    everything, size = dict(loop.data), loop.config.training.micro_batch_size
    train = everything["train"]
    # Rows are in the order of their lengths.
    first, last = train.offsets[size], train.offsets[2 * size]
    middle = EncodedSplit(
        train.token_ids[first:last], train.offsets[size : 2 * size + 1] - first, train.labels[size : 2 * size]
    )
    loop.data = everything | {"train": middle}
    loop.run()
    seconds = notes.steps[0][0]
    if seconds >= ENOUGH_S / 2:
        return notes.steps
    loop.data = everything
    loop.config = _brief(loop.config, 1 + min(MAX_STEPS, int(ENOUGH_S / seconds)))
    loop.run()
    return notes.steps[1:]


def _times(
    loop: "Loop", notes: _Notes, steps: Sequence[tuple[float, float]], process_s: float, start_s: float
) -> "Times":
    from irtune.training.checkpoint import save_adapter, save_checkpoint
    from irtune.training.estimate import Times
    from irtune.training.loop import BEST_WEIGHTS
    from irtune.training.workload import evaluation_flops

    config = loop.config
    begun_at = time.perf_counter()
    save_checkpoint(loop.blocks, loop.folder / "saved", 1, {"controller": loop.controller.state_dict()})
    saved_at = time.perf_counter()
    save_adapter(loop.blocks, loop.folder / "adapter", loop.folder / BEST_WEIGHTS, {})
    kept_at = time.perf_counter()
    return Times(
        process_s=process_s,
        start_s=start_s,
        step_s=float(np.mean([seconds for seconds, _ in steps])),
        step_flops=float(np.mean([flops for _, flops in steps])),
        evaluation_s=notes.evaluation_s,
        evaluation_flops=evaluation_flops(loop.cost, loop.data["validation"].lengths, config.training.eval_batch_size),
        checkpoint_s=saved_at - begun_at,
        finish_s=kept_at - saved_at,
    )


def main() -> None:
    """Import, wait for a configuration on standard input, and answer on standard output."""
    import psutil

    # What libraries print must not get between the answer's bytes.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    if sys.platform == "linux":
        # Should memory run out after all, this process is the one to go.
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    # DeepSpeed's autotuner, which nothing uses here, would import it, and that takes longer than the rest of DeepSpeed.
    sys.modules["mlflow"] = None  # type: ignore[assignment]
    import deepspeed  # noqa: F401

    import irtune.training.run  # noqa: F401

    process_s = time.time() - psutil.Process().create_time()
    task = sys.stdin.buffer.read()
    if task:
        with tempfile.TemporaryDirectory(prefix="irtune-rehearsal-") as folder:
            estimate = rehearse(pickle.loads(task), process_s, Path(folder))
        answers.write(pickle.dumps(estimate))
        answers.close()
    # Taking the interpreter down in order takes seconds, and somebody waits.
    os._exit(0)


if __name__ == "__main__":
    main()
