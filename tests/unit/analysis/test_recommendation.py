"""What PEFT is told to do: which blocks, which ranks, and that a real model then has just these."""

import re
from types import SimpleNamespace

import numpy as np
import peft
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from saying import refused, says
from tiny_models import ARCHITECTURES, NUM_BLOCKS, classifier
from torch import nn

from irtune.analysis.ablation.stability import Choices
from irtune.analysis.recommendation import (
    LoraAdapter,
    advise,
    as_python,
    as_yaml,
    layers_config,
    mean_importance,
    most_trained,
    over_seeds,
    proportional_ranks,
    ranks_config,
)
from irtune.config.schema import AdapterConfig
from irtune.training.adapter import add_adapter

SETTINGS = {"r": 4, "lora_alpha": 8.0, "lora_dropout": 0.0, "target_modules": ["q_proj", "v_proj"]}
LLAMA = LoraAdapter(SETTINGS, "model.layers", ("score",))


def choices(frequency, importance=None, seed=0):
    frequency = np.array(frequency, dtype=float)
    scores = np.full(len(frequency), np.nan) if importance is None else np.array(importance, dtype=float)
    return Choices(seed, frequency, scores, frequency > 0.5)


def test_the_blocks_that_trained_most_often_are_named():
    # 1.2 and 1.0 blocks at a step: one block; over both seeds block 2 is ahead.
    assert most_trained([choices([0.6, 0.1, 0.5]), choices([0.1, 0.1, 0.8])]) == (2,)
    # 1.5 blocks are two.
    assert most_trained([choices([0.9, 0.0, 0.6])]) == (0, 2)
    # A block always trains, however seldom the choice was changed.
    assert most_trained([choices([0.2, 0.1, 0.1])]) == (0,)


def test_of_equals_the_more_important_block_is_named_and_then_the_upper_one():
    assert most_trained([choices([0.5, 0.5, 0.0], [2, 1, 9])]) == (0,)
    assert most_trained([choices([0.5, 0.5, 0.0])]) == (1,)
    # Shares that differ by rounding only are equal.
    assert most_trained([choices([0.1 + 0.2, 0.3, 0.9], [1, 2, 0])]) == (1, 2)


def test_ranks_are_in_proportion_to_importance():
    assert proportional_ranks(np.array([1.0, 2.0, 3.0, 4.0]), 5) == (2, 4, 6, 8)
    assert proportional_ranks(np.ones(3), 7) == (7, 7, 7)
    # 1.8, 2.1, 2.1 of six: the larger remainder is the first block's.
    assert proportional_ranks(np.array([30.0, 35.0, 35.0]), 2) == (2, 2, 2)
    # 2.5 and 2.5 and 1: of equal remainders the lower block's.
    assert proportional_ranks(np.array([2.5, 2.5, 1.0]), 2) == (3, 2, 1)
    # A block without importance keeps rank 1, and the others share the other six.
    assert proportional_ranks(np.array([0.0, 2.0, 1.0, 0.0]), 2) == (1, 4, 2, 1)
    assert proportional_ranks(np.array([5.0, 0.1]), 1) == (1, 1)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=40).filter(any), st.integers(1, 64))
def test_the_sum_of_ranks_is_kept_and_more_importance_never_gets_less(importance, rank):
    ranks = np.array(proportional_ranks(np.array(importance), rank))
    assert ranks.sum() == rank * len(importance)
    assert ranks.min() >= 1
    order = np.argsort(importance, kind="stable")
    strictly = np.diff(np.array(importance)[order]) > 1e-6 * max(importance)
    assert (np.diff(ranks[order])[strictly] >= 0).all()


