"""Freezing under a Hugging Face Trainer: frozen means bit-identical, trained means equal to plain PyTorch."""

import json
import os
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import hf_training
import numpy as np
import pytest
import torch
from hf_training import NUM_BLOCKS, SCHEDULE, Scheduled
from saying import refused
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
    TrainerCallback,
)

from irtune import IRTuningCallback
from irtune.importance import GradientNorm
from irtune.layers.hf_checks import check_trainer, embedding_parameters
from irtune.selection import TopK

README = Path(__file__).parents[3] / "README.md"
APART = {"name": "gradient_norm", "probe_fraction": 0.5}


# Exactness.


@pytest.mark.parametrize(
    ("kind", "max_grad_norm", "importance"), [("lora", 0.02, None), ("full", 0.0, None), ("lora", 0.02, APART)]
)
def test_weights_are_those_of_plain_pytorch(kind, max_grad_norm, importance, tmp_path):
    model, reference = hf_training.make_model(kind), hf_training.make_model(kind)
    callback = IRTuningCallback(Scheduled(), reselect_every=3, importance=importance)
    trainer = hf_training.train(model, tmp_path, [callback], max_grad_norm=max_grad_norm)
    scores = hf_training.by_hand(reference, trainer.args, trainer.data_collator.batches)
    assert hf_training.same(hf_training.weights(model), hf_training.weights(reference))
    assert not hf_training.same(hf_training.weights(model), hf_training.weights(hf_training.make_model(kind)))
    assert [record.active for record in callback.trace.records] == list(SCHEDULE.values())
    norms = [entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry]
    assert not max_grad_norm or min(norms) > max_grad_norm, "nothing was clipped, so clipping was not tested"
    if importance is None:
        np.testing.assert_allclose(callback.trace.scores(), scores, rtol=1e-5)


def test_whoever_looks_on_is_told_of_each_choice_after_its_step_and_of_the_end(tmp_path):
    callback, seen = IRTuningCallback(Scheduled(), reselect_every=3), []
    callback.viewers.append(lambda is_over: seen.append((len(callback.trace.records), callback._stage, is_over)))
    hf_training.train(hf_training.make_model(), tmp_path, [callback])
    assert seen == [*((count, "idle", False) for count in (1, 2, 3, 4)), (4, "idle", True)]
    assert callback.blocks_name == "model.layers"


class FrozenDrift(TrainerCallback):
    """Counts optimizer steps in which a frozen block's weight or its optimizer state changed by a bit."""

    def __init__(self, callback):
        self.callback = callback
        self.changed = self.looked = 0

    def known(self, optimizer):
        blocks = self.callback._blocks
        frozen = [p for i in sorted(set(range(NUM_BLOCKS)) - set(blocks.active)) for _, p in blocks.blocks.per_block[i]]
        state = [v for p in frozen for v in optimizer.state.get(p, {}).values() if isinstance(v, torch.Tensor)]
        return [tensor.detach().clone() for tensor in frozen + state]

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
        self.before = self.known(optimizer)

    def on_step_end(self, args, state, control, optimizer=None, **kwargs):
        after = self.known(optimizer)
        self.looked += len(after)
        self.changed += sum(not torch.equal(a, b) for a, b in zip(self.before, after, strict=True))


@pytest.mark.parametrize("optim", ["adamw_torch_fused", "adafactor"])
def test_frozen_blocks_do_not_move_by_a_bit(optim, tmp_path):
    callback = IRTuningCallback(Scheduled(), reselect_every=3)
    drift = FrozenDrift(callback)
    hf_training.train(hf_training.make_model(), tmp_path, [callback, drift], optim=optim)
    assert drift.changed == 0
    # 4 adapter tensors in each of 2, 2, 3 and 2 frozen blocks for 3 steps each, and what the optimizer knows of them.
    assert drift.looked > 3 * 4 * (2 + 2 + 3 + 2)


def test_all_blocks_train_as_without_the_callback(tmp_path):
    # Dropout would show it if the callback drew random numbers, and evaluations if it took them for training.
    plain, watched, measured = (hf_training.make_model(dropout=0.1) for _ in range(3))
    options = {"max_steps": 4, "gradient_accumulation_steps": 1, "eval_strategy": "steps", "eval_steps": 1}
    always = IRTuningCallback("all", reselect_every=2, measure="always", importance=APART)
    hf_training.train(plain, tmp_path, **options)
    hf_training.train(watched, tmp_path, [IRTuningCallback("all", reselect_every=2)], **options)
    hf_training.train(measured, tmp_path, [always], **options)
    assert hf_training.same(hf_training.weights(plain), hf_training.weights(watched))
    assert hf_training.same(hf_training.weights(plain), hf_training.weights(measured))
    assert len(always.trace.records) == 2


