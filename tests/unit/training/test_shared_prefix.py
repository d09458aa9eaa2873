"""Tokens that all rows begin with, computed once: the same losses and gradients, at a lower cost, or not at all."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from saying import says
from tiny_models import ARCHITECTURES, NUM_BLOCKS, NUM_LABELS, VOCABULARY, classifier
from torch.utils.flop_counter import FlopCounterMode

from irtune.config.engine_schema import EngineConfig
from irtune.config.schema import AdapterConfig, TrainingConfig
from irtune.data.common_tokens import common_tokens
from irtune.data.encode import EncodedDataset, EncodedSplit
from irtune.layers import map_parameters
from irtune.layers.refresh import ProbePasses
from irtune.training.adapter import add_adapter
from irtune.training.cost import CostModel
from irtune.training.distributed import ensure_process_group, select_accelerator
from irtune.training.engine import DeepSpeedBlocks
from irtune.training.model import enable_gradient_checkpointing
from irtune.training.shared_prefix import FAMILIES, SharedPrefix, Sharing, sharing_of

ROWS, SHARED, OWN = 5, 9, 7
LONGEST = SHARED + OWN
BOUND = 1e-4
"""Of the norm of one gradient; models are so small that 1e-5 is rounding."""


def adapted(name: str, implementation: str = "eager", dropout: float = 0.0, **settings: Any) -> Any:
    """A classifier whose adapters have effect, without dropout but for that of adapters."""
    base = classifier(name, ARCHITECTURES[name].settings | settings)
    base.config._attn_implementation = implementation
    config = AdapterConfig(r=2, alpha=4, dropout=dropout, target_modules="all-linear")
    model = add_adapter(base, config, train_head=True, seed=0)
    torch.manual_seed(1)
    for key, parameter in model.named_parameters():
        if "lora_B" in key:
            torch.nn.init.normal_(parameter, std=0.1)
    for key, module in model.named_modules():
        if isinstance(module, torch.nn.Dropout) and "lora_dropout" not in key:
            module.p = 0.0
        for attribute, value in list(vars(module).items()):
            if "drop" in attribute and isinstance(value, float):
                setattr(module, attribute, 0.0)
    return model.train()


def batch(rows: int = ROWS, seed: int = 0) -> dict[str, torch.Tensor]:
    """Rows that begin alike, of which one has a single token of its own, and another is padded."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCABULARY, (rows, LONGEST), generator=generator)
    ids[:, :SHARED] = torch.arange(3, 3 + SHARED)
    mask = torch.ones_like(ids)
    mask[0, SHARED + 1 :] = 0
    mask[rows // 2, SHARED + 4 :] = 0
    return {"input_ids": ids * mask, "attention_mask": mask, "labels": torch.arange(rows) % NUM_LABELS}


def prefix_of(model: Any, setting: bool | str = "auto") -> SharedPrefix:
    return SharedPrefix(model, np.arange(3, 3 + SHARED), sharing_of(model, setting, SHARED, LONGEST))


def shapes_read(model: Any) -> list[tuple[int, ...]]:
    """Filled with the shape of what each block gets from now on, as (rows, tokens)."""
    seen: list[tuple[int, ...]] = []
    name = map_parameters(model).name
    for member in model.get_base_model().get_submodule(name.removeprefix("base_model.model.")):
        member.register_forward_hook(
            lambda _, args, kwargs, output: seen.append(tuple((args or list(kwargs.values()))[0].shape[:2])),
            with_kwargs=True,
        )
    return seen


def trained(forward: Any, model: Any, **inputs: torch.Tensor) -> tuple[Any, dict[str, torch.Tensor]]:
    model.zero_grad()
    outputs = forward(**inputs)
    outputs.loss.backward()
    return outputs, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_alike(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], bound: float = BOUND) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert gradient.any(), name
        assert float((found[name] - gradient).norm() / gradient.norm()) < bound, name


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    ("name", "implementation"),
    # Gemma2 caps its attention, which PyTorch's own cannot.
    [(name, each) for name in sorted(FAMILIES) for each in ("eager", "sdpa") if (name, each) != ("gemma2", "sdpa")],
)
def test_losses_and_every_gradient_are_those_of_the_ordinary_pass(name, implementation, checkpointing):
    model = adapted(name, implementation)
    if checkpointing:
        enable_gradient_checkpointing(model)
    ordinary, expected = trained(model, model, **batch())
    prefix = prefix_of(model)
    again, unchanged = trained(model, model, **batch())
    assert torch.equal(ordinary.logits, again.logits)
    assert all(torch.equal(unchanged[key], gradient) for key, gradient in expected.items())
    seen = shapes_read(model)
    shared, gradients = trained(lambda **inputs: prefix.outputs(model, **inputs), model, **batch())
    assert seen == [(1, SHARED + ROWS * OWN)] * NUM_BLOCKS
    assert shared.logits.shape == ordinary.logits.shape
    torch.testing.assert_close(shared.logits, ordinary.logits, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(shared.loss, ordinary.loss, rtol=1e-6, atol=1e-6)
    assert_alike(gradients, expected)


@pytest.mark.parametrize("name", ["bloom", "falcon", "bert"])
def test_other_models_compute_every_row(name):
    model = adapted(name)
    sharing = sharing_of(model, "auto", SHARED, LONGEST)
    assert (sharing.training, sharing.evaluation) == (0, 0)
    assert says(sharing.in_words(), f"{name} … llama")
    expected = model.eval()(**batch()).logits
    prefix = SharedPrefix(model, np.arange(3, 3 + SHARED), sharing)
    assert torch.equal(prefix.outputs(model, **batch()).logits, expected)
    with pytest.raises(ValueError, match=f"engine.share_prefix: .*{name}"):
        sharing_of(model, True, SHARED, LONGEST)


def test_a_window_that_is_shorter_than_an_example_computes_every_row():
    model = adapted("mistral", sliding_window=LONGEST - 1)
    assert sharing_of(model, "auto", SHARED, LONGEST).evaluation == 0
    assert sharing_of(model, "auto", SHARED, LONGEST - 1).training == SHARED


def test_a_model_that_looks_ahead_computes_every_row():
    model = adapted("llama")
    model.get_base_model().config.is_causal = False
    assert says(sharing_of(model, "auto", SHARED, LONGEST).note, "not causal")


def test_what_is_shared_by_setting_and_number_of_common_tokens():
    model = adapted("llama")
    assert sharing_of(model, "auto", SHARED, LONGEST) == Sharing(SHARED, SHARED, SHARED)
    assert sharing_of(model, False, SHARED, LONGEST).evaluation == 0
    assert sharing_of(model, "auto", 7, LONGEST).evaluation == sharing_of(model, True, 7, LONGEST).training == 0


def test_dropout_is_drawn_for_every_row_unless_one_draw_is_asked_for():
    model = adapted("llama", dropout=0.5)
    sharing = sharing_of(model, "auto", SHARED, LONGEST)
    assert (sharing.training, sharing.evaluation) == (0, SHARED)
    assert says(sharing.in_words(), "dropout of", "adapter.dropout=0", "engine.share_prefix=true")
    prefix, seen = prefix_of(model), shapes_read(model)
    torch.manual_seed(0)
    expected = model(**batch()).logits
    torch.manual_seed(0)
    assert torch.equal(prefix.outputs(model, **batch()).logits, expected)
    model.eval()
    torch.testing.assert_close(prefix.outputs(model, **batch()).logits, model(**batch()).logits)
    assert [shape for shape in seen if shape[0] == 1] == [(1, SHARED + ROWS * OWN)] * NUM_BLOCKS

    asked = prefix_of(model.train(), True)
    alike = batch()
    alike["input_ids"][:] = alike["input_ids"][1]
    alike["attention_mask"][:] = 1
    torch.manual_seed(0)
    logits = asked.outputs(model, **alike).logits
    # Own tokens have draws of their own, or equal rows would have equal outputs.
    assert not torch.allclose(logits[0], logits[1])


@pytest.mark.parametrize("name", ["gpt2", "opt"])
def test_dropout_that_a_model_brings_counts_too(name):
    settings = {"gpt2": {"attn_pdrop": 0.0, "embd_pdrop": 0.0}, "opt": {"attention_dropout": 0.0}}[name]
    base = classifier(name, ARCHITECTURES[name].settings | settings)
    assert sharing_of(base, "auto", SHARED, LONGEST).training == 0
    assert sharing_of(base, True, SHARED, LONGEST).training == SHARED


def test_one_row_and_rows_that_begin_otherwise_take_an_ordinary_pass():
    model = adapted("llama")
    prefix, seen = prefix_of(model), shapes_read(model)
    other = batch()
    other["input_ids"][3, 2] = 60
    with torch.no_grad():
        for inputs in (other, {name: values[:1] for name, values in batch().items()}):
            assert torch.equal(prefix.outputs(model, **inputs).logits, model(**inputs).logits)
    assert set(seen) == {(ROWS, LONGEST), (1, LONGEST)}


def encoded(train: list[list[int]], validation: list[list[int]], test: list[list[int]]) -> EncodedDataset:
    splits = {
        split: EncodedSplit(
            np.array([token for row in rows for token in row], dtype=np.int32),
            np.cumsum([0, *map(len, rows)]),
            np.zeros(len(rows), dtype=int),
        )
        for split, rows in {"train": train, "validation": validation, "test": test}.items()
    }
    return EncodedDataset(splits, 16, None, 0, 0, False)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (([[1, 2, 3, 4], [1, 2, 3, 5]], [[1, 2, 3, 6]], [[1, 2, 3, 7]]), [1, 2, 3]),
        # Each row keeps a token of its own, also the one that is no more than what all begin with.
        (([[1, 2, 3, 4], [1, 2, 3]], [[1, 2, 3, 6]], [[1, 2, 3, 7]]), [1, 2]),
        (([[1, 2, 3], [1, 2, 3]], [[1, 2, 3]], [[1, 2, 3]]), [1, 2]),
        # What only one split begins with is not common.
        (([[1, 2, 3, 4], [1, 2, 3, 5]], [[1, 9, 3, 6]], [[1, 2, 3, 7]]), [1]),
        (([[1, 2, 3, 4], [1, 2, 3, 5]], [[1, 2, 3, 6]], [[1]]), []),
        (([[1, 2], [2, 2]], [[1, 2]], [[1, 2]]), []),
    ],
)
def test_the_tokens_that_all_examples_begin_with(rows, expected):
    assert common_tokens(encoded(*rows)).tolist() == expected


