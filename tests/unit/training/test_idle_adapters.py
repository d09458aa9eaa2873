"""Adapters that add nothing are passed over, and nothing else changes: not even what dropout draws elsewhere."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from tiny_models import NUM_BLOCKS, classifier

from irtune.config.engine_schema import EngineConfig
from irtune.config.schema import AdapterConfig, TrainingConfig
from irtune.layers import map_parameters
from irtune.training.adapter import add_adapter
from irtune.training.distributed import ensure_process_group, select_accelerator
from irtune.training.engine import DeepSpeedBlocks
from irtune.training.model import enable_gradient_checkpointing

IDS = torch.arange(1, 33).reshape(4, 8)
BATCH = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS), "labels": torch.tensor([0, 1, 2, 0])}
UPPER_THEN_OTHERS = ([2, 3], [2, 3], [1, 3], [1, 3], [0])


@contextmanager
def built(
    *, skip: bool = True, stage: Any = 0, checkpointing: bool = False, precision: Any = "fp32", **adapter: Any
) -> Iterator[DeepSpeedBlocks]:
    engine = EngineConfig(zero_stage=stage, skip_idle_adapters=skip, precision=precision)
    select_accelerator(engine)
    ensure_process_group(engine)
    settings = {"r": 4, "dropout": 0.3, "target_modules": ("q_proj", "down_proj")} | adapter
    model = add_adapter(classifier("llama"), AdapterConfig(**settings), train_head=True, seed=0)
    if checkpointing:
        enable_gradient_checkpointing(model)
    model.train()
    training = TrainingConfig(max_steps=10, micro_batch_size=4, learning_rate=0.05, gradient_accumulation_steps=2)
    blocks = DeepSpeedBlocks(model, map_parameters(model), training, engine)
    try:
        yield blocks
    finally:
        blocks.destroy()


def trained(blocks: DeepSpeedBlocks, sets: Sequence[list[int]] = UPPER_THEN_OTHERS) -> list[torch.Tensor]:
    """Losses, and all weights in the end."""
    found = []
    for step, active in enumerate(sets):
        torch.manual_seed(step)
        blocks.set_active(active)
        found.append(blocks.train_step([BATCH, BATCH]))
        blocks.optimizer_step()
    parameters = [parameter for _, parameter in blocks.blocks.all()]
    with blocks.gathered(parameters):
        return [*found, *(parameter.detach().clone() for parameter in parameters)]


def layers(blocks: DeepSpeedBlocks) -> list[list[Any]]:
    return [[each for each in member.modules() if hasattr(each, "lora_B")] for member in blocks.members]


def passed_over(blocks: DeepSpeedBlocks) -> list[int]:
    """Blocks of which no adapter takes part in a forward pass."""
    calls = [0] * NUM_BLOCKS
    hooks = []
    for index, found in enumerate(layers(blocks)):
        for layer in found:

            def count(*_: Any, index: int = index) -> None:
                calls[index] += 1

            hooks.append(layer.lora_B["default"].register_forward_hook(count))
    with torch.no_grad():
        blocks.engine(**BATCH)
    for hook in hooks:
        hook.remove()
    return [index for index, number in enumerate(calls) if number == 0]


@pytest.mark.parametrize(
    ("stage", "checkpointing", "precision"),
    [(0, False, "fp32"), (0, True, "fp32"), (2, False, "bf16"), (3, False, "fp32"), (3, True, "fp32")],
)
def test_passing_over_changes_no_bit_with_dropout(stage, checkpointing, precision):
    runs = []
    for skip in (True, False):
        with built(skip=skip, stage=stage, checkpointing=checkpointing, precision=precision) as blocks:
            runs.append(trained(blocks))
    assert len(runs[0]) > len(UPPER_THEN_OTHERS)
    for with_skipping, without in zip(*runs, strict=True):
        assert torch.equal(with_skipping, without)


def test_checkpointing_draws_the_same_dropout_again():
    with built() as plain, built(checkpointing=True) as checkpointed:
        for one, other in zip(trained(plain), trained(checkpointed), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_a_block_keeps_its_dropout_whatever_the_blocks_below_draw():
    drawn = []
    for lower in (0.3, 0.0):
        with built() as blocks:
            for layer in layers(blocks)[0]:
                layer.lora_dropout["default"].p = lower
            seen: list[torch.Tensor] = []
            dropout = layers(blocks)[2][0].lora_dropout["default"]
            dropout.register_forward_hook(lambda _, args, output, seen=seen: seen.append(output == 0))
            torch.manual_seed(7)
            blocks.train_step([BATCH, BATCH])
            drawn.append(seen)
    assert 0.2 < drawn[0][0].float().mean() < 0.4
    assert not torch.equal(drawn[0][0], drawn[0][1])
    assert all(torch.equal(one, other) for one, other in zip(*drawn, strict=True))


def test_blocks_draw_different_dropout():
    with built() as blocks:
        seen: list[torch.Tensor] = []
        for index in range(NUM_BLOCKS):
            dropout = layers(blocks)[index][0].lora_dropout["default"]
            dropout.register_forward_hook(lambda _, args, output: seen.append(output == 0))
        blocks.train_step([BATCH, BATCH])
    assert len(seen) == 2 * NUM_BLOCKS
    assert not any(torch.equal(seen[one], seen[two]) for one in range(len(seen)) for two in range(one))


def test_only_what_never_trained_in_blocks_that_do_not_train_is_passed_over():
    with built() as blocks:
        assert passed_over(blocks) == []
        blocks.set_active([2, 3])
        assert passed_over(blocks) == [0, 1]
        trained(blocks, [[2]])
        assert passed_over(blocks) == [0, 1, 3]
        blocks.set_active([0])
        # Block 2 has trained, so what it learnt stays in the pass.
        assert passed_over(blocks) == [1, 3]
        with blocks.probing(BATCH, gradients=True):
            assert all(gradient.any() for name, gradient in blocks.local_gradients().items() if "lora_B" in name)
        assert passed_over(blocks) == [1, 3]
        blocks.set_active(range(NUM_BLOCKS))
        assert passed_over(blocks) == []


def test_nothing_is_passed_over_where_that_was_switched_off():
    with built(skip=False) as blocks:
        blocks.set_active([3])
        assert passed_over(blocks) == []


@pytest.mark.parametrize("adapter", [{"type": "dora", "dropout": 0.0}, {"options": {"init_lora_weights": "olora"}}])
def test_adapters_that_add_something_from_the_start_stay(adapter):
    with built(**adapter) as blocks:
        blocks.set_active([3])
        assert passed_over(blocks) == []


def test_weights_that_were_loaded_count():
    with built() as blocks:
        blocks.set_active([3])
        with torch.no_grad():
            layers(blocks)[1][1].lora_B["default"].weight[0, 0] = 1e-30
        blocks.set_active([3])
        assert passed_over(blocks) == [0, 2]