def test_another_number_of_blocks_gives_another_loss(tmp_path):
    options = {"max_steps": 4, "gradient_accumulation_steps": 1}
    finals = []
    for k in (1, 2, 4):
        callback = IRTuningCallback(policy="top_k", k=k, reselect_every=2)
        trainer = hf_training.train(hf_training.make_model(), tmp_path, [callback], **options)
        assert callback.trace.active().sum(axis=1).tolist() == [k, k]
        finals.append(hf_training.losses(trainer)[-1])
    assert len(set(finals)) == 3


class Reach(TrainerCallback):
    """Notes per optimizer step which blocks the backward pass would run through."""

    def __init__(self, model):
        self.steps = []
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        for index, block in enumerate(base.model.layers):
            block.register_forward_hook(lambda _, args, out, index=index: self.note(index, out))

    def note(self, index, out):
        if torch.is_grad_enabled() and (out[0] if isinstance(out, tuple) else out).requires_grad:
            self.steps[-1].add(index)

    def on_step_begin(self, args, state, control, **kwargs):
        self.steps.append(set())


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_the_backward_pass_stops_below_the_lowest_active_block(kind, tmp_path):
    model = hf_training.make_model(kind)
    embeddings = model.get_input_embeddings().weight
    before = embeddings.clone()
    reach = Reach(model)
    callback = IRTuningCallback(Scheduled(), reselect_every=3, train_embeddings=False)
    trainer = hf_training.train(model, tmp_path, [callback, reach], gradient_checkpointing=True)
    # A probe at each refresh, then from the lowest active block up.
    through = [set(range(NUM_BLOCKS)) if step in SCHEDULE else set(range(low, 4)) for step, low in lowest()]
    assert reach.steps == through
    assert torch.equal(embeddings, before)
    blocks = callback.controller.blocks.blocks
    assert id(embeddings) not in {id(p) for _, p in blocks.all()}
    assert trainer.model.get_input_embeddings().weight.requires_grad is (kind == "full")


def lowest():
    """Step -> lowest active block, by SCHEDULE."""
    return [(step, min(SCHEDULE[step - step % 3])) for step in range(12)]


def test_embeddings_train_all_the_time_if_they_are_to(tmp_path):
    model = hf_training.make_model("full")
    before = model.get_input_embeddings().weight.clone()
    reach = Reach(model)
    callback = IRTuningCallback("random", k=1, reselect_every=1)
    hf_training.train(model, tmp_path, [callback, reach], max_steps=3)
    assert not torch.equal(model.get_input_embeddings().weight, before)
    assert reach.steps == [set(range(NUM_BLOCKS))] * 3


def test_embeddings_are_all_that_lies_beside_the_blocks_and_holds_tokens_or_places():
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}
    bert = BertForMaskedLM(BertConfig(vocab_size=32, max_position_embeddings=8, **sizes))
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=32, n_embd=16, n_layer=2, n_head=2, n_positions=8))
    for model, expected in (
        (
            bert,
            [f"{kind}_embeddings.weight" for kind in ("word", "position", "token_type")]
            + [f"LayerNorm.{kind}" for kind in ("weight", "bias")],
        ),
        (gpt2, ["wte.weight", "wpe.weight"]),
        (hf_training.make_model("full"), ["embed_tokens.weight"]),
        (hf_training.make_model("lora"), []),
    ):
        names = {id(p): name for name, p in model.named_parameters()}
        found = [names[id(p)] for p in embedding_parameters(model)]
        assert len(found) == len(expected)
        assert all(name.endswith(end) for name, end in zip(found, expected, strict=True))


def test_state_of_frozen_blocks_is_kept_or_dropped(tmp_path):
    options = {"max_steps": 4, "gradient_accumulation_steps": 1}
    held = {}
    for frozen_state in ("keep", "drop"):
        callback = IRTuningCallback(Scheduled(), reselect_every=3, frozen_state=frozen_state)
        trainer = hf_training.train(hf_training.make_model("full"), tmp_path, [callback], **options)
        blocks = callback.controller.blocks.blocks
        with_state = {id(p) for p in trainer.optimizer.optimizer.state}
        held[frozen_state] = [any(id(p) in with_state for _, p in block) for block in blocks.per_block]
        assert {id(p) for _, p in blocks.shared} <= with_state
    # Blocks 0 and 2 train at first, 1 and 3 in the last step.
    assert held == {"keep": [True] * 4, "drop": [False, True, False, True]}


# Checkpoints.


