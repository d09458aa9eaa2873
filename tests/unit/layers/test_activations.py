"""What passes through the blocks of real models, held against the same read from outside."""

import numpy as np
import pytest
import torch
from tiny_models import HIDDEN, NUM_BLOCKS, VOCABULARY, classifier

from irtune.config.schema import AdapterConfig
from irtune.importance import GradientNorm, ResidualNorm
from irtune.layers import map_parameters
from irtune.layers.refresh import RefreshRule
from irtune.layers.torch_blocks import TorchBlocks
from irtune.selection import TopK
from irtune.training.adapter import add_adapter

LENGTHS = (12, 5, 9)


def make(name="llama", **adapter):
    settings = {"r": 4, "alpha": 8, "dropout": 0.0, "target_modules": ("q_proj", "down_proj")} | adapter
    model = add_adapter(classifier(name), AdapterConfig(**settings), train_head=True, seed=0)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return TorchBlocks(model.train(), map_parameters(model), torch.optim.AdamW(trained))


def batch(side="right"):
    ids = torch.randint(1, VOCABULARY, (3, 12), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(12) < torch.tensor(LENGTHS)[:, None]
    mask = mask.flip(1) if side == "left" else mask
    return {"input_ids": ids, "attention_mask": mask.long(), "labels": torch.tensor([0, 1, 2])}


def hidden_states(blocks, given):
    """What enters each block, and what leaves the last one."""
    layers = blocks.model.get_base_model().model.layers
    outputs = []
    hook = layers[-1].register_forward_hook(lambda *call: outputs.append(call[2]))
    with torch.no_grad():
        states = blocks.model(**given, output_hidden_states=True).hidden_states[:NUM_BLOCKS]
    hook.remove()
    return [*states, outputs[0][0] if isinstance(outputs[0], tuple) else outputs[0]]


def num_hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("token", ["first", "last"])
def test_states_are_those_of_a_real_token_of_each_example(side, token):
    blocks, given = make(), batch(side)
    places = [
        [i for i, real in enumerate(row) if real][0 if token == "first" else -1] for row in given["attention_mask"]
    ]
    with blocks.probing(given, gradients=False):
        found = blocks.token_states(token)
    assert num_hooks(blocks.model) == 0
    states = hidden_states(blocks, given)
    assert len(found) == NUM_BLOCKS
    for index, (before, after) in enumerate(found):
        for example, place in enumerate(places):
            np.testing.assert_allclose(before[example], states[index][example, place], rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(after[example], states[index + 1][example, place], rtol=1e-5, atol=1e-6)


def test_energies_are_of_real_tokens_on_entering_the_adapted_layers():
    blocks, given = make(), batch()
    with blocks.probing(given, gradients=False):
        energies = blocks.activation_energies()
    assert num_hooks(blocks.model) == 0
    states = hidden_states(blocks, given)
    for index, layer in enumerate(blocks.model.get_base_model().model.layers):
        entering = layer.input_layernorm(states[index])[given["attention_mask"] > 0]
        assert energies[index].shape == (2,)
        assert energies[index][0] == pytest.approx(float(entering.square().sum(1).mean()), rel=1e-5)


def test_a_model_that_trains_whole_has_energies_too():
    model = classifier("llama")
    blocks = TorchBlocks(model, map_parameters(model), torch.optim.AdamW(model.parameters()))
    with blocks.probing(batch(), gradients=False):
        assert [len(energies) for energies in blocks.activation_energies()] == [7] * NUM_BLOCKS


def residual_norms(blocks, signal=None):
    signal = signal or ResidualNorm(damping=1e-12)
    signal.prepare(blocks)
    with blocks.probing(batch(), gradients=True):
        return signal.measure(blocks), GradientNorm().measure(blocks)


def test_a_residual_norm_sees_neither_the_scaling_of_lora_nor_how_its_features_are_mixed():
    blocks, scaled, mixed = make(), make(alpha=80), make()
    generator = torch.Generator().manual_seed(1)
    for name, parameter in mixed.model.named_parameters():
        if "lora_A" in name:
            parameter.data = torch.randn(4, 4, generator=generator) @ parameter.data
    expected, norms = residual_norms(blocks)
    for other in (scaled, mixed):
        found, other_norms = residual_norms(other)
        np.testing.assert_allclose(found, expected, rtol=1e-3)
        assert not np.allclose(other_norms, norms, rtol=0.2)


def test_dora_reads_its_weights_through_the_same_layers_and_they_do_not_count():
    # As many rows as tokens, so that only their shape tells them from tokens.
    given = batch()
    given = {name: values[:2, : HIDDEN // 2] if values.dim() == 2 else values[:2] for name, values in given.items()}
    moments = []
    for kind in ("lora", "dora"):
        blocks = make(type=kind)
        blocks.record_features()
        with blocks.probing(given, gradients=True):
            moments.append([moment for layers in blocks.low_rank_moments() for _, moment in layers])
    np.testing.assert_allclose(moments[0], moments[1], rtol=1e-5, atol=1e-6)


def test_features_are_read_in_a_pass_of_its_own_and_only_then():
    rule = RefreshRule(TopK(k=1), ResidualNorm(), 5, 10)
    assert not rule.probes_in_step
    assert (rule.passes(4).forward, rule.passes(4).backward, rule.passes(4).rows) == (1, 1, 4)
    assert RefreshRule(TopK(k=1), GradientNorm(), 5, 10).probes_in_step
    blocks = make()
    blocks.record_features()
    assert num_hooks(blocks.model) == 0
    with blocks.probing(batch(), gradients=True):
        first = blocks.low_rank_moments()
    with blocks.probing(batch(), gradients=True):
        again = blocks.low_rank_moments()
    assert num_hooks(blocks.model) == 0
    for ours, theirs in zip(first, again, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_layers_whose_tokens_are_in_no_order_do_not_count():
    blocks = make("mixtral", target_modules=("q_proj", "gate"))
    blocks.record_features()
    with blocks.probing(batch(), gradients=True):
        assert [len(layers) for layers in blocks.low_rank_moments()] == [1] * NUM_BLOCKS
