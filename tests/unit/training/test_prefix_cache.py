"""States below the lowest block that ever trains: the same results without computing them, or by computing them."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from saying import says
from tiny_models import ARCHITECTURES, NUM_BLOCKS, NUM_LABELS, VOCABULARY, classifier
from torch.utils.flop_counter import FlopCounterMode

from irtune.config.schema import AdapterConfig, ExperimentConfig
from irtune.data.batches import evaluation_batches
from irtune.data.common_tokens import common_tokens
from irtune.data.encode import EncodedDataset, EncodedSplit
from irtune.layers import map_parameters
from irtune.training.adapter import add_adapter
from irtune.training.cost import CostModel
from irtune.training.distributed import ensure_process_group, select_accelerator
from irtune.training.engine import DeepSpeedBlocks
from irtune.training.model import enable_gradient_checkpointing
from irtune.training.prefix_cache import PrefixCache
from irtune.training.prefix_reuse import Reuse, reuse_of
from irtune.training.shared_prefix import SharedPrefix, sharing_of
from irtune.training.state_file import StateFile

LOWEST = 2
ABOVE = (2, 3)
SIZES = {"train": 11, "validation": 7, "test": 2}
BATCH = 3
EXPERTS = {"mixtral"}
HAND_ON_MORE = {"bloom", "falcon"}
"""Their blocks also give attention weights, where attention is eager."""


def encoded(seed: int = 0) -> EncodedDataset:
    """Examples of 10 to 20 tokens, of which the first nine are common to all."""
    generator = np.random.default_rng(seed)
    splits: dict[Any, EncodedSplit] = {}
    for split, size in SIZES.items():
        rows = [np.r_[3:12, generator.integers(12, VOCABULARY, generator.integers(1, 12))] for _ in range(size)]
        rows[0][9], rows[1][9] = 12, 13
        splits[split] = EncodedSplit(
            np.concatenate(rows).astype(np.int32), np.cumsum([0, *map(len, rows)]), np.arange(size) % NUM_LABELS
        )
    return EncodedDataset(splits, 20, None, 0, 0, False)


class Run:
    """A trainer whose passes go through a cache, as those of the loop do."""

    def __init__(
        self,
        folder: Path,
        setting: Any = "auto",
        *,
        model: str = "llama",
        lowest: int = LOWEST,
        data: EncodedDataset | None = None,
        checkpointing: bool = False,
        seed: int = 0,
        adapter: dict[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        self.data = data or encoded()
        training = {"max_steps": 10, "micro_batch_size": BATCH, "eval_batch_size": BATCH, "learning_rate": 1e-3}
        training["gradient_accumulation_steps"] = 2
        config = ExperimentConfig.model_validate(
            {"engine": {"prefix_cache": setting, **settings}, "training": training}
        )
        select_accelerator(config.engine)
        ensure_process_group(config.engine)
        base = classifier(model, seed=seed)
        for module in base.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        tuned = {"r": 2, "dropout": 0.3, "target_modules": "all-linear"} | (adapter or {})
        wrapped = add_adapter(base, AdapterConfig.model_validate(tuned), train_head=True, seed=0)
        if checkpointing:
            enable_gradient_checkpointing(wrapped)
        wrapped.train()
        self.computed: list[int] = []
        common = common_tokens(self.data)
        sharing = sharing_of(wrapped, config.engine.share_prefix, len(common), 20)
        reuse = reuse_of(wrapped, config.engine).above(lowest)
        self.blocks = DeepSpeedBlocks(
            wrapped,
            map_parameters(wrapped),
            config.training,
            config.engine,
            prefix=SharedPrefix(wrapped, common, sharing),
        )
        self.cache = PrefixCache(self.blocks, reuse, self.data, 0, sharing, config, folder)
        self.blocks.set_active(range(LOWEST, NUM_BLOCKS))
        for index, member in enumerate(self.blocks.members):
            for module in member.modules():
                if hasattr(module, "lora_A"):
                    module.register_forward_hook(lambda *_, index=index: self.computed.append(index))

    def batch(self, split: Any, indices: np.ndarray) -> dict[str, torch.Tensor]:
        arrays = self.data.splits[split].collate(indices, 0)
        inputs = {name: torch.from_numpy(array) for name, array in arrays.items()}
        self.cache.remember(inputs, split, indices)
        return inputs

    def evaluated(self, split: Any = "validation") -> list[torch.Tensor]:
        """Logits of every batch; ``computed`` has the blocks that these passes computed."""
        self.cache.prepare(split)
        self.computed.clear()
        self.blocks.engine.eval()
        batches = evaluation_batches(self.data.splits[split].lengths, BATCH)
        with torch.no_grad():
            found = [self.blocks.outputs(**self.batch(split, batch)).logits for batch in batches]
        self.blocks.engine.train()
        return found

    def trained(self, sets: Sequence[Sequence[int]] = (ABOVE,) * 4) -> list[torch.Tensor]:
        """Losses, and all weights in the end."""
        found, order = [], np.random.default_rng(1)
        for step, active in enumerate(sets):
            torch.manual_seed(step)
            self.blocks.set_active(active)
            chosen = order.permutation(SIZES["train"])
            micro_batches = [self.batch("train", part) for part in (chosen[:3], chosen[3:6])]
            self.computed.clear()
            found.append(self.blocks.train_step(micro_batches))
            self.blocks.optimizer_step()
        parameters = [parameter for _, parameter in self.blocks.blocks.all()]
        with self.blocks.gathered(parameters):
            return [*found, *(parameter.detach().clone() for parameter in parameters)]


@contextmanager
def running(folder: Path, setting: Any = "auto", **settings: Any) -> Iterator[Run]:
    run = Run(folder, setting, **settings)
    try:
        yield run
    finally:
        run.blocks.destroy()


def same(ours: Sequence[torch.Tensor], theirs: Sequence[torch.Tensor]) -> bool:
    return len(ours) == len(theirs) and all(torch.equal(*pair) for pair in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("model", sorted(set(ARCHITECTURES) - EXPERTS - HAND_ON_MORE))
def test_evaluation_is_bit_for_bit_the_same_with_states_that_are_computed_or_found(model, tmp_path):
    with running(tmp_path, False, model=model) as plain:
        expected = plain.evaluated()
        assert plain.computed
    for _ in range(2):
        with running(tmp_path, model=model) as run:
            assert run.cache.reuse.block == LOWEST, run.cache.reuse.in_words()
            assert same(run.evaluated(), expected)
            assert set(run.computed) == {2, 3}
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "settings",
    [{}, {"checkpointing": True}, {"zero_stage": 2, "precision": "bf16"}, {"zero_stage": 3}, {"share_prefix": True}],
    ids=str,
)
def test_a_run_learns_the_same(settings, tmp_path):
    found = {}
    for name, setting in {"off": False, "auto": "auto", "computed": True, "found": True}.items():
        with running(tmp_path, setting, **settings) as run:
            found[name] = [run.evaluated(), run.trained(), run.evaluated()]
            assert set(run.computed) == ({2, 3} if setting else {0, 1, 2, 3})
    assert all(same(*pair) for pair in zip(found["auto"], found["off"], strict=True))
    assert all(same(*pair) for pair in zip(found["found"], found["computed"], strict=True))
    losses, expected = (torch.stack(found[name][1][:4]) for name in ("found", "off"))
    assert not torch.equal(losses[0], losses[3])
    torch.testing.assert_close(losses, expected, rtol=1e-2 if "precision" in settings else 1e-5, atol=0)


@pytest.mark.parametrize("model", sorted(HAND_ON_MORE))
def test_blocks_that_hand_on_more_than_hidden_states_are_computed(model, tmp_path, caplog):
    with running(tmp_path, False, model=model) as plain, running(tmp_path, True, model=model) as run:
        assert same(run.evaluated(), plain.evaluated())
        assert not run.cache.reuse.training
    assert says(caplog.text, "engine.prefix_cache … train … more than hidden states")


def test_training_computes_no_block_below_where_that_is_asked_for(tmp_path):
    for setting, expected in ((True, {2, 3}), ("auto", {0, 1, 2, 3}), (False, {0, 1, 2, 3})):
        # Idle adapters would be passed over where their blocks are computed.
        with running(tmp_path, setting, skip_idle_adapters=False) as run:
            run.trained()
            assert set(run.computed) == expected


@pytest.mark.parametrize("sets", [[(1, 2)], [ABOVE, (1, 3), ABOVE], [(0, 1, 2, 3), ABOVE]])
def test_whoever_trains_a_lower_block_computes_it_from_then_on(sets, tmp_path):
    found = []
    for setting in (False, "auto"):
        with running(tmp_path, setting) as run:
            found += [run.trained(sets), run.evaluated()]
    assert same(found[2], found[0])
    assert same(found[3], found[1])


def test_a_file_that_is_not_whole_is_made_again(tmp_path):
    with running(tmp_path) as run:
        expected = run.evaluated()
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    flipped = bytes([whole[100] ^ 1])
    for damaged in (whole[:-1], whole + b"0", whole[:100] + flipped + whole[101:], whole[:-3] + b"abc", b""):
        file.write_bytes(damaged)
        with running(tmp_path) as run:
            assert same(run.evaluated(), expected)
        assert file.read_bytes() == whole


def test_no_more_room_is_taken_than_allowed(tmp_path, caplog):
    with running(tmp_path, False) as plain:
        expected = plain.evaluated()
    with running(tmp_path, True, prefix_cache_gib=1e-6) as run, caplog.at_level(logging.WARNING):
        assert not run.cache.reuse.training
        assert same(run.evaluated(), expected)
        assert set(run.computed) == {2, 3} | set(plain.computed)
    assert says(caplog.text, "engine.prefix_cache … GiB … engine.prefix_cache_gib")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_no_reason_to_fail(tmp_path, caplog):
    tmp_path.joinpath("states").write_text("a file where the folder should be")
    with running(tmp_path / "states") as run, running(tmp_path, False) as plain:
        assert same(run.evaluated(), plain.evaluated())
    assert "engine.prefix_cache" in caplog.text


def test_the_cost_is_what_pytorch_counts(tmp_path):
    with running(tmp_path, True, adapter={"dropout": 0.0}, share_prefix=False) as run:
        reuse = run.cache.reuse
        cost = replace(CostModel.of(run.blocks.model, recompute=False), reuse=reuse)
        run.cache.prepare("validation")
        found = []
        for split in ("train", "validation"):
            run.blocks.engine.train(split == "train")
            inputs = run.batch(split, np.arange(BATCH))
            with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(split == "train"):
                outputs = run.blocks.outputs(**inputs)
                if split == "train":
                    run.blocks.engine.backward(outputs.loss)
            found.append((counter.get_total_flops(), inputs["input_ids"].shape))
    (of_step, trained), (of_evaluation, scored) = found
    # The lowest block is not passed whole, which in so small a model is much.
    assert cost.step_flops(ABOVE, *trained) == pytest.approx(of_step, rel=0.12)
    assert cost.evaluation_flops(*scored) == pytest.approx(of_evaluation, rel=0.02)
    whole = replace(cost, reuse=Reuse())
    assert cost.keeping_flops(*scored) == whole.evaluation_flops(*scored) - cost.evaluation_flops(*scored)
    assert cost.step_flops((1, 2), *trained) == whole.step_flops((1, 2), *trained)
    assert cost.step_flops(ABOVE, *trained) < whole.step_flops(ABOVE, *trained)


def files(folder: Path, **settings: Any) -> set[str]:
    with running(folder, **settings) as run:
        run.evaluated()
    return {file.name for file in folder.iterdir()}


def test_only_equal_states_are_shared(tmp_path):
    known = files(tmp_path)
    for name, other in {
        "weights": {"seed": 1},
        "data": {"data": encoded(seed=1)},
        "block": {"lowest": 1},
        "precision": {"precision": "bf16"},
        "sharing": {"share_prefix": False},
    }.items():
        found = files(tmp_path, **other)
        assert len(found) == len(known) + 1, name
        known = found
    assert files(tmp_path, adapter={"r": 4, "dropout": 0.0, "target_modules": ["q_proj"]}) == known


def test_files_are_whole_whoever_writes_at_once(tmp_path):
    file = StateFile(tmp_path / "states", 6, 2, torch.float32)
    states = torch.arange(12.0).view(6, 2)

    def parts() -> Iterator[torch.Tensor]:
        yield states[:4]
        # Another trial writes, and opens, while this one is half-way.
        assert file.open() is None
        file.write([states])
        assert torch.equal(file.open(), states)
        yield states[4:]

    file.write(parts())
    assert torch.equal(file.open(), states)
    assert [each.name for each in tmp_path.iterdir()] == ["states"]
    with pytest.raises(ValueError, match="states of 4 tokens, not 6"):
        file.write([states[:4]])
    assert StateFile(file.path, 6, 2, torch.bfloat16).open() is None


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"model": "mixtral", "adapter": {"target_modules": ["q_proj"]}}, "expert"),
        ({"adapter": {"type": "dora"}}, "other than LoRA"),
        ({"adapter": {"type": "ia3", "target_modules": "all-linear"}}, "other than LoRA"),
        ({"lowest": 0}, "any block"),
    ],
    ids=str,
)
def test_what_may_change_below_is_computed(settings, why, tmp_path):
    with running(tmp_path, True, **settings) as run:
        assert run.cache.reuse.block == 0
        assert says(run.cache.reuse.in_words(), f"every block is computed … {why}")


def test_dropout_of_the_model_is_drawn_in_every_step():
    config = ExperimentConfig.model_validate({"engine": {"prefix_cache": True}}).engine
    wrapped = add_adapter(classifier("bert"), AdapterConfig(target_modules="all-linear"), train_head=True, seed=0)
    reuse = reuse_of(wrapped, config).above(1)
    assert (reuse.block, reuse.training, reuse.evaluation) == (1, False, True)
    assert says(reuse.in_words(), "evaluation reads … block 1 … dropout … draws")


def test_a_gpu_computes_unless_it_is_told_to_read():
    wrapped = add_adapter(classifier("llama"), AdapterConfig(target_modules="all-linear"), train_head=True, seed=0)
    for setting, expected in {"auto": (0, False, False), True: (1, True, True)}.items():
        engine = ExperimentConfig.model_validate({"engine": {"prefix_cache": setting, "gpus_per_worker": 1}}).engine
        reuse = reuse_of(wrapped, engine).above(1)
        assert (reuse.block, reuse.training, reuse.evaluation) == expected