@pytest.mark.parametrize("restore", [False, True])
def test_a_resumed_run_is_the_uninterrupted_one(restore, tmp_path):
    settings = {"importance": {"name": "gradient_norm", "over_time": "mean"}, "reselect_every": 3}
    options = {"max_steps": 10, "gradient_accumulation_steps": 1, "save_strategy": "steps", "save_steps": 5}
    whole, resumed = hf_training.make_model(dropout=0.1), hf_training.make_model(dropout=0.1)
    callback, later = (IRTuningCallback(Scheduled(), **settings) for _ in range(2))
    hf_training.train(whole, tmp_path, [callback], **options)
    written = json.loads((tmp_path / "checkpoint-5" / "trainer_state.json").read_text())
    saved = written["stateful_callbacks"]["IRTuningCallback"]["attributes"]["saved"]
    assert saved["controller"]["policy_state"] == {"at": 3}

    trainer = Trainer(
        resumed,
        hf_training.arguments(tmp_path, restore_callback_states_from_checkpoint=restore, **options),
        train_dataset=hf_training.make_data(),
        data_collator=hf_training.collate,
        callbacks=[later],
    )
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    # Told to restore callbacks, a Trainer makes new ones.
    after = trainer.pop_callback(IRTuningCallback)
    assert (after is later) is not restore
    assert hf_training.same(hf_training.weights(whole), hf_training.weights(resumed))
    assert [record.to_json() for record in after.trace.records] == [r.to_json() for r in callback.trace.records]
    assert [record.step for record in after.trace.records] == [0, 3, 6, 9]
    assert after.controller.state_dict() == callback.controller.state_dict()


def test_a_checkpoint_from_before_the_callback_can_be_resumed(tmp_path, caplog):
    options = {"gradient_accumulation_steps": 1, "save_strategy": "steps", "save_steps": 2}
    hf_training.train(hf_training.make_model(), tmp_path, max_steps=2, **options)
    callback = IRTuningCallback("random", k=2, reselect_every=5)
    trainer = Trainer(
        hf_training.make_model(),
        hf_training.arguments(tmp_path, max_steps=4, **options),
        train_dataset=hf_training.make_data(),
        data_collator=hf_training.collate,
        callbacks=[callback],
    )
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert [record.step for record in callback.trace.records] == [2]
    # And one whose settings were others goes on with a warning.
    other = IRTuningCallback("random", k=1, reselect_every=5)
    trainer.pop_callback(IRTuningCallback)
    trainer.add_callback(other)
    trainer.args.max_steps = 6
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert "other settings" in caplog.text
    assert [record.step for record in other.trace.records] == [2]
    assert other.controller.next_refresh == 7


def test_training_again_starts_anew_and_leaves_nothing_behind(tmp_path):
    model = hf_training.make_model()
    callback = IRTuningCallback("top_k", k=1, reselect_every=2)
    trainer = hf_training.train(model, tmp_path, [callback], max_steps=2)
    first = callback.trace
    trainer.train()
    assert callback.trace is not first
    assert [record.step for record in callback.trace.records] == [0]
    assert not model._forward_pre_hooks
    assert not trainer.optimizer.optimizer._optimizer_step_pre_hooks
    adapters = [p for name, p in model.named_parameters() if "lora" in name]
    assert all(p.requires_grad and not p._post_accumulate_grad_hooks for p in adapters)


# Other Trainers.


class OwnLoss(Trainer):
    """Computes its loss from the model's logits, as TRL's SFTTrainer does for some of its losses.

    TRL is no dependency; this stands for it.
    """

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        logits = model(**inputs, use_cache=False).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")
        return loss / num_items_in_batch


