"""A checkpoint brings everything back, wherever it was written, and is never half there."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import ARCHITECTURES, classifier

from irtune.config.engine_schema import EngineConfig
from irtune.config.schema import AdapterConfig, ExperimentConfig, TrainingConfig
from irtune.layers import map_parameters
from irtune.training import checkpoint as checkpoints
from irtune.training import loop
from irtune.training.adapter import add_adapter
from irtune.training.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint
from irtune.training.distributed import ensure_process_group, select_accelerator
from irtune.training.engine import DeepSpeedBlocks
from irtune.training.optimizer_state import gather_state


def build(stage: int, precision: Any = "fp32", r: int = 4, targets: tuple[str, ...] = ("q_proj",)) -> DeepSpeedBlocks:
    engine = EngineConfig(zero_stage=stage, precision=precision)
    select_accelerator(engine)
    ensure_process_group(engine)
    adapter = AdapterConfig(r=r, dropout=0, target_modules=targets)
    two_blocks = ARCHITECTURES["llama"].settings | {"num_hidden_layers": 2, "hidden_size": 8}
    model = add_adapter(classifier("llama", two_blocks), adapter, train_head=True, seed=0)
    model = model.to(torch.bfloat16 if precision == "bf16" else torch.float32)
    training = TrainingConfig(max_steps=10, micro_batch_size=2, learning_rate=0.1, lr_schedule="linear")
    return DeepSpeedBlocks(model, map_parameters(model), training, engine)


def step(blocks: DeepSpeedBlocks) -> None:
    ids = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.tensor([0, 1])}
    blocks.train_step([batch])
    blocks.optimizer_step()


@pytest.fixture
def trained(tmp_path: Path) -> Iterator[DeepSpeedBlocks]:
    """Both blocks train for one step, then block 0 alone for two."""
    blocks = build(2)
    step(blocks)
    blocks.set_active([0])
    step(blocks)
    step(blocks)
    yield blocks
    blocks.destroy()


@pytest.mark.parametrize(("stage", "precision"), [(0, "fp32"), (0, "bf16"), (1, "fp32"), (2, "bf16"), (3, "fp32")])
def test_every_stage_takes_up_what_stage_2_saved(
    stage: int, precision: str, trained: DeepSpeedBlocks, tmp_path: Path
) -> None:
    saved = gather_state(trained)
    save_checkpoint(trained, tmp_path, 3, {"controller": {"active": [0]}})
    blocks = build(stage, precision)
    try:
        state = load_checkpoint(blocks, tmp_path / "step_000003")
        assert state == {"controller": {"active": [0]}, "step": 3, "world_size": 1, "zero_stage": 2}
        found = gather_state(blocks)
        assert all(torch.equal(found[key], saved[key]) for key in saved)
        assert found.keys() == saved.keys()
        with blocks.gathered([p for _, p in blocks.blocks.all()]):
            for name, parameter in blocks.blocks.all():
                assert torch.equal(parameter, saved[f"master/{name}"].to(parameter.dtype)), name
        # A linear schedule from 0.1 to 0 over 10 steps, after 3 of them.
        assert [group["lr"] for group in blocks.base_optimizer.param_groups] == pytest.approx([0.07] * 3)
    finally:
        blocks.destroy()


def test_the_file_holds_frozen_blocks_and_counts_the_steps_of_each(trained: DeepSpeedBlocks, tmp_path: Path) -> None:
    save_checkpoint(trained, tmp_path, 3, {})
    tensors = load_file(tmp_path / "step_000003" / "optimizer.safetensors")
    for index, steps in ((0, 3), (1, 1)):
        for name, parameter in trained.blocks.per_block[index]:
            assert tensors[f"step/{name}"] == steps
            assert tensors[f"master/{name}"].shape == parameter.shape
    assert len(tensors) == 4 * len(list(trained.blocks.all()))
    assert any(tensors[f"exp_avg/{name}"].any() for name, _ in trained.blocks.per_block[1])


@pytest.mark.parametrize("broken", ["save_file", "json"])
def test_a_save_that_breaks_off_leaves_the_checkpoint_before_it(
    broken: str, trained: DeepSpeedBlocks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_off(*arguments: Any) -> None:
        raise OSError("no space left on device")

    save_checkpoint(trained, tmp_path, 3, {})
    monkeypatch.setattr(
        checkpoints, broken, SimpleNamespace(dumps=break_off, loads=json.loads) if broken == "json" else break_off
    )
    with pytest.raises(OSError, match="no space"):
        save_checkpoint(trained, tmp_path, 4, {})
    assert latest_checkpoint(tmp_path) == tmp_path / "step_000003"
    monkeypatch.undo()
    save_checkpoint(trained, tmp_path, 5, {})
    assert latest_checkpoint(tmp_path) == tmp_path / "step_000005"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_000003", "step_000005"]


def test_the_newest_checkpoint_is_the_one_of_most_steps(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path) is None
    for name in ("step_999999", "step_1000000"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "complete.json").write_text("{}")
        save_file({"x": torch.ones(2)}, tmp_path / name / "optimizer.safetensors")
    assert latest_checkpoint(tmp_path) == tmp_path / "step_1000000"


@pytest.mark.parametrize("damaged", ["optimizer.safetensors", "complete.json"])
def test_of_a_damaged_checkpoint_the_one_before_it_is_taken(
    damaged: str, trained: DeepSpeedBlocks, tmp_path: Path
) -> None:
    for number in (3, 4, 5):
        save_checkpoint(trained, tmp_path, number, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_000004", "step_000005"]
    file = tmp_path / "step_000005" / damaged
    file.write_bytes(file.read_bytes()[:-10])
    assert latest_checkpoint(tmp_path) == tmp_path / "step_000004"
    (tmp_path / "step_000004" / damaged).unlink()
    assert latest_checkpoint(tmp_path) is None


def test_the_state_is_on_the_disk_before_the_file_that_says_so(
    trained: DeepSpeedBlocks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        order.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name.strip(".").partition(".")[0])
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    save_checkpoint(trained, tmp_path, 3, {})
    assert order == ["optimizer", "step_000003", "complete"]


@pytest.mark.parametrize(
    ("r", "targets", "told"),
    [(8, ("q_proj",), r"q_proj\.lora_A.*of shape \(4, 8\) in it, of shape \(8, 8\) here"), (4, ("v_proj",), "missing")],
)
def test_a_checkpoint_of_another_adapter_is_refused(
    r: int, targets: tuple[str, ...], told: str, trained: DeepSpeedBlocks, tmp_path: Path
) -> None:
    save_checkpoint(trained, tmp_path, 3, {})
    blocks = build(0, r=r, targets=targets)
    before = gather_state(blocks)
    try:
        with pytest.raises(ValueError, match=told):
            load_checkpoint(blocks, tmp_path / "step_000003")
        after = gather_state(blocks)
        assert all(torch.equal(before[key], after[key]) for key in before)
    finally:
        blocks.destroy()


def test_the_loss_scale_travels_between_stages(tmp_path: Path) -> None:
    """The scalers of fp16, which needs a GPU, on engines in bf16, which have them too and leave them alone."""
    source, target = build(1, "bf16"), build(0, "bf16")
    try:
        source.skips_overflow = target.skips_overflow = True
        source.engine.optimizer.loss_scaler.cur_scale = 64.0
        save_checkpoint(source, tmp_path, 1, {})
        assert json.loads((tmp_path / "step_000001" / "complete.json").read_text())["loss_scaler"] == {"cur_scale": 64}
        load_checkpoint(target, tmp_path / "step_000001")
        assert target.engine.optimizer.loss_scale == 64
    finally:
        source.destroy()
        target.destroy()


@pytest.mark.parametrize(("world_size", "skipped"), [(2, 5), (1, 10), (4, 3)])
def test_with_other_workers_the_data_goes_on_after_as_many_examples(
    world_size: int, skipped: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """5 steps of 2 workers with 4 examples each saw 40: 5 batches of 8, 10 of 4, and 3 of 16, the last one in part."""
    totals = {"step": 5, "examples": 40}
    monkeypatch.setattr(loop, "latest_checkpoint", lambda folder: folder)
    monkeypatch.setattr(loop, "load_checkpoint", lambda *_: {"controller": {}, "totals": totals})
    monkeypatch.setattr(loop.dist, "get_world_size", lambda: world_size)
    config = ExperimentConfig(training=TrainingConfig(micro_batch_size=4))
    resumed: list[int] = []
    fake: Any = SimpleNamespace(load_state_dict=lambda state: None, resumed=resumed.append, rank=0)
    stream = iter([np.array([index]) for index in range(20)])
    names = ("data", "class_names", "pad_token_id", "cost", "memory", "clock", "report", "prefix_cache")
    fields = dict.fromkeys(names)
    loop.Loop(config, tmp_path, fake, fake, recorder=fake, **fields)._resume(stream)  # type: ignore[arg-type]
    assert next(stream) == skipped
    assert resumed == [5]
