"""Blocks that are computed again in the backward pass: equal gradients, whatever the architecture, in less memory."""

import pytest
import torch
from tiny_models import ARCHITECTURES, NUM_BLOCKS, batch, classifier
from transformers import Trainer, TrainingArguments

from irtune import IRTuningCallback
from irtune.config.schema import AdapterConfig
from irtune.importance import SIGNALS, GradientNorm
from irtune.layers import LayerController, map_parameters
from irtune.layers.refresh import RefreshRule
from irtune.layers.torch_blocks import TorchBlocks
from irtune.selection import Static, TopK
from irtune.training.adapter import add_adapter
from irtune.training.dropout_streams import give_streams
from irtune.training.model import enable_gradient_checkpointing

DROPOUT = 0.1


def blocks_of(name="llama", dropout=DROPOUT):
    adapter = AdapterConfig(r=4, dropout=0.0 if name == "mixtral" else dropout, target_modules="all-linear")
    model = add_adapter(classifier(name), adapter, train_head=True, seed=0).train()
    found = map_parameters(model)
    blocks = TorchBlocks(model, found, torch.optim.AdamW([p for _, p in found.all()], lr=0.01))
    torch.manual_seed(1)
    for parameter in (p for _, p in found.all()):
        # A lora_B of zeros would hide gradients of lora_A.
        torch.nn.init.normal_(parameter, std=0.1)
    return blocks


def gradients(blocks, recomputed):
    blocks.recompute(recomputed)
    blocks.model.zero_grad()
    torch.manual_seed(7)
    loss = blocks.model(**batch()).loss
    loss.backward()
    blocks.recompute(())
    return {"loss": loss.detach()} | {name: p.grad for name, p in blocks.blocks.all() if p.grad is not None}


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_gradients_are_equal_bit_for_bit(name):
    blocks = blocks_of(name)
    # A Trainer leaves it on, and blocks then get a cache to fill.
    blocks.model.config.use_cache = True
    give_streams(blocks.members, blocks.device)
    expected = gradients(blocks, ())
    for recomputed in (range(NUM_BLOCKS), (0, 2)):
        found = gradients(blocks, recomputed)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in expected), recomputed
    assert not any("forward" in vars(member) for member in blocks.members)


def test_a_block_that_is_recomputed_runs_twice_and_its_hooks_once():
    blocks, ran, hooked = blocks_of(), [], []
    for index, member in enumerate(blocks.members):
        member.mlp.register_forward_pre_hook(lambda *_, index=index: ran.append(index))
        member.register_forward_hook(lambda *_, index=index: hooked.append(index))
    gradients(blocks, (1, 2))
    assert (sorted(ran), hooked) == ([0, 1, 1, 2, 2, 3], [0, 1, 2, 3])
    ran.clear()
    gradients(blocks, ())
    assert ran == [0, 1, 2, 3]


def test_a_model_that_recomputes_by_itself_does_not_do_so_twice():
    blocks, ran = blocks_of(), []
    enable_gradient_checkpointing(blocks.model)
    blocks.members[0].mlp.register_forward_pre_hook(lambda *_: ran.append(0))
    gradients(blocks, range(NUM_BLOCKS))
    assert len(ran) == 2


def test_a_forward_pass_of_ones_own_is_put_back():
    blocks = blocks_of()
    own = blocks.members[0].forward = blocks.members[0].forward
    blocks.recompute(range(NUM_BLOCKS))
    blocks.recompute([0])
    assert blocks.members[0].forward is not own
    blocks.recompute(())
    assert vars(blocks.members[0])["forward"] is own


@pytest.mark.parametrize(
    "signal",
    [
        {"name": "gradient_norm"},
        {"name": "gradient_norm", "probe_fraction": 0.5},
        {"name": "gradient_norm", "tensors": "effective_update"},
        {"name": "gradient_norm", "gradient": "local", "tensors": "all"},
        {"name": "residual_norm"},
    ],
    ids=lambda signal: "-".join(map(str, signal.values())),
)
def test_scores_choices_and_weights_are_equal_bit_for_bit(signal):
    found = {}
    for memory in ("low", "fast"):
        blocks = blocks_of(dropout=0.0 if signal["name"] == "residual_norm" else DROPOUT)
        controller = LayerController(
            blocks,
            NUM_BLOCKS,
            TopK(k=2),
            SIGNALS[signal["name"]](**signal),
            reselect_every=2,
            total_steps=5,
            seed=0,
            probe_memory=memory,
        )
        scores, again = [], []
        for step in range(5):
            inputs = batch(4)
            blocks.optimizer.zero_grad()
            blocks.start_step()
            torch.manual_seed(step)
            controller.before_step(step, inputs)
            again.append(controller.passes.recomputed)
            blocks.model(**inputs).loss.backward()
            controller.after_backward(step)
            blocks.optimizer.step()
            scores.append((controller.importance.scores.tolist(), controller.active))
        found[memory] = scores, [p.detach() for _, p in blocks.blocks.all()]
        assert not any("forward" in vars(member) for member in blocks.members)
        assert again[0] == ((0, 1, 2, 3) if memory == "low" else ())
        assert again[1] == again[3] == ()
    assert found["low"][0] == found["fast"][0]
    assert all(map(torch.equal, found["low"][1], found["fast"][1]))


def test_what_is_recomputed_is_below_what_trains_and_the_lower_half_of_the_frozen_above():
    def recomputed(signal, active, policy=None, memory="low"):
        return RefreshRule(policy or TopK(k=1), signal, 2, 10, probe_memory=memory).recomputed(8, active)

    signal = GradientNorm()
    assert recomputed(signal, ()) == tuple(range(8))
    assert recomputed(signal, range(8)) == ()
    assert recomputed(signal, (5, 6, 7)) == (0, 1, 2, 3, 4)
    assert recomputed(signal, (2, 7)) == (0, 1, 3, 4)
    assert recomputed(signal, (5,), memory="fast") == ()
    # Nothing goes backwards through blocks that do not train.
    assert recomputed(GradientNorm(frozen_blocks="stale"), (5,)) == ()
    assert recomputed(SIGNALS["cosine_similarity"](), (5,)) == ()
    assert recomputed(signal, (5,), policy=Static(blocks=[5])) == ()


def test_a_trainer_s_weights_are_equal_and_its_model_as_it_was(tmp_path):
    weights = []
    for memory in ("low", "fast"):
        model = add_adapter(classifier("llama"), AdapterConfig(r=4, dropout=DROPOUT), train_head=True, seed=0)
        callback = IRTuningCallback("top_k", k=2, reselect_every=2, probe_memory=memory)
        arguments = TrainingArguments(
            str(tmp_path), max_steps=3, use_cpu=True, save_strategy="no", report_to="none", disable_tqdm=True
        )
        rows = [{name: values[0] for name, values in batch(1).items()}] * 24
        Trainer(model, arguments, train_dataset=rows, callbacks=[callback]).train()
        weights.append([p.detach() for p in model.parameters()])
        assert not any("forward" in vars(module) for module in model.modules())
    assert all(map(torch.equal, *weights))


def test_a_mistaken_name_is_refused():
    with pytest.raises(ValueError, match=r"probe_memory: .*'lo'.*'low'\?"):
        IRTuningCallback("top_k", k=2, probe_memory="lo")