def test_a_trainer_with_a_loss_of_its_own_trains_alike(tmp_path):
    own, standard = hf_training.make_model(), hf_training.make_model()
    for model, trainer_class in ((own, OwnLoss), (standard, Trainer)):
        callback = IRTuningCallback(Scheduled(), reselect_every=3)
        hf_training.train(model, tmp_path, [callback], trainer_class, max_steps=5)
    for ours, theirs in zip(own.parameters(), standard.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_a_probe_apart_needs_the_loss_of_the_model(tmp_path):
    callback = IRTuningCallback("top_k", k=1, importance=APART)
    with pytest.raises(ValueError, match=r"PeftModelForCausalLM gives none for \['input_ids'\]"):
        hf_training.train(hf_training.make_model(), tmp_path, [callback], OwnLoss)


class LooksFirst(Trainer):
    """Looks at the model in evaluation before it trains on it, as reinforcement learning does to sample."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        with torch.no_grad():
            model(input_ids=inputs["input_ids"])
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)


def test_a_look_at_the_model_is_not_taken_for_the_step(tmp_path):
    looked, plain = hf_training.make_model(), hf_training.make_model()
    for model, trainer_class in ((looked, LooksFirst), (plain, Trainer)):
        callback = IRTuningCallback("top_k", k=1, importance=APART)
        hf_training.train(model, tmp_path, [callback], trainer_class, max_steps=2)
    assert hf_training.same(hf_training.weights(looked), hf_training.weights(plain))


class Bypass(Trainer):
    def compute_loss(self, model, inputs, **kwargs):
        return model.get_base_model()(**inputs).loss


class Twice(Trainer):
    def training_step(self, model, inputs, num_items_in_batch=None):
        super().training_step(model, dict(inputs), num_items_in_batch)
        return super().training_step(model, inputs, num_items_in_batch)


def test_steps_that_cannot_be_followed_are_refused(tmp_path):
    callback = IRTuningCallback("top_k", k=1)
    with refused(ValueError, "optimizer step 0 … calls the model"):
        hf_training.train(hf_training.make_model(), tmp_path, [callback], Bypass, max_steps=1)
    with refused(ValueError, "second backward … optimizer step 0"):
        hf_training.train(hf_training.make_model(), tmp_path, [callback], Twice, max_steps=1)
    # Harmless where no gradient is read.
    hf_training.train(hf_training.make_model(), tmp_path, [IRTuningCallback("random", k=1)], Twice, max_steps=1)


def test_seq2seq_trainers_take_models_of_one_stack(tmp_path):
    arguments = Seq2SeqTrainingArguments(
        output_dir=str(tmp_path), max_steps=2, use_cpu=True, report_to="none", save_strategy="no", disable_tqdm=True
    )
    data, callback = hf_training.make_data(), IRTuningCallback("top_k", k=3, reselect_every=1)
    trainer = Seq2SeqTrainer(
        hf_training.make_model(),
        arguments,
        train_dataset=data,
        data_collator=hf_training.collate,
        callbacks=[callback],
    )
    trainer.train()
    assert callback.trace.active().sum(axis=1).tolist() == [3, 3]
    two_stacks = T5ForConditionalGeneration(
        T5Config(vocab_size=32, d_model=16, d_kv=8, d_ff=16, num_layers=2, num_heads=2, decoder_start_token_id=0)
    )
    with refused(ValueError, "T5ForConditionalGeneration", "two stacks"):
        Seq2SeqTrainer(two_stacks, arguments, train_dataset=data, callbacks=[IRTuningCallback("top_k", k=1)])


# What is refused.

ALLOWED = {
    "deepspeed": None,
    "fsdp": None,
    "n_gpu": 1,
    "world_size": 1,
    "ddp_find_unused_parameters": None,
    "ddp_static_graph": None,
    "device": "cuda:0",
    "torch_compile": False,
    "optim": "adamw_torch",
}


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ({"deepspeed": "zero2.json"}, "deepspeed: .*ZeRO .* irtune's own"),
        ({"fsdp": "full_shard"}, "fsdp: sharded .* use DistributedDataParallel"),
        ({"n_gpu": 2}, "DataParallel .*torchrun"),
        ({"world_size": 2, "ddp_find_unused_parameters": False}, "set ddp_find_unused_parameters=True"),
        ({"world_size": 2, "ddp_static_graph": True}, "ddp_static_graph: .* leave it unset"),
        ({"device": "mps"}, "mps has no double precision"),
        ({"torch_compile": True}, "set torch_compile=False"),
        ({"optim": "lomo"}, "optim: lomo .*backward"),
        ({"optim": "schedule_free_adamw"}, "optim: schedule_free_adamw moves all weights"),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, dict) else "",
)
def test_settings_that_would_not_be_exact_are_refused(setting, reason):
    model = hf_training.make_model("full")
    check_trainer(SimpleNamespace(**ALLOWED), model, None, unused_by_default=True)
    with pytest.raises(ValueError, match=f"^IRTuningCallback: .*{reason}"):
        check_trainer(SimpleNamespace(**ALLOWED | setting), model, None, unused_by_default=True)
    both = SimpleNamespace(**ALLOWED | {"torch_compile": True} | setting)
    with pytest.raises(ValueError, match="torch_compile"):
        check_trainer(both, model, None, unused_by_default=True)


@pytest.mark.parametrize(("kind", "reason"), [("DEEPSPEED", "ZeRO"), ("FSDP", "sharded"), ("XLA", "XLA is not supp")])
def test_what_a_launcher_has_set_up_is_seen(kind, reason):
    optimizer = SimpleNamespace(accelerator_state=SimpleNamespace(distributed_type=f"DistributedType.{kind}"))
    with pytest.raises(ValueError, match=reason):
        check_trainer(SimpleNamespace(**ALLOWED), torch.nn.Linear(1, 1), optimizer, unused_by_default=True)


def test_reentrant_checkpointing_is_refused(tmp_path):
    reentrant = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}}
    with pytest.raises(ValueError, match=r"^IRTuningCallback: gradient_checkpointing: the reentrant kind"):
        hf_training.train(hf_training.make_model(), tmp_path, [IRTuningCallback("all")], **reentrant)


def test_two_callbacks_are_refused(tmp_path):
    with refused(ValueError, "takes one … has 2"):
        hf_training.train(hf_training.make_model(), tmp_path, [IRTuningCallback("all"), IRTuningCallback("all")])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"policy": "topk", "k": 1}, r"^policy: .*'topk'.*'top_k'\? available: .*random"),
        ({"policy": "top_k"}, r"^policy\.k: has to be given"),
        ({"policy": "top_k", "k": 1.5}, r"^policy\.k: 1\.5 is not a fraction"),
        ({"policy": "all", "k": 1}, "^policy: all has no option 'k'"),
        ({"policy": "top_k", "k": 1, "reselct_every": 5}, "'reselct_every'.*'reselect_every'\\?"),
        ({"policy": TopK(k=1), "k": 2}, r"^policy: \['k'\] .*TopK.* object"),
        ({"policy": {"k": 2}}, r"^policy: \{'k': 2\} .*name.* available: .*top_k"),
        ({"policy": "irtune.layers:Blocks"}, "is not a subclass of SelectionPolicy"),
        ({"importance": {"name": "gradient_norm", "tensor": "all"}}, "did you mean 'tensors'"),
        ({"importance": "gradient"}, r"^importance: unknown name 'gradient'"),
        ({"reselect_every": -1}, "^reselect_every: -1 is no number"),
        ({"frozen_state": "droped"}, "^frozen_state: .*'droped'.*'drop'\\?"),
        ({"on_thaw": "forget"}, "^on_thaw: .*'forget'.* available: keep, reset"),
        ({"measure": "never"}, "^measure: unknown value 'never'"),
    ],
    ids=str,
)
def test_mistakes_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        IRTuningCallback(**settings)


def test_mistakes_that_only_a_model_shows_are_named(tmp_path):
    with refused(ValueError, "9 … 4"):
        hf_training.train(hf_training.make_model(), tmp_path, [IRTuningCallback("top_k", k=9)])
    by_lora = IRTuningCallback("top_k", k=1, importance=GradientNorm())
    with refused(ValueError, "importance.tensors:", "lora_B"):
        hf_training.train(hf_training.make_model("full"), tmp_path, [by_lora])
    with refused(ValueError, "no controller before"):
        _ = IRTuningCallback("all").trace


def test_every_way_to_name_a_policy_means_the_same():
    ways = [("top_k", {"k": 2}), ({"name": "top_k", "k": 2}, {}), (TopK(k=2), {}), ("irtune.selection:TopK", {"k": 2})]
    assert {IRTuningCallback(policy, **options).policy for policy, options in ways} == {TopK(k=2)}
    assert IRTuningCallback().policy.name == "variance_split"


# What users see first.


def test_the_snippet_of_the_readme_runs(tmp_path):
    blocks = README.read_text(encoding="utf-8").split("```python\n")[1:]
    snippet = next(block.split("```")[0] for block in blocks if "IRTuningCallback" in block)
    assert len([line for line in snippet.splitlines() if line.strip()]) <= 7
    known = {
        "Trainer": Trainer,
        "model": hf_training.make_model(),
        "args": hf_training.arguments(tmp_path, max_steps=2),
        "data": hf_training.make_data(),
    }
    folder = os.getcwd()
    os.chdir(tmp_path)
    try:
        exec(snippet, known)
    finally:
        os.chdir(folder)
    callback = known["trainer"].pop_callback(IRTuningCallback)
    assert [len(record.active) for record in callback.trace.records] == [callback.policy.k]
    assert (tmp_path / "trace.png").stat().st_size > 10_000


def test_scores_differ_between_refreshes(tmp_path):
    callback = IRTuningCallback("top_k", k=2, reselect_every=1)
    hf_training.train(hf_training.make_model(), tmp_path, [callback], max_steps=3)
    assert all(not np.array_equal(a, b) for a, b in pairwise(callback.trace.scores()))
    assert [record.importance.measured_at.tolist() for record in callback.trace.records] == [[s] * 4 for s in range(3)]
