"""A model of which some blocks cannot train is selected among the others; indices remain those of the model."""

import hf_training
import numpy as np
import peft
import pytest
import torch
from saying import refused
from transformers import Trainer

import irtune
from irtune import IRTuningCallback
from irtune.importance import Importance
from irtune.layers import BlockError, map_parameters
from irtune.selection import CostAware, SelectionContext, Static, StepCost, TopK

TRAINABLE = (1, 3)
OPTIONS = {"max_steps": 4, "gradient_accumulation_steps": 1}


def layers_of(model):
    return (model.get_base_model() if hasattr(model, "get_base_model") else model).model.layers


def make_model(kind):
    """A model of 4 blocks of which two can train."""
    if kind == "layers_to_transform":
        torch.manual_seed(0)
        config = peft.LoraConfig(r=2, target_modules=["q_proj"], layers_to_transform=list(TRAINABLE))
        return peft.get_peft_model(hf_training.make_model("full"), config)
    model = hf_training.make_model(kind)
    for index in set(range(hf_training.NUM_BLOCKS)) - set(TRAINABLE):
        layers_of(model)[index].requires_grad_(False)
    return model


def moved(model, before):
    """The blocks whose weights have changed."""
    return [
        index
        for index, layer in enumerate(layers_of(model))
        if not hf_training.same(hf_training.weights(layer), before[index])
    ]


SIGNALS = [
    None,
    "weight_norm",
    "cosine_similarity",
    "cka_distance",
    "activation_energy",
    {"name": "gradient_norm", "tensors": "all", "probe_fraction": 0.5},
]


@pytest.mark.parametrize("importance", SIGNALS, ids=str)
@pytest.mark.parametrize("kind", ["layers_to_transform", "lora", "full"])
def test_selection_is_among_the_blocks_that_can_train(kind, importance, tmp_path, caplog):
    model = make_model(kind)
    trains = [p.requires_grad for p in model.parameters()]
    before = [hf_training.weights(layer) for layer in layers_of(model)]
    callback = IRTuningCallback("top_k", k=1, reselect_every=2, importance=importance)
    hf_training.train(model, tmp_path, [callback], **OPTIONS)
    trace = callback.trace
    assert trace.active().shape == trace.scores().shape == (2, hf_training.NUM_BLOCKS)
    for active, scores in zip(trace.active(), trace.scores(), strict=True):
        assert np.flatnonzero(active).tolist() == [np.nanargmax(scores)]
        assert np.flatnonzero(~np.isnan(scores)).tolist() == list(TRAINABLE)
    assert moved(model, before) == sorted({record.active[0] for record in trace.records})
    assert [p.requires_grad for p in model.parameters()] == trains
    assert "of the 4 blocks [1, 3] are trainable" in caplog.text
    irtune.plot_trace(callback, tmp_path / "trace.png")


def test_scores_are_those_of_the_same_blocks(tmp_path):
    """Weights are read from the blocks that the trace names."""
    scores = []
    for model in (make_model("full"), hf_training.make_model("full")):
        callback = IRTuningCallback("top_k", k=1, importance="weight_norm")
        hf_training.train(model, tmp_path, [callback], max_steps=1)
        scores.append(callback.trace.scores()[0])
    assert scores[0][list(TRAINABLE)].tolist() == scores[1][list(TRAINABLE)].tolist()
    assert np.isnan(scores[0][[0, 2]]).all()


def test_fractions_and_counts_are_of_the_trainable_blocks(tmp_path):
    half = IRTuningCallback("top_k", k=0.5)
    hf_training.train(make_model("lora"), tmp_path, [half], max_steps=1)
    assert [len(record.active) for record in half.trace.records] == [1]
    both = IRTuningCallback("random", k=2)
    hf_training.train(make_model("lora"), tmp_path, [both], max_steps=1)
    assert both.trace.records[0].active == TRAINABLE
    many = IRTuningCallback("top_k", k=3)
    with refused(ValueError, "selection.policy.k: 3", "of the 4 … [1, 3] are trainable"):
        hf_training.train(make_model("lora"), tmp_path, [many], max_steps=1)