def engine_of(stage: int, precision: Any, *, sharing: bool, dropout: float = 0.0) -> DeepSpeedBlocks:
    engine = EngineConfig(zero_stage=stage, precision=precision)
    select_accelerator(engine)
    ensure_process_group(engine)
    model = adapted("llama", "sdpa", dropout)
    training = TrainingConfig(
        max_steps=10, micro_batch_size=ROWS, gradient_accumulation_steps=2, learning_rate=0.01, weight_decay=0.1
    )
    return DeepSpeedBlocks(model, map_parameters(model), training, engine, prefix=prefix_of(model) if sharing else None)


@pytest.fixture
def losses_and_gradients(request) -> Iterator[Any]:
    made = []

    def of(stage: int, precision: str, *, sharing: bool) -> tuple[list[float], dict[str, torch.Tensor], Any]:
        blocks = engine_of(stage, precision, sharing=sharing)
        made.append(blocks)
        losses = [float(blocks.train_step([batch(), batch(seed=1)]))]
        gradients = {name: blocks.whole_gradient(parameter).clone() for name, parameter in blocks.blocks.all()}
        blocks.optimizer_step()
        blocks.set_active([1, 2])
        before = blocks.local_state()
        frozen = {name: value.clone() for name, value in before.items() if "block 0" in name}
        losses.append(float(blocks.train_step([batch(seed=2), batch(seed=3)])))
        blocks.optimizer_step()
        after = blocks.local_state()
        assert frozen
        assert all(torch.equal(after[name], value) for name, value in frozen.items())
        with torch.no_grad():
            blocks.engine.eval()
            scores = blocks.outputs(**batch()).logits
            blocks.engine.train()
        return losses, gradients, scores

    yield of
    for blocks in made:
        blocks.destroy()


