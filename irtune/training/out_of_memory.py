"""What a run does about too little accelerator memory: it writes that down, and may try smaller micro-batches."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from irtune.config.load import with_overrides
from irtune.config.schema import ExperimentConfig
from irtune.files import read_json, write_json

OUT_OF_MEMORY = "out_of_memory.json"


@dataclass(frozen=True)
class OutOfMemory:
    """That memory did not suffice.

    Args:
        micro_batch_size: For micro-batches of so many examples.
        error: As PyTorch says it.
    """

    micro_batch_size: int
    error: str


@contextlib.contextmanager
def remembered(folder: Path, config: ExperimentConfig) -> Iterator[None]:
    """Write down in the run's folder if memory does not suffice, whichever rank it is that has too little."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        write_json(folder / OUT_OF_MEMORY, OutOfMemory(config.training.micro_batch_size, str(error)))
        raise


def out_of_memory(folder: Path) -> OutOfMemory | None:
    """Whether memory did not suffice in an earlier attempt of the run in this folder."""
    file = folder / OUT_OF_MEMORY
    return read_json(file, OutOfMemory) if file.is_file() else None


def smaller_micro_batches(folder: Path, config: ExperimentConfig) -> ExperimentConfig:
    """The configuration to try now: after a lack of memory, and if that is allowed, one with smaller micro-batches.

    As many more of them make an optimizer step, so that it sees as many examples. They are made smaller once.
    """
    lack, size = out_of_memory(folder), config.training.micro_batch_size
    if lack is None or config.training.on_out_of_memory == "fail" or size == 1:
        return config
    parts = next(divisor for divisor in range(2, size + 1) if size % divisor == 0)
    accumulated = config.training.gradient_accumulation_steps * parts
    return with_overrides(
        config,
        {"training.micro_batch_size": size // parts, "training.gradient_accumulation_steps": accumulated},
    )