def test_listed_blocks_are_those_of_the_model(tmp_path):
    listed = IRTuningCallback("static", blocks=[3])
    hf_training.train(make_model("lora"), tmp_path, [listed], max_steps=1)
    assert listed.trace.records[0].active == (3,)
    assert listed.policy.blocks == (3,)
    frozen = IRTuningCallback("static", blocks=[0, 3])
    with pytest.raises(ValueError, match=r"selection\.policy\.blocks: \[0\] hold nothing trainable"):
        hf_training.train(make_model("lora"), tmp_path, [frozen], max_steps=1)
    assert Static(blocks=(7, 2)).among([1, 2, 4, 7]).blocks == (1, 3)
    assert Static(k=1).among([1, 2]) == Static(k=1)
    assert TopK(k=1).among([1, 2]) == TopK(k=1)


@pytest.mark.parametrize("trainable", [(1, 3), (1, 2)])
def test_a_resumed_run_needs_the_same_blocks(trainable, tmp_path):
    options = OPTIONS | {"save_strategy": "steps", "save_steps": 2}
    whole = make_model("lora")
    callback, later = (IRTuningCallback("top_k", k=1, reselect_every=3) for _ in range(2))
    hf_training.train(whole, tmp_path, [callback], **options)
    resumed = make_model("lora")
    if trainable != TRAINABLE:
        layers_of(resumed)[3].requires_grad_(False)
        for name, parameter in layers_of(resumed)[2].named_parameters():
            parameter.requires_grad_("lora" in name)
    trainer = Trainer(
        resumed,
        hf_training.arguments(tmp_path, **options),
        train_dataset=hf_training.make_data(),
        data_collator=hf_training.collate,
        callbacks=[later],
    )
    if trainable != TRAINABLE:
        with refused(ValueError, "[1, 3] were trainable … now … [1, 2]"):
            trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
        return
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert hf_training.same(hf_training.weights(whole), hf_training.weights(resumed))
    assert [record.to_json() for record in later.trace.records] == [r.to_json() for r in callback.trace.records]


def test_the_mapping_leaves_out_what_cannot_train_only_if_told():
    model = make_model("lora")
    with refused(BlockError, "[0, 2]", "no trainable"):
        map_parameters(model)
    found = map_parameters(model, leave_out_frozen=True)
    assert (len(found), found.num_in_model, found.indices, found.left_out) == (2, 4, TRAINABLE, (0, 2))
    assert {name.split("layers.")[1][0] for block in found.per_block for name, _ in block} == {"1", "3"}
    layers_of(model).requires_grad_(False)
    with pytest.raises(BlockError, match=r"blocks \[0, 1, 2, 3\]"):
        map_parameters(model, leave_out_frozen=True)
    whole = map_parameters(hf_training.make_model(), leave_out_frozen=True)
    assert (whole.left_out, whole.indices) == ((), (0, 1, 2, 3))


def test_scores_and_costs_by_hand():
    scores = Importance(np.array([2.0, 5.0]), np.array([7, 8]), np.array([1, 3])).among(4, TRAINABLE)
    assert scores.to_json() == {"scores": [None, 2, None, 5], "measured_at": [-1, 7, -1, 8], "num_probes": [0, 1, 0, 3]}
    # Forward through 6 blocks; backwards from the top through 5 down to block 1, through 4 to block 2, 1 to block 5.
    cost = StepCost.between([1, 2, 5], 6)
    assert [cost.of(active) for active in ([0, 1, 2], [1], [2])] == [11, 10, 7]
    assert StepCost.between(range(3), 3).of([1]) == StepCost.uniform(3).of([1])
    # Three quarters of 11 pay for block 5 alone, which blocks that all cost alike would not show.
    importance = Importance(np.array([9.0, 8.0, 1.0]), np.zeros(3, dtype=int), np.ones(3, dtype=int))
    context = SelectionContext(3, 0, 10, importance, np.random.default_rng(0), cost=cost)
    assert CostAware(budget=0.75).select(context)[0] == (2,)
