"""Blocks compiled one by one: a handful of graphs for any selection, the training of uncompiled ones, or a warning.

PyTorch's ``aot_eager`` traces forward and backward passes as ``inductor`` does; ``eager``, which is quicker, forward
passes alone. Both then call the same kernels, so that results are equal bit for bit, and need no C++ compiler.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from saying import says
from tiny_models import classifier

from irtune.config.engine_schema import EngineConfig
from irtune.config.schema import AdapterConfig, ExperimentConfig, TrainingConfig
from irtune.layers import compiled_blocks, map_parameters
from irtune.layers.compile_versions import too_old
from irtune.layers.compiled_blocks import CompiledBlocks, check_compiled
from irtune.training import compile_checks
from irtune.training.adapter import add_adapter
from irtune.training.compile_checks import check_compile
from irtune.training.distributed import ensure_process_group, select_accelerator
from irtune.training.engine import DeepSpeedBlocks
from irtune.training.shared_prefix import SharedPrefix, sharing_of

SHARED = 8
SETS = ([2, 3], [0, 3], [1], [0, 1, 2, 3], [3])


@pytest.fixture(autouse=True)
def _backend(monkeypatch):
    monkeypatch.setattr(compiled_blocks, "BACKEND", "eager")
    yield
    torch._dynamo.reset()


def batch(rows: int = 3, length: int = 12) -> dict[str, torch.Tensor]:
    ids = torch.randint(3, 60, (rows, length), generator=torch.Generator().manual_seed(rows * length))
    ids[:, :SHARED] = torch.arange(3, 3 + SHARED)
    mask = torch.ones_like(ids)
    mask[0, SHARED + 1 :] = 0
    return {"input_ids": ids * mask, "attention_mask": mask, "labels": torch.arange(rows) % 3}


@contextmanager
def built(*, compile: Any = "blocks", stage: Any = 0, shares: bool = False, **adapter: Any) -> Iterator[Any]:
    engine = EngineConfig(compile=compile, zero_stage=stage)
    select_accelerator(engine)
    ensure_process_group(engine)
    settings = {"r": 2, "dropout": 0.0, "target_modules": ("down_proj",)} | adapter
    model = add_adapter(classifier("llama"), AdapterConfig(**settings), train_head=True, seed=0).train()
    sharing = sharing_of(model, shares, SHARED, 64)
    prefix = SharedPrefix(model, np.arange(3, 3 + SHARED), sharing)
    training = TrainingConfig(max_steps=10, micro_batch_size=4, learning_rate=0.05)
    blocks = DeepSpeedBlocks(model, map_parameters(model), training, engine, prefix=prefix)
    try:
        yield blocks
    finally:
        blocks.destroy()


def trained(blocks: Any, sets: Any = SETS) -> list[torch.Tensor]:
    """Losses of steps over ever other lengths, and all weights in the end."""
    found = []
    for step, active in enumerate(sets):
        torch.manual_seed(step)
        blocks.set_active(active)
        found.append(blocks.train_step([batch(3 + step % 2, 11 + 3 * step)]))
        blocks.optimizer_step()
    return [*found, *(parameter.detach().clone() for _, parameter in blocks.blocks.all())]


def is_as_uncompiled(found: list[torch.Tensor], sets: Any, **settings: Any) -> bool:
    with built(compile=None, **settings) as blocks:
        return all(map(torch.equal, found, trained(blocks, sets)))


def test_any_selection_and_length_takes_a_handful_of_graphs_and_trains_as_uncompiled():
    with built(dropout=0.3) as blocks:
        check_compiled(blocks, batch())
        before, seen = blocks.compiled.num_graphs, []
        # Hooks in blocks are called in evaluations and probes, which run uncompiled.
        hook = blocks.members[1].mlp.down_proj.register_forward_hook(lambda *_: seen.append(torch.is_grad_enabled()))
        with blocks.probing(batch(), gradients=True):
            pass
        blocks.engine.eval()
        with torch.no_grad():
            blocks.outputs(**{key: value for key, value in batch().items() if key != "labels"})
        blocks.engine.train()
        hook.remove()
        assert seen == [True, False]
        assert blocks.compiled.num_graphs == before
        found, graphs = trained(blocks, SETS), blocks.compiled.num_graphs
        # Trained, frozen or passed over; with or without something that trains below.
        assert 2 <= graphs <= 6
        assert blocks.description()["compile"] == f"blocks, {graphs} graphs"
    assert is_as_uncompiled(found, SETS, dropout=0.3)


def test_a_shared_prefix_and_zero_stage_2_are_compiled_too(monkeypatch):
    monkeypatch.setattr(compiled_blocks, "BACKEND", "aot_eager")
    sets = ([2, 3], [0, 1, 2, 3], [2, 3])
    settings = {"shares": True, "stage": 2, "options": {"init_lora_weights": False}}
    with built(**settings) as blocks:
        found = trained(blocks, sets)
        assert 2 <= blocks.compiled.num_graphs <= 3
        assert not blocks.compiled.why_not
    assert is_as_uncompiled(found, sets, **settings)


def test_wrong_gradients_are_found_before_training_and_blocks_go_on_uncompiled(caplog):
    compiled = CompiledBlocks([])

    def gradients(active):
        """As PyTorch 2.11: a graph in which a block was frozen is used again once it trains."""
        stale = compiled._on and active == (0, 1)
        return {f"block {index}": torch.ones(2) for index in active if not (stale and index == 0)}

    with caplog.at_level(logging.WARNING):
        compiled.check(gradients, 4, lambda reason: [reason])
    (warned,) = [record.getMessage() for record in caplog.records]
    assert says(warned, "engine.compile", "blocks 0 to 1", "1 parameters instead of 2")
    assert compiled.in_words().startswith("uncompiled: with blocks 0 to 1 training")
    with compiled.paused():
        pass
    assert not compiled._on


def test_one_rank_that_fails_makes_all_go_on_uncompiled():
    compiled = CompiledBlocks([])
    gradients = {"weight": torch.ones(2)}
    compiled.check(lambda active: gradients, 2, lambda reason: [reason, "the other's"])
    assert compiled.in_words() == "uncompiled: the other's"
    compiled = CompiledBlocks([])

    def broken(active):
        if compiled._on:
            raise RuntimeError("no backward pass")
        return gradients

    compiled.check(broken, 2, lambda reason: [reason])
    assert compiled.in_words() == "uncompiled: RuntimeError: no backward pass"
    # Half precision rounds coarsely, and nothing makes up for what is not a number.
    for scale, dtype, fails in [
        (1.01, torch.float32, True),
        (1.01, torch.bfloat16, False),
        (float("nan"), torch.bfloat16, True),
    ]:
        compiled = CompiledBlocks([])
        answers = iter([torch.ones(2, dtype=dtype), scale * torch.ones(2, dtype=dtype)] * 4)
        compiled.check(lambda active, answers=answers: {"weight": next(answers)}, 2, lambda reason: [reason])
        assert bool(compiled.why_not) == fails


def test_a_compiler_that_fails_or_gives_up_is_told_of_once(caplog):
    def broken(graph, inputs):
        raise RuntimeError("no compiler")

    block, rows = torch.nn.Linear(2, 2), torch.ones(3, 2)
    own = block.forward
    for backend, limit, said in [(broken, 8, "no compiler"), ("aot_eager", 1, "1 of 2 graphs")]:
        caplog.clear()
        compiled = CompiledBlocks([block], backend=backend)
        patched = torch._dynamo.config.patch(recompile_limit=limit)
        with patched, caplog.at_level(logging.WARNING, logger=compiled_blocks.__name__):
            for trains in (True, False, True):
                block.requires_grad_(trains)
                assert torch.equal(block(rows), torch.nn.functional.linear(rows, block.weight, block.bias))
                compiled.look()
        told = [record.getMessage() for record in caplog.records if record.name == compiled_blocks.__name__]
        assert len(told) == 1
        assert says(told[0], "engine.compile", said)
        compiled.release()
        compiled.release()
        assert block.forward == own
        torch._dynamo.reset()
    assert torch._dynamo.config.recompile_limit == 8


def test_what_cannot_be_compiled_is_refused_by_name(monkeypatch):
    assert says(too_old("2.11.1+cpu"), "2.11.1", "139476", "torch>=2.12")
    assert [too_old(version) for version in ("2.12.0", "2.13.0+cpu", "3.0")] == [""] * 3

    def config(**engine: Any) -> ExperimentConfig:
        model = {"name": "tiny-random", "gradient_checkpointing": engine.pop("checkpointing", False)}
        return ExperimentConfig.model_validate({"model": model, "engine": {"compile": "blocks", **engine}})

    monkeypatch.setenv("CXX", "python3")
    check_compile(config())
    monkeypatch.setenv("CXX", "g++-that-is-not-there")
    monkeypatch.setattr(compile_checks, "version", lambda name: "2.10.0")
    with pytest.raises(ValueError, match=r"engine\.compile") as caught:
        check_compile(config(zero_stage=3, checkpointing=True))
    lines = str(caught.value).splitlines()
    facts = ["torch>=2.12", "engine.zero_stage=2", "model.gradient_checkpointing=false", "g++-that-is-not-there"]
    assert all(says(line, "engine.compile", fact) for line, fact in zip(lines, facts, strict=True))
