"""Named methods in the plug-in are those of the command line, and explicit arguments lie above them."""

import hf_training
import peft
import pytest
import torch
from saying import refused
from transformers import LlamaConfig, LlamaForSequenceClassification, Trainer

from irtune import IRTuningCallback
from irtune.config.load import build
from irtune.config.schema import ExperimentConfig
from irtune.importance import GradientNorm, WeightNorm
from irtune.methods import METHODS
from irtune.selection import IST, POLICIES, RandomBlocks, VarianceSplit

ONE_STEP = {"max_steps": 1, "gradient_accumulation_steps": 1}


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_method_is_the_same_as_in_a_configuration(name):
    config = build(ExperimentConfig, {"method": name}, "x")
    callback = IRTuningCallback(name)
    assert callback.policy == config.selection.policy
    assert (callback.reselect_every, callback.on_thaw) == (config.selection.reselect_every, config.selection.on_thaw)
    assert callback.train_head == config.model.train_head
    assert callback.signal in (None, config.importance)
    assert (callback.signal is None) == ("importance" not in METHODS[name].identity)
    again = IRTuningCallback(**callback.state()["args"])
    assert again.state() == callback.state()


def test_two_methods_by_hand():
    lisa = IRTuningCallback("lisa")
    assert (lisa.policy, lisa.reselect_every, lisa.signal) == (RandomBlocks(k=2), 20, None)
    authors = IRTuningCallback("ir_authors")
    assert authors.policy == VarianceSplit(window=(0.35, 0.65), cut="authors", initial_score=1000)
    assert authors.reselect_every == 1
    assert not authors.train_head
    assert (authors.signal.tensors, authors.signal.gradient, authors.signal.stale) == ("all", "local", True)
    assert (authors.signal.within_block, authors.signal.nonfinite_norm) == ("root_of_roots", 1000)


def test_explicit_arguments_lie_above_the_method():
    lisa = IRTuningCallback("lisa", k=4, reselect_every=5)
    assert (lisa.policy, lisa.reselect_every) == (RandomBlocks(k=4), 5)
    assert IRTuningCallback("badam").on_thaw == "reset"
    # The default of the plug-in is said as well as any other value.
    badam = IRTuningCallback("badam", on_thaw="keep", reselect_every=20)
    assert (badam.on_thaw, badam.reselect_every) == ("keep", 20)
    assert IRTuningCallback("spectrum", reselect_every=0).reselect_every == 0
    authors = IRTuningCallback("ir_authors", train_head=True, window=(0.2, 0.8), importance={"within_block": "max"})
    assert authors.train_head
    assert authors.policy.window == (0.2, 0.8)
    assert (authors.policy.cut, authors.signal.within_block, authors.signal.stale) == ("authors", "max", True)
    assert IRTuningCallback("ir", importance=GradientNorm(within_block="max")).signal.within_block == "max"
    assert IRTuningCallback("lisa", importance="weight_norm").signal == WeightNorm()
    with refused(ValueError, "importance: 'weight_norm' … 'ir_cosine' … 'cosine_similarity'"):
        IRTuningCallback("ir_cosine", importance="weight_norm")


def test_a_name_that_is_a_policy_too_is_the_method():
    assert {"ist", "grad_es", "cost_aware"} <= METHODS.keys() & POLICIES.keys()
    assert IRTuningCallback("ist").reselect_every == 1
    assert IRTuningCallback({"name": "ist"}).reselect_every == 20
    assert IRTuningCallback({"name": "ist"}).policy == IRTuningCallback("ist").policy == IST()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("lsia", {}, r"^policy: .*'lsia'.*'lisa'\? available: .*ir_authors.*top_k"),
        ({"name": "lisa", "k": 4}, {}, "^policy: 'lisa' is a method.* name alone"),
        ("lisa", {"kk": 1}, r"^policy: random .*'kk'.*'k'\?"),
        ("lisa", {"reselct_every": 1}, "did you mean 'reselect_every'"),
        ("lisa", {"k": 0}, r"^policy\.k: 0 is not"),
        ("ir", {"importance": {"withn_block": "max"}}, r"^importance: .*did you mean 'within_block'"),
    ],
)
def test_mistakes_are_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        IRTuningCallback(name, **options)


UNFIT = {
    "ir_weight": {"importance": {"modules": "o_proj"}},
    "owlore": {"k": 2},
}
"""What a model of four blocks needs beside the name."""


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_trains_with_adapters_and_without(name, kind, tmp_path):
    model = hf_training.make_model(kind)
    before = hf_training.weights(model)
    callback = IRTuningCallback(name, **UNFIT.get(name, {}))
    hf_training.train(model, tmp_path, [callback], learning_rate=0.1, warmup_steps=0, **ONE_STEP)
    (record,) = callback.trace.records
    moved = {
        int(n.split("layers.")[1].split(".")[0])
        for n, p in model.named_parameters()
        if "layers." in n and not torch.equal(p, before[n])
    }
    assert moved == set(record.active)


def test_which_tensors_are_read_is_found_unless_said(tmp_path):
    for kind, tensors in (("lora", "lora_B"), ("full", "all")):
        callback = IRTuningCallback("ada_grad_select")
        hf_training.train(hf_training.make_model(kind), tmp_path, [callback], **ONE_STEP)
        assert callback.controller.signal == GradientNorm(tensors=tensors, over_time="mean")
        assert "tensors" not in callback.state()["args"]["importance"]
    callback = IRTuningCallback("rgn")
    hf_training.train(hf_training.make_model(), tmp_path, [callback], **ONE_STEP)
    assert callback.controller.signal.tensors == "effective_update"
    said = IRTuningCallback("ir", importance={"tensors": "lora_B"})
    with refused(ValueError, "importance.tensors:", "lora_B"):
        hf_training.train(hf_training.make_model("full"), tmp_path, [said], **ONE_STEP)


def make_classifier():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForSequenceClassification(LlamaConfig(vocab_size=32, pad_token_id=0, num_labels=2, **sizes))
    return peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="SEQ_CLS"))


@pytest.mark.parametrize("name", ["ir", "ir_authors"])
def test_the_head_of_the_authors_stays_random(name, tmp_path):
    model = make_classifier()
    trains = [p.requires_grad for p in model.parameters()]
    before = hf_training.weights(model)
    data = [{"input_ids": row["input_ids"], "labels": row["labels"][0] % 2} for row in hf_training.make_data()]
    trainer = Trainer(
        model,
        hf_training.arguments(tmp_path, warmup_steps=0, **ONE_STEP),
        train_dataset=data,
        data_collator=hf_training.collate,
        callbacks=[IRTuningCallback(name)],
    )
    trainer.train()
    moved = [n for n, p in model.named_parameters() if not torch.equal(p, before[n])]
    assert any("lora" in n for n in moved)
    assert any("score" in n for n in moved) is (name == "ir")
    assert [p.requires_grad for p in model.parameters()] == trains


def test_chosen_once_is_chosen_also_where_training_is_prolonged(tmp_path):
    options = {"gradient_accumulation_steps": 1, "save_strategy": "steps", "save_steps": 2}
    callback = IRTuningCallback("spectrum", k=1)
    hf_training.train(hf_training.make_model("full"), tmp_path, [callback], max_steps=2, **options)
    later = IRTuningCallback("spectrum", k=1)
    trainer = Trainer(
        hf_training.make_model("full"),
        hf_training.arguments(tmp_path, max_steps=4, **options),
        train_dataset=hf_training.make_data(),
        data_collator=hf_training.collate,
        callbacks=[later],
    )
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert [record.step for record in later.trace.records] == [0]