@pytest.mark.parametrize("stage", [0, 1, 3])
def test_training_goes_on_as_it_does_without(stage, losses_and_gradients):
    losses, gradients, scores = losses_and_gradients(stage, "fp32", sharing=True)
    expected_losses, expected, expected_scores = losses_and_gradients(stage, "fp32", sharing=False)
    assert losses == pytest.approx(expected_losses, rel=1e-4)
    assert_alike(gradients, expected)
    torch.testing.assert_close(scores, expected_scores, rtol=1e-2, atol=1e-3)


def test_an_engine_whose_training_has_dropout_shares_in_evaluation():
    blocks = engine_of(0, "fp32", sharing=True, dropout=0.5)
    seen = shapes_read(blocks.model)
    blocks.train_step([batch()])
    blocks.engine.eval()
    with torch.no_grad():
        blocks.outputs(**batch())
    blocks.destroy()
    assert seen == [(ROWS, LONGEST)] * NUM_BLOCKS + [(1, SHARED + ROWS * OWN)] * NUM_BLOCKS


def test_probes_that_are_passes_of_their_own_see_every_row_whole():
    found = []
    for sharing in (True, False):
        blocks = engine_of(0, "fp32", sharing=sharing)
        with blocks.probing(batch(), gradients=True):
            found.append([*blocks.activation_energies(), blocks.similarities(), *blocks.gradient_norms("all")])
        blocks.destroy()
    assert all(np.array_equal(shared, plain) for shared, plain in zip(*found, strict=True))