def test_seeds_that_measured_nothing_are_left_out():
    mean, deviation = over_seeds([np.array([1.0, np.nan, np.inf]), np.array([3.0, 5.0, np.nan])])
    assert mean.tolist()[:2] == [2.0, 5.0]
    assert deviation[0] == pytest.approx(np.sqrt(2))
    assert np.isnan(mean[2])
    assert np.isnan(deviation[1:]).all()
    assert mean_importance([choices([1, 0], [1, 2]), choices([1, 0])]).tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("importance", "fact"),
    [
        (None, "selection.measure=always"),
        ([1.0, np.nan, 2.0], "blocks 1"),
        ([1.0, -1.0, 2.0], "negative"),
        ([0.0, 0.0, 0.0], "all zero"),
    ],
)
def test_without_a_proportion_only_blocks_are_named(importance, fact):
    advice = advise([choices([1, 0, 1], importance)], LLAMA)
    assert advice.layers == (0, 2)
    assert (advice.ranks, list(advice.configs)) == (None, ["layers"])
    assert says(" ".join(advice.notes), fact)


def test_what_speaks_against_relying_on_it_is_said():
    agreeing = [choices([1, 0, 0, 0], [4, 1, 1, 1], seed) for seed in (0, 1)]
    assert advise(agreeing, LLAMA).notes == ()
    assert says(*advise(agreeing[:1], LLAMA).notes, "one seed")
    others = [choices([1, 0, 0, 0], [4, 1, 1, 1], 0), choices([0, 1, 0, 0], [1, 4, 1, 1], 1)]
    assert says(*advise(others, LLAMA).notes, "overlap 0.00, chance 0.25")
    assert says(*advise([choices([1, 1, 1, 1], [1, 1, 1, 1], seed) for seed in (0, 1)], LLAMA).notes, "all of them")
    frozen = LoraAdapter(SETTINGS, "model.layers", (), trains_head=False)
    assert says(*advise(agreeing, frozen).notes, "model.train_head=false")


def test_an_adapter_that_differs_between_blocks_is_refused():
    with refused(ValueError, "adapter.options.rank_pattern", "--trial"):
        LoraAdapter(SETTINGS | {"rank_pattern": {"q_proj": 8}}, "model.layers")


def adapted(name, config):
    """Of a real model: ranks by block, names outside of blocks, and how many parameters train."""
    model = classifier(name)
    wrapped = peft.get_peft_model(model, peft.LoraConfig(**config))
    return facts(name, wrapped)


def facts(name, wrapped):
    where = re.compile(rf"\.{re.escape(ARCHITECTURES[name].where)}\.(\d+)\.")
    ranks, outside = {}, []
    for key, module in wrapped.named_modules():
        if not hasattr(module, "lora_A"):
            continue
        found = where.search(key)
        if found is None:
            outside.append(key)
        else:
            ranks.setdefault(int(found[1]), set()).update(module.r.values())
            scaling = module.scaling["default"]
            assert scaling == pytest.approx(2.0)
    trained = [parameter.numel() for parameter in wrapped.parameters() if parameter.requires_grad]
    return SimpleNamespace(ranks=ranks, outside=outside, num_trained=sum(trained))


NAMES = ["llama", "gpt2", "opt", "bert", "distilbert", "deberta-v2"]
TARGETS = {"llama": ["q_proj", "down_proj"], "gpt2": ["c_attn"], "opt": ["k_proj", "fc1"]}
# Beside their blocks BERT and its heirs have modules of these names too.
TARGETS |= {"bert": ["dense", "query"], "distilbert": ["q_lin", "lin1"], "deberta-v2": ["dense", "query_proj"]}


@pytest.mark.parametrize("targets", ["names", "all-linear"])
@pytest.mark.parametrize("name", NAMES)
def test_a_real_model_gets_just_these_adapters(name, targets):
    targets = TARGETS[name] if targets == "names" else targets
    architecture, settings = ARCHITECTURES[name], SETTINGS | {"target_modules": targets}
    adapter = LoraAdapter(settings, architecture.where, architecture.head)
    config = AdapterConfig(r=4, alpha=8, dropout=0, target_modules=targets)
    uniform = facts(name, add_adapter(classifier(name), config, train_head=True, seed=0))
    assert uniform.ranks == {block: {4} for block in range(NUM_BLOCKS)}

    few = adapted(name, layers_config(adapter, (1, 3)))
    assert few.ranks == {1: {4}, 3: {4}}
    assert few.outside == []
    every = adapted(name, layers_config(adapter, range(NUM_BLOCKS)))
    assert every.num_trained == uniform.num_trained

    ranks = proportional_ranks(np.array([1.0, 2.0, 3.0, 4.0]), 4)
    assert ranks == (2, 3, 5, 6)
    own = adapted(name, ranks_config(adapter, ranks))
    assert own.ranks == {block: {rank} for block, rank in enumerate(ranks)}
    assert own.outside == []
    assert own.num_trained == uniform.num_trained


