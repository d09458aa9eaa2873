"""The optimizer's kernel and what it keeps of frozen blocks: freezing stays exact, whatever is set."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import NUM_BLOCKS, classifier

from irtune.config.engine_schema import EngineConfig
from irtune.config.schema import AdapterConfig, TrainingConfig
from irtune.layers import map_parameters
from irtune.training.adapter import add_adapter
from irtune.training.checkpoint import load_checkpoint, save_checkpoint
from irtune.training.distributed import ensure_process_group, select_accelerator
from irtune.training.engine import DeepSpeedBlocks
from irtune.training.optimizer_state import gather_state

SETS = ([2, 3], [2, 3], [1, 3], [0, 2], [0, 2])
IDS = torch.arange(1, 33).reshape(4, 8)
BATCH = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS), "labels": torch.tensor([0, 1, 2, 0])}
STAGES: list[tuple[Any, Any]] = [(0, "fp32"), (0, "bf16"), (1, "bf16"), (2, "fp32"), (3, "fp32")]


@contextmanager
def built(stage: Any, precision: Any, *, frozen_state: Any = "keep", **engine: Any) -> Iterator[DeepSpeedBlocks]:
    config = EngineConfig(zero_stage=stage, precision=precision, **engine)
    select_accelerator(config)
    ensure_process_group(config)
    adapter = AdapterConfig(r=4, dropout=0, target_modules=("q_proj", "down_proj"))
    model = add_adapter(classifier("llama"), adapter, train_head=True, seed=0)
    model = model.to(torch.bfloat16 if precision == "bf16" else torch.float32)
    training = TrainingConfig(max_steps=10, micro_batch_size=4, learning_rate=0.02, weight_decay=0.1)
    blocks = DeepSpeedBlocks(model, map_parameters(model), training, config, frozen_state=frozen_state)
    try:
        yield blocks
    finally:
        blocks.destroy()


def train(blocks: DeepSpeedBlocks, sets: Sequence[Sequence[int]], *, reset: bool = False) -> None:
    """A step with each set of blocks; with ``reset``, those that train again start anew."""
    for active in sets:
        thawed = set(active) - set(blocks.active)
        blocks.set_active(active)
        if reset:
            blocks.reset_optimizer_state(sorted(thawed))
        blocks.train_step([BATCH])
        blocks.optimizer_step()


def stepped_blocks(blocks: DeepSpeedBlocks) -> set[int]:
    """Of which the optimizer keeps moments."""
    return {block for block, tensor, _ in blocks.stepped() if blocks.base_optimizer.state.get(tensor)}


@pytest.mark.parametrize(("stage", "precision"), STAGES)
def test_the_fused_kernel_freezes_exactly_and_trains_to_the_last_bits(stage, precision):
    found = []
    for fused in (True, False):
        with built(stage, precision, fused_optimizer=fused) as blocks:
            assert {group["fused"] for group in blocks.base_optimizer.param_groups} == {fused}
            train(blocks, SETS[:2])
            before = gather_state(blocks)
            train(blocks, SETS[2:3])
            after = gather_state(blocks)
            owners = {name: index for index, block in enumerate(blocks.blocks.per_block) for name, _ in block}
            for key, value in before.items():
                frozen = owners.get(key.partition("/")[2]) in (0, 2)
                moves = frozen or key.startswith("step/") or not value.any()
                assert torch.equal(value, after[key]) if frozen else moves or not torch.equal(value, after[key]), key
            assert {float(value) for key, value in after.items() if key.startswith("step/")} == {0.0, 1.0, 2.0, 3.0}
            found.append(after)
    tolerance = 1e-2 if precision == "bf16" else 1e-5
    for key, value in found[0].items():
        torch.testing.assert_close(value, found[1][key], rtol=tolerance, atol=tolerance / 10)


@pytest.mark.parametrize(("stage", "precision"), STAGES)
def test_dropping_is_resetting_at_the_thaw_without_the_memory(stage, precision):
    states = []
    for drop in (True, False):
        with built(stage, precision, frozen_state="drop" if drop else "keep") as blocks:
            train(blocks, SETS[:1], reset=not drop)
            assert stepped_blocks(blocks) == ({-1, 2, 3} if drop else {-1, *range(NUM_BLOCKS)})
            train(blocks, SETS[1:], reset=not drop)
            assert stepped_blocks(blocks) == ({-1, 0, 2} if drop else {-1, *range(NUM_BLOCKS)})
            states.append(
                (gather_state(blocks), {name for index in (0, 2) for name, _ in blocks.blocks.per_block[index]})
            )
    (dropped, trained), (kept, _) = states
    for key, value in dropped.items():
        name = key.partition("/")[2]
        if key.startswith("master/") or name in trained or ".score." in name:
            assert torch.equal(value, kept[key]), key
        else:
            assert not value.any(), key


@pytest.mark.parametrize(("stage", "precision"), [(0, "fp32"), (2, "bf16"), (3, "fp32")])
def test_what_was_dropped_is_not_in_a_checkpoint_and_a_resumed_run_goes_on_as_before(stage, precision, tmp_path: Path):
    with built(stage, precision, frozen_state="drop") as blocks:
        train(blocks, SETS[:3])
        save_checkpoint(blocks, tmp_path, 3, {})
        assert stepped_blocks(blocks) == {-1, 1, 3}
        train(blocks, SETS[3:])
        whole = gather_state(blocks)
    with built(stage, precision, frozen_state="drop") as blocks:
        load_checkpoint(blocks, tmp_path / "step_000003")
        blocks.set_active(SETS[2])
        assert stepped_blocks(blocks) == {-1, 1, 3}
        train(blocks, SETS[3:])
        resumed = gather_state(blocks)
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
