"""Finding the blocks of a model, and telling which trainable parameter belongs to which."""

from types import SimpleNamespace

import numpy as np
import peft
import pytest
import torch
from saying import refused
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification

from irtune.layers import BlockError, map_parameters
from irtune.layers.blocks import counts, find_blocks, size_of

NUM_BLOCKS = 6
DECODER = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": NUM_BLOCKS,
    "num_attention_heads": 4,
    "vocab_size": 64,
    "pad_token_id": 0,
    "max_position_embeddings": 32,
}
GROUPED = DECODER | {"num_key_value_heads": 2}

# Architecture -> its settings, where its blocks are, how many adapter tensors a block has, and which shared adapters.
# An all-linear LoRA adds two tensors to each linear layer: 7 in a Llama block (as in a Mixtral one: attention, router,
# and one each for the two stacks of experts), 4 in a GPT-2 block, 6 in a BERT block.
ARCHITECTURES = {
    "llama": (GROUPED, "model.layers", 14, ()),
    "qwen2": (GROUPED, "model.layers", 14, ()),
    "gemma2": (GROUPED | {"head_dim": 4}, "model.layers", 14, ()),
    "mixtral": (GROUPED | {"num_local_experts": 2}, "model.layers", 14, ()),
    "gpt2": (
        {"n_embd": 16, "n_layer": NUM_BLOCKS, "n_head": 4, "vocab_size": 64, "pad_token_id": 0},
        "transformer.h",
        8,
        (),
    ),
    "bert": (DECODER, "bert.encoder.layer", 12, ("bert.pooler.dense",)),
    "distilbert": (
        {"dim": 16, "hidden_dim": 32, "n_layers": NUM_BLOCKS, "n_heads": 4, "vocab_size": 64},
        "distilbert.transformer.layer",
        12,
        (),
    ),
}


def classifier(architecture, settings):
    return AutoModelForSequenceClassification.from_config(AutoConfig.for_model(architecture, num_labels=3, **settings))


def with_lora(model, **options):
    options = {"target_modules": "all-linear"} | options
    return peft.get_peft_model(model, peft.LoraConfig(task_type="SEQ_CLS", r=2, **options))


@pytest.fixture(scope="module")
def llama():
    return with_lora(classifier("llama", GROUPED))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_adapter_parameter_is_in_its_block_and_the_head_is_shared(architecture):
    settings, where, tensors_per_block, shared_adapters = ARCHITECTURES[architecture]
    # PEFT takes DistilBERT's pre_classifier for part of the head, and refuses to put an adapter on it too.
    model = with_lora(classifier(architecture, settings), exclude_modules=["pre_classifier"])
    blocks = map_parameters(model)

    assert len(blocks) == NUM_BLOCKS
    assert blocks.name == where
    for index, block in enumerate(blocks.per_block):
        assert all(name.startswith(f"base_model.model.{where}.{index}.") for name, _ in block)
        assert len(block) == tensors_per_block
    outside = [name for name, _ in blocks.shared]
    heads = [name for name in outside if ".modules_to_save." in name]
    assert heads
    adapters = [name for name in outside if name not in heads]
    expected = [f"base_model.model.{module}.lora_{side}.default.weight" for module in shared_adapters for side in "AB"]
    assert adapters == expected
    # Nothing that trains is lost or counted twice, and nothing else is taken.
    trainable = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    mapped = [id(parameter) for _, parameter in blocks.all()]
    assert len(mapped) == len(set(mapped))
    assert set(mapped) == trainable


def test_blocks_are_the_same_with_and_without_the_adapter(llama):
    bare = classifier("llama", GROUPED)
    name, members = find_blocks(bare)
    assert name == find_blocks(llama)[0] == "model.layers"
    assert members is bare.model.layers
    # Full fine-tuning: every weight of a block is its own, embeddings and head are shared.
    blocks = map_parameters(bare)
    assert len(blocks.per_block[0]) == len(list(bare.model.layers[0].parameters()))
    assert [name for name, _ in blocks.shared] == ["model.embed_tokens.weight", "model.norm.weight", "score.weight"]


def test_sizes_count_the_elements_of_the_tensors_asked_for(llama):
    blocks = map_parameters(llama)
    # r x inputs and outputs x r, for q, k, v, o, gate, up, down; the two key-value heads halve k and v.
    down_to_rank = [2 * 16] * 6 + [2 * 32]
    up_from_rank = [16 * 2, 8 * 2, 8 * 2, 16 * 2, 32 * 2, 32 * 2, 16 * 2]
    for sizes in blocks.sizes("lora_B"):
        np.testing.assert_array_equal(sizes, up_from_rank)
    for sizes in blocks.sizes("lora_A"):
        np.testing.assert_array_equal(sizes, down_to_rank)
    assert [sizes.sum() for sizes in blocks.sizes("all")] == [sum(down_to_rank + up_from_rank)] * NUM_BLOCKS