def test_the_tenth_block_is_not_taken_for_the_first():
    settings = ARCHITECTURES["llama"].settings | {"num_hidden_layers": 12}
    for targets in (["q_proj"], "all-linear", r".*\.q_proj"):
        adapter = LoraAdapter(SETTINGS | {"target_modules": targets}, "model.layers")
        wrapped = peft.get_peft_model(classifier("llama", settings), peft.LoraConfig(**layers_config(adapter, (1,))))
        assert facts("llama", wrapped).ranks == {1: {4}}
        config = ranks_config(adapter, (9, *range(2, 13)))
        wrapped = peft.get_peft_model(classifier("llama", settings), peft.LoraConfig(**config))
        assert facts("llama", wrapped).ranks == {0: {9}} | {block: {block + 1} for block in range(1, 12)}


@pytest.mark.parametrize("targets", [["q_proj"], r".*q_proj"])
def test_another_list_of_blocks_is_left_alone(targets):
    def blocks(count):
        body = nn.Module()
        body.layers = nn.ModuleList(nn.ModuleDict({"q_proj": nn.Linear(8, 8)}) for _ in range(count))
        return body

    adapter = LoraAdapter(SETTINGS | {"target_modules": targets}, "model.layers")
    for config in (layers_config(adapter, (1,)), ranks_config(adapter, (4, 4, 4))):
        model = nn.ModuleDict({"visual": blocks(3), "model": blocks(3)})
        wrapped = peft.get_peft_model(model, peft.LoraConfig(**config | {"task_type": None}))
        places = {key.split(".")[2] for key, module in wrapped.named_modules() if hasattr(module, "lora_A")}
        assert places == {"model"}


def test_rank_stabilized_scaling_is_kept_too():
    adapter = LoraAdapter(SETTINGS | {"use_rslora": True}, "model.layers")
    config = peft.LoraConfig(**ranks_config(adapter, (1, 9, 4, 2)))
    wrapped = peft.get_peft_model(classifier("llama"), config)
    scalings = [module.scaling["default"] for module in wrapped.modules() if hasattr(module, "lora_A")]
    assert scalings == pytest.approx([8 / 2] * len(scalings), abs=1e-5)


def test_what_was_excluded_stays_excluded():
    adapter = LoraAdapter(SETTINGS | {"exclude_modules": ["self_attn.q_proj"]}, "model.layers")
    for config in (layers_config(adapter, (0, 2)), ranks_config(adapter, (4, 4, 4, 4))):
        wrapped = peft.get_peft_model(classifier("llama"), peft.LoraConfig(**config))
        names = [key for key, module in wrapped.named_modules() if hasattr(module, "lora_A")]
        assert names
        assert not [key for key in names if "q_proj" in key]


def test_both_forms_run_and_say_the_same():
    advice = advise([choices([1, 0, 0.9, 0.1], [4, 1, 3, 2], seed) for seed in (0, 1)], LLAMA)
    # Names are from records, and nothing in them may become code.
    about = "cell 'x'\nimport os; os.environ['RECOMMENDED'] = '1'\r\x0braise SystemExit"
    names = {}
    text = as_python(advice, about)
    exec(compile(text, "recommendation.py", "exec"), names)
    assert "os" not in names
    read = yaml.safe_load(as_yaml(advice, about))
    assert list(read) == ["layers", "ranks"]
    for key, settings in read.items():
        assert peft.LoraConfig(**settings).to_dict() == names[key].to_dict()
        assert settings == advice.configs[key]
    assert names["layers"].layers_to_transform == [0, 2]
    assert sum(names["ranks"].rank_pattern.values()) == 16
