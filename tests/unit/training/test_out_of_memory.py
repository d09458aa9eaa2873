"""A lack of accelerator memory is written down, and smaller micro-batches are tried once where that is allowed."""

from pathlib import Path
from typing import Any

import pytest
import torch

from irtune.config.load import load
from irtune.config.schema import ExperimentConfig
from irtune.training.out_of_memory import out_of_memory, remembered, smaller_micro_batches


def config(size: int, on_out_of_memory: str = "smaller_micro_batches", **settings: Any) -> ExperimentConfig:
    return load(
        ExperimentConfig,
        None,
        {"training.micro_batch_size": size, "training.on_out_of_memory": on_out_of_memory, **settings},
    )


def lack(folder: Path, found: ExperimentConfig) -> None:
    with pytest.raises(torch.OutOfMemoryError), remembered(folder, found):
        raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize(("size", "smaller", "accumulated"), [(8, 4, 2), (9, 3, 3), (7, 1, 7)])
def test_a_retry_sees_as_many_examples_a_step(tmp_path: Path, size: int, smaller: int, accumulated: int) -> None:
    before = config(size, **{"training.gradient_accumulation_steps": 2})
    lack(tmp_path, before)
    now = smaller_micro_batches(tmp_path, before).training
    assert (now.micro_batch_size, now.gradient_accumulation_steps) == (smaller, 2 * accumulated)
    # A second lack does not make them smaller again, since the sweep's configuration is what is made smaller.
    lack(tmp_path, config(smaller))
    assert smaller_micro_batches(tmp_path, before).training.micro_batch_size == smaller


def test_nothing_changes_unless_memory_lacked_and_it_is_allowed(tmp_path: Path) -> None:
    assert smaller_micro_batches(tmp_path, config(8)) == config(8)
    with pytest.raises(RuntimeError), remembered(tmp_path, config(8)):
        raise RuntimeError("something else")
    assert out_of_memory(tmp_path) is None
    lack(tmp_path, config(8))
    assert smaller_micro_batches(tmp_path, config(8, "fail")) == config(8, "fail")
    assert smaller_micro_batches(tmp_path, config(1)) == config(1)
    found = out_of_memory(tmp_path)
    assert found is not None
    assert (found.micro_batch_size, found.error) == (8, "CUDA out of memory")