def test_tensors_are_meant_by_a_whole_component_of_their_name():
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.default.weight"
    assert counts(name, "lora_B")
    assert counts(name, "all")
    assert not counts(name, "lora")
    assert not counts(name, "lora_A")


def test_a_parameter_that_zero_has_partitioned_away_keeps_its_size():
    parameter = nn.Parameter(torch.empty(0))
    parameter.ds_numel = 4096
    assert size_of(parameter) == 4096
    assert size_of(nn.Parameter(torch.zeros(3, 5))) == 15


def test_albert_shares_one_block_among_all_layers_and_is_refused():
    model = with_lora(classifier("albert", DECODER | {"embedding_size": 8}))
    with refused(BlockError, "model.name: AlbertForSequenceClassification", "6"):
        map_parameters(model)


@pytest.mark.parametrize("tuner", [peft.PromptTuningConfig, peft.PrefixTuningConfig])
def test_tuners_without_parameters_in_blocks_are_refused(tuner):
    model = peft.get_peft_model(classifier("llama", GROUPED), tuner(task_type="SEQ_CLS", num_virtual_tokens=2))
    with refused(BlockError, "adapter.type: … [0, 1, 2, 3, 4, 5] … model.layers"):
        map_parameters(model)


def test_blocks_that_the_adapter_leaves_out_are_named():
    model = with_lora(classifier("llama", GROUPED), target_modules=["q_proj"], layers_to_transform=[0, 2, 3])
    with refused(BlockError, "adapter.type: … [1, 4, 5]", "target_modules"):
        map_parameters(model)


class Block(nn.Module):
    def __init__(self, width=2):
        super().__init__()
        self.linear = nn.Linear(width, width, bias=False)


class Model(nn.Module):
    """A model of ``num_hidden_layers`` blocks with the given module lists."""

    def __init__(self, num_blocks, no_split=(), **lists):
        super().__init__()
        self.config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(num_hidden_layers=num_blocks))
        self._no_split_modules = list(no_split)
        for name, members in lists.items():
            setattr(self, name, nn.ModuleList(members))


def test_of_lists_of_equal_length_the_one_named_as_not_to_be_split_has_the_blocks():
    large = [nn.Linear(64, 64) for _ in range(3)]
    model = Model(3, ["Block"], projections=large, blocks=[Block() for _ in range(3)])
    assert find_blocks(model)[0] == "blocks"


def test_of_equals_the_largest_list_has_the_blocks():
    model = Model(3, norms=[nn.LayerNorm(2) for _ in range(3)], blocks=[Block(8) for _ in range(3)])
    assert find_blocks(model)[0] == "blocks"


def test_lists_of_parts_of_blocks_are_not_taken_for_blocks():
    model = Model(3, attentions=[Block(4) for _ in range(3)], norms=[nn.LayerNorm(2)] * 3, ffns=[Block(8)] * 3)
    with refused(BlockError, "whole blocks", "attentions, ffns"):
        find_blocks(model)


def test_lists_within_blocks_are_parts_of_them():
    members = [Block(8) for _ in range(2)]
    for member in members:
        member.experts = nn.ModuleList([Block(2), Block(2)])
    assert find_blocks(Model(2, blocks=members))[0] == "blocks"


def test_a_longer_or_larger_list_is_none_of_the_blocks():
    model = Model(3, experts=[Block(64) for _ in range(8)], blocks=[Block(2) for _ in range(3)])
    assert find_blocks(model)[0] == "blocks"


def test_a_parameter_of_several_blocks_is_shared():
    members = [Block() for _ in range(3)]
    bank = nn.Parameter(torch.zeros(4))
    for member in members[:2]:
        member.bank = bank
    blocks = map_parameters(Model(3, blocks=members))
    assert [name for name, _ in blocks.shared] == ["blocks.0.bank"]
    assert [[name for name, _ in block] for block in blocks.per_block] == [
        [f"blocks.{index}.linear.weight"] for index in range(3)
    ]


def test_parameters_that_do_not_train_are_left_out():
    members = [Block() for _ in range(2)]
    for member in members:
        member.frozen = nn.Parameter(torch.zeros(1), requires_grad=False)
    blocks = map_parameters(Model(2, blocks=members))
    assert [name for name, _ in blocks.all()] == ["blocks.0.linear.weight", "blocks.1.linear.weight"]