def test_in_bf16_it_rounds_no_worse(losses_and_gradients):
    _, shared, _ = losses_and_gradients(2, "bf16", sharing=True)
    _, plain, _ = losses_and_gradients(2, "bf16", sharing=False)
    _, exact, _ = losses_and_gradients(2, "fp32", sharing=False)
    errors = [
        sum(float((found[name].float() - exact[name]).square().sum()) for name in exact) for found in (shared, plain)
    ]
    assert errors[0] < 4 * errors[1]


def test_the_cost_is_what_pytorch_counts():
    model = adapted("llama", hidden_size=64, intermediate_size=128)
    prefix = prefix_of(model)
    cost = CostModel.of(model, recompute=False, sharing=prefix.sharing)
    with FlopCounterMode(display=False) as counter:
        prefix.outputs(model, **batch()).loss.backward()
    # The adapters are wide for such a model, and no gradient is computed below the lowest of them.
    every = range(NUM_BLOCKS)
    assert cost.step_flops(every, ROWS, LONGEST) == pytest.approx(counter.get_total_flops(), rel=0.05)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        prefix.outputs(model.eval(), **batch())
    assert cost.evaluation_flops(ROWS, LONGEST) == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_the_cost_by_hand():
    # 2 blocks of 10 FLOPs a token, 1 of them the adapter's; a head of 2.
    parts = np.array([10.0, 10.0]), np.array([1.0, 1.0]), 2.0, 0.0, False
    plain, shared = CostModel(*parts), CostModel(*parts, sharing=Sharing(3, 3, 3))
    # Of 4 rows of 5 tokens, 3 + 4 * 2 are computed, and the head sees 4 * 2.
    assert plain.step_flops([0, 1], 4, 5) == 20 * (20 + 20 + 2 + 3 * 2)
    assert shared.step_flops([0, 1], 4, 5) == 11 * (20 + 20 + 2) + 8 * 3 * 2
    assert shared.evaluation_flops(4, 5) == 11 * 20 + 8 * 2
    assert shared.step_flops([0, 1], 1, 5) == plain.step_flops([0, 1], 1, 5)
    # Passes apart see every row whole.
    apart = ProbePasses(forward=1, backward=1, rows=4)
    more = shared.optimizer_step_flops([0, 1], [(4, 5)], apart) - shared.optimizer_step_flops([0, 1], [(4, 5)])
    assert more == plain.step_flops([0, 1], 4, 5)
