"""What a step costs: the closed form against PyTorch's own count of what it really multiplies."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForSequenceClassification

from irtune.config.schema import AdapterConfig
from irtune.layers import map_parameters
from irtune.training.adapter import add_adapter
from irtune.training.cost import CostModel, PeakMemory, release_memory
from irtune.training.model import enable_gradient_checkpointing

NUM_BLOCKS, BATCH_SIZE, LENGTH = 6, 3, 20
ALL, TOP_THIRD, BOTTOM = tuple(range(NUM_BLOCKS)), (4, 5), (0,)


def llama(**adapter):
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=NUM_BLOCKS,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=64,
        num_labels=3,
        pad_token_id=0,
        # PyTorch does not count its fused attention on the CPU.
        attn_implementation="eager",
        use_cache=False,
    )
    adapter = {"r": 4, "alpha": 8, "dropout": 0.0} | adapter
    torch.manual_seed(0)
    return add_adapter(LlamaForSequenceClassification(config), AdapterConfig(**adapter), train_head=True, seed=0)


def counted(model, blocks, active):
    """FLOPs of a forward and backward pass with these blocks active, as PyTorch counts them."""
    for index, block in enumerate(blocks.per_block):
        for _, parameter in block:
            parameter.requires_grad_(index in active)
    ids = torch.randint(1, 64, (BATCH_SIZE, LENGTH), generator=torch.Generator().manual_seed(0))
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids[:, 0] % 3).loss.backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("targets", [AdapterConfig().target_modules, "all-linear"], ids=["default", "all-linear"])
def test_the_closed_form_is_what_pytorch_counts(targets, recompute):
    model = llama(target_modules=targets)
    blocks, cost = map_parameters(model), CostModel.of(model, recompute=recompute)
    if recompute:
        enable_gradient_checkpointing(model)
    model.train()
    for active in (ALL, TOP_THIRD, BOTTOM):
        assert cost.step_flops(active, BATCH_SIZE, LENGTH) == pytest.approx(counted(model, blocks, active), rel=0.03)


def test_a_block_of_a_llama_by_hand():
    cost = CostModel.of(llama(target_modules=("q_proj", "down_proj")), recompute=False)
    # Two FLOPs a weight; attention 32x32 twice and 32x16 twice, feed-forward 32x64 three times; adapters of rank 4.
    adapters = 2 * 4 * ((32 + 32) + (64 + 32))
    np.testing.assert_array_equal(cost.trained, [adapters] * NUM_BLOCKS)
    np.testing.assert_array_equal(cost.forward, [2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64) + adapters] * NUM_BLOCKS)
    assert cost.head == 2 * 32 * 3
    # Scores and weighted values: 4 heads of width 8, two products.
    assert cost.attention == 2 * 2 * 4 * 8


def test_checkpointing_costs_one_more_forward_pass_of_the_blocks_above_the_lowest_active_one():
    model = llama()
    plain, recomputed = (CostModel.of(model, recompute=flag) for flag in (False, True))
    for active in (ALL, TOP_THIRD, BOTTOM):
        forward = (plain.forward + plain.attention * LENGTH)[min(active) :].sum() * BATCH_SIZE * LENGTH
        more = recomputed.step_flops(active, BATCH_SIZE, LENGTH) - plain.step_flops(active, BATCH_SIZE, LENGTH)
        assert more == pytest.approx(forward)


def test_a_step_costs_as_its_inputs_are_many_and_long():
    cost = CostModel.of(llama(), recompute=False)
    one = cost.step_flops(TOP_THIRD, 1, LENGTH)
    assert cost.step_flops(TOP_THIRD, 8, LENGTH) == pytest.approx(8 * one)
    # Attention makes a token of a longer input dearer.
    assert cost.step_flops(TOP_THIRD, 1, 2 * LENGTH) > 2 * one


active_sets = st.sets(st.integers(0, NUM_BLOCKS - 1), min_size=1)


@given(first=active_sets, second=active_sets, recompute=st.booleans(), length=st.integers(1, 4096))
def test_a_lower_lowest_block_never_costs_less(first, second, recompute, length):
    cost = CostModel(np.full(NUM_BLOCKS, 1000.0), np.full(NUM_BLOCKS, 90.0), 30.0, 4.0, recompute)
    low, high = sorted((first, second), key=min)
    same_number = set(sorted(low)[: len(high)]) if len(low) > len(high) else low
    more_of_high = set(sorted(high)[: len(same_number)])
    assert cost.step_flops(sorted(same_number), 2, length) >= cost.step_flops(sorted(more_of_high), 2, length)
    assert cost.step_flops(sorted(first | second), 2, length) >= cost.step_flops(sorted(first), 2, length)


def test_peak_memory_remembers_what_was_given_back():
    # What tests before this one left may be freed at any time.
    release_memory()
    memory = PeakMemory(torch.device("cpu"))
    before = memory.sample()
    held = np.ones(40_000_000)
    size = held.nbytes
    del held
    # It was given back before anybody looked.
    with_it = memory.sample("probe")
    assert with_it >= before + 0.6 * size
    assert memory.sample("ordinary") == with_it
    assert memory.peaks_bytes["ordinary"] <= with_it - 0.6 * size
