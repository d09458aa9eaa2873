"""From a few measured steps to the time of a run, and what is said where nothing can be measured."""

from types import SimpleNamespace

import pytest
import torch

from irtune.config.load import build
from irtune.config.schema import ExperimentConfig
from irtune.training.estimate import Times, closed_form
from irtune.training.workload import Workload

TIMES = Times(
    process_s=7.0,
    start_s=1.0,
    step_s=2.0,
    step_flops=10.0,
    evaluation_s=1.0,
    evaluation_flops=5.0,
    checkpoint_s=0.5,
    finish_s=0.25,
)
WORK = Workload(max_steps=4, eval_every=2, checkpoint_every=2, step_flops=5.0, evaluation_flops=10.0, test_flops=15.0)


def test_a_run_takes_its_flops_at_the_measured_pace():
    assert TIMES.step(WORK) == 1.0
    # Two steps, one evaluation of twice the measured size, and only before the end a checkpoint.
    assert TIMES.between(WORK, 0, 2) == 2 * 1.0 + 2.0 + 0.5
    assert TIMES.between(WORK, 2, 4) == 2 * 1.0 + 2.0
    assert TIMES.finishing(WORK) == 0.25 + 3.0
    assert TIMES.whole(WORK) == 1.0 + 4.5 + 4.0 + 3.25


def model(hidden=8, heads=2, blocks=3):
    """90 frozen parameters and 10 that train."""
    layers = torch.nn.ParameterList([torch.zeros(90), torch.zeros(10)])
    layers[0].requires_grad_(False)
    text = SimpleNamespace(hidden_size=hidden, num_attention_heads=heads, num_hidden_layers=blocks)
    layers.get_base_model = lambda: SimpleNamespace(config=SimpleNamespace(get_text_config=lambda: text))
    return layers


def config(**tree):
    return build(ExperimentConfig, {"training": {"micro_batch_size": 4}, **tree}, "x")


# Numbers a token and block: 17 x 8 + 2.5 x 2 x 20 = 236; of 4 x 20 tokens and 3 blocks 56,640.
ACTIVATIONS = 56_640


@pytest.mark.parametrize(
    ("tree", "held_bytes"),
    [
        ({}, 4 * 100 + 4 * 10 + 8 * 10 + 4 * ACTIVATIONS),
        # Half precision keeps masters of what trains.
        ({"engine": {"precision": "bf16"}}, 2 * 100 + 4 * 10 + 12 * 10 + 2 * ACTIVATIONS),
        ({"engine": {"num_workers": 2, "zero_stage": 1}}, 4 * 100 + 4 * 10 + 4 * 10 + 4 * ACTIVATIONS),
        ({"engine": {"num_workers": 2, "zero_stage": 2}}, 4 * 100 + 2 * 10 + 4 * 10 + 4 * ACTIVATIONS),
        ({"engine": {"num_workers": 2, "zero_stage": 3}}, 2 * 100 + 2 * 10 + 4 * 10 + 4 * ACTIVATIONS),
        # Recomputing keeps what enters each of the 3 blocks, and one block's activations: 80 tokens x (24 + 236).
        ({"model": {"gradient_checkpointing": True}}, 4 * 100 + 4 * 10 + 8 * 10 + 4 * 80 * 260),
    ],
    ids=["fp32", "bf16", "zero 1", "zero 2", "zero 3", "checkpointing"],
)
def test_memory_by_hand(tree, held_bytes):
    estimate = closed_form(config(**tree), model(), longest=20, reason="trials need GPUs")
    assert (estimate.source, estimate.how, estimate.times) == ("closed form", "trials need GPUs", None)
    assert estimate.memory_bytes == held_bytes
