"""A few steps of the real model on this machine, in a process of their own: what a run will take, measured.

The process is this module run as a program. It imports at once what training needs, and then waits for its task, so
that whoever has things to import and checks to make before does both at the same time; hence nothing heavy is imported
at the top of this file. Nothing of it stays: it writes to a temporary folder.
"""

import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from irtune.config.schema import EngineConfig, ExperimentConfig
from irtune.data.base import RevisionDataset, Split

if TYPE_CHECKING:
    from irtune.training.cost import CostModel
    from irtune.training.estimate import StepEstimate

STEPS = 3
"""Optimizer steps of a rehearsal; the first warms up, and is not counted."""

LIMIT_S = 120.0
"""How long a rehearsal may take."""


class RehearsalError(Exception):
    """Nothing could be measured; the message says why."""


class Rehearsal:
    """A process that trains for a few steps when it is asked to. It ends with the context.

    Args:
        engine: What it trains on.
        limit_s: How long that may take.
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

    def measure(
        self, config: ExperimentConfig, dataset: RevisionDataset, lengths: Mapping[Split, np.ndarray], cost: "CostModel"
    ) -> "StepEstimate":
        """Train a few steps, score a batch, save a checkpoint and the adapter. Once only.

        Args:
            config: What to train: the baseline, which needs the most.
            dataset: Its data, of which some rows are taken whose lengths are spread like those of all.
            lengths: Tokens of each example ``(N,)`` of each split.
            cost: FLOPs of the model.

        Raises:
            RehearsalError: If that failed or took too long.
        """
        from irtune.training.estimate import StepEstimate, from_marks
        from irtune.training.workload import evaluation_flops

        rows = _rows(config, lengths)
        splits = {split: tuple(dataset.splits[split][row] for row in chosen) for split, chosen in rows.items()}
        marks = self._ask(pickle.dumps((_shortened(config), replace(dataset, splits=splits))))
        scored = lengths["validation"][rows["validation"]]
        times = from_marks(marks, evaluation_flops(cost, scored, config.training.eval_batch_size))
        alone = "" if config.engine.num_workers == 1 else "; one worker by itself, without what workers send each other"
        how = f"{STEPS} steps of the real model on this machine{alone}"
        return StepEstimate("measured", how, marks["memory_bytes"], times)

    def _ask(self, task: bytes) -> dict[str, Any]:
        try:
            answer, _ = self._process.communicate(task, timeout=self._limit_s)
        except subprocess.TimeoutExpired as error:
            raise RehearsalError(f"{STEPS} steps of the real model took longer than {self._limit_s:.0f} s") from error
        if self._process.returncode != 0:
            self._errors.seek(0)
            lines = self._errors.read().decode(errors="replace").strip().splitlines()
            raise RehearsalError(f"measuring failed: {lines[-1] if lines else f'status {self._process.returncode}'}")
        marks: dict[str, Any] = pickle.loads(answer)
        return marks


def _rows(config: ExperimentConfig, lengths: Mapping[Split, np.ndarray]) -> dict[Split, np.ndarray]:
    """Which rows of each split a rehearsal takes: spread evenly over the lengths, the longest among them."""
    wanted: dict[Split, int] = {
        "train": STEPS * config.training.micro_batch_size,
        "validation": config.training.eval_batch_size,
        "test": 1,
    }
    chosen = {}
    for split, count in wanted.items():
        by_length = np.argsort(lengths[split], kind="stable")
        chosen[split] = by_length[np.linspace(len(by_length) - 1, 0, count).round().astype(int)]
    return chosen


def _shortened(config: ExperimentConfig) -> ExperimentConfig:
    training = config.training.model_copy(
        update={
            "max_steps": STEPS,
            "gradient_accumulation_steps": 1,
            "eval_every": STEPS,
            "checkpoint_every": STEPS - 1,
            "log_every": 1,
        }
    )
    return config.model_copy(update={"training": training})


class _Notes:
    """A recorder that notes when what was reached."""

    def __init__(self) -> None:
        self.began_at = 0.0
        self.evaluated_at = 0.0
        self.memory_bytes = 0.0
        self.steps: list[tuple[float, float, float]] = []

    def params(self, values: Mapping[str, Any]) -> None:
        self.began_at = time.perf_counter()

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        now = time.perf_counter()
        if "cost/step_s" in values:
            self.steps.append((values["cost/step_s"], values["cost/step_flops"], now))
            self.memory_bytes = max(self.memory_bytes, values["cost/memory_bytes"])
        elif "eval/loss" in values:
            self.evaluated_at = now

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: None


def _rehearse(process_s: float, config: ExperimentConfig, dataset: RevisionDataset) -> dict[str, Any]:
    from irtune.training.run import run

    notes: Any = _Notes()
    with tempfile.TemporaryDirectory(prefix="irtune-rehearsal-") as folder:
        called_at = time.perf_counter()
        run(config, folder=Path(folder), recorder=notes, dataset=dataset)
        over_at = time.perf_counter()
    return {
        "process_s": process_s,
        "start_s": notes.began_at - called_at,
        "steps": notes.steps,
        "evaluated_at": notes.evaluated_at,
        "finish_s": over_at - notes.evaluated_at,
        "memory_bytes": notes.memory_bytes,
    }


def main() -> None:
    """Import, wait for the task on standard input, and answer on standard output."""
    import psutil

    # What libraries print must not get between the answer's bytes.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    import deepspeed  # noqa: F401

    import irtune.training.run  # noqa: F401

    process_s = time.time() - psutil.Process().create_time()
    task = sys.stdin.buffer.read()
    if task:
        answers.write(pickle.dumps(_rehearse(process_s, *pickle.loads(task))))
        answers.close()


if __name__ == "__main__":
    main()
