"""Any architecture: the right blocks, every adapter in one of them, a head that trains, and a backward pass that stops.

What cannot work is refused before anything trains, with the reason.
"""

from types import SimpleNamespace

import peft
import pytest
import torch
from plain_blocks import PlainBlocks
from saying import says
from tiny_models import ARCHITECTURES, HIDDEN, NUM_BLOCKS, NUM_LABELS, batch, classifier
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig

from irtune.config.schema import AdapterConfig
from irtune.layers import BlockError, map_parameters
from irtune.layers.blocks import find_blocks
from irtune.training.adapter import AdapterError, add_adapter
from irtune.training.cost import CostModel
from irtune.training.errors import ModelError
from irtune.training.model import enable_gradient_checkpointing, shapes_only
from irtune.training.self_check import check_at_start

SMALL = AdapterConfig(r=2, alpha=4, dropout=0, target_modules="all-linear")
WITH_DEFAULT_TARGETS = {"llama", "qwen2", "qwen3", "mistral", "gemma", "gemma2"}
BATCH_SIZE, LENGTH = 2, 16

COMMON = ARCHITECTURES["bert"].settings
REFUSED = {
    "albert": COMMON | {"embedding_size": 8},
    "bart": {"d_model": HIDDEN, "encoder_layers": NUM_BLOCKS, "decoder_layers": NUM_BLOCKS}
    | {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32},
    "t5": {"d_model": HIDDEN, "d_kv": 4, "d_ff": 32, "num_layers": NUM_BLOCKS, "num_heads": 4},
    "xlm": {"emb_dim": HIDDEN, "n_layers": NUM_BLOCKS, "n_heads": 4},
}


def adapted(name, train_head=True, **adapter):
    return add_adapter(classifier(name), SMALL.model_copy(update=adapter), train_head=train_head, seed=0)


def refused(name, settings=None, **adapter):
    with pytest.raises((AdapterError, BlockError)) as caught:
        map_parameters(
            add_adapter(classifier(name, settings), SMALL.model_copy(update=adapter), train_head=True, seed=0)
        )
    return str(caught.value)


def activate(blocks, active):
    """Let these blocks train, and forget all gradients."""
    for index, block in enumerate(blocks.per_block):
        for _, parameter in block:
            parameter.requires_grad_(index in active)
    for _, parameter in blocks.all():
        parameter.grad = None


@pytest.fixture(scope="module", params=ARCHITECTURES)
def built(request):
    """A classifier with adapters, its blocks, and what to expect of them."""
    model = adapted(request.param).train()
    architecture = ARCHITECTURES[request.param]
    return SimpleNamespace(name=request.param, model=model, expected=architecture, blocks=map_parameters(model))


def test_the_blocks_are_found(built):
    name, members = find_blocks(built.model)
    assert name == built.blocks.name == built.expected.where
    assert [type(member).__name__ for member in members] == [built.expected.block] * NUM_BLOCKS
    assert find_blocks(classifier(built.name))[0] == name


def test_every_adapter_is_in_one_block_and_the_head_is_shared_and_trains(built):
    for index, block in enumerate(built.blocks.per_block):
        assert len(block) == 2 * built.expected.linear
        for name, _ in block:
            assert name.startswith(f"base_model.model.{built.expected.where}.{index}.")
            assert ".lora_A." in name or ".lora_B." in name
    # The head whole, as it is in a classifier without adapters, and nothing else.
    head = {
        f"base_model.model.{part}.modules_to_save.default.{name}"
        for part in built.expected.head
        for name, _ in classifier(built.name).get_submodule(part).named_parameters()
    }
    assert head
    assert {name for name, _ in built.blocks.shared} == head
    trainable = [id(parameter) for parameter in built.model.parameters() if parameter.requires_grad]
    assert sorted(trainable) == sorted(id(parameter) for _, parameter in built.blocks.all())
    assert len(set(trainable)) == len(trainable)


def test_one_active_block_gets_gradients_and_the_backward_pass_stops_there(built):
    _, members = find_blocks(built.model)
    reached = {}

    def note(index, output):
        # Newer architectures return hidden states, older ones a tuple that starts with them.
        reached[index] = (output[0] if isinstance(output, tuple) else output).requires_grad

    hooks = [
        member.register_forward_hook(lambda module, inputs, output, index=index: note(index, output))
        for index, member in enumerate(members)
    ]
    for active in range(NUM_BLOCKS):
        activate(built.blocks, {active})
        built.model(**batch()).loss.backward()
        allowed = {id(p) for _, p in [*built.blocks.shared, *built.blocks.per_block[active]]}
        assert {id(p) for p in built.model.parameters() if p.grad is not None} == allowed
        # lora_B starts at 0, so lora_A's gradient is 0 at first.
        moving = [name for name, p in built.blocks.per_block[active] if "lora_B" in name and p.grad.any()]
        assert len(moving) == built.expected.linear
        assert all(p.grad.any() for _, p in built.blocks.shared)
        # Below the active block nothing is kept for a backward pass.
        assert reached == {index: index >= active for index in range(NUM_BLOCKS)}
    for hook in hooks:
        hook.remove()
    activate(built.blocks, range(NUM_BLOCKS))


def test_the_cost_is_near_what_pytorch_counts_and_falls_as_the_lowest_active_block_rises(built):
    activate(built.blocks, range(NUM_BLOCKS))
    cost = CostModel.of(built.model, recompute=False)
    activate(built.blocks, [1])
    with FlopCounterMode(display=False) as counter:
        built.model(**batch(BATCH_SIZE, LENGTH)).loss.backward()
    activate(built.blocks, range(NUM_BLOCKS))
    # Models are so narrow here that small things weigh: adapters, the head, parts of the lowest block.
    assert cost.step_flops([1], BATCH_SIZE, LENGTH) == pytest.approx(counter.get_total_flops(), rel=0.2)
    costs = [cost.step_flops([active], BATCH_SIZE, LENGTH) for active in range(NUM_BLOCKS)]
    assert costs == sorted(set(costs), reverse=True)
    for lowest in range(NUM_BLOCKS - 1):
        assert cost.step_flops([lowest, lowest + 1], BATCH_SIZE, LENGTH) > costs[lowest]


def test_the_check_at_the_start_passes(built):
    check_at_start(PlainBlocks(built.model, built.blocks), batch())


def test_shapes_alone_tell_the_same(built, tmp_path):
    built.model.get_base_model().config.save_pretrained(tmp_path)
    shapes = map_parameters(shapes_only(tmp_path, SMALL))
    assert shapes.name == built.blocks.name
    assert [sizes.tolist() for sizes in shapes.sizes("all")] == [sizes.tolist() for sizes in built.blocks.sizes("all")]


def test_a_saved_adapter_brings_its_head_back(built, tmp_path):
    parameters = dict(built.blocks.all())
    before = {name: p.detach().clone() for name, p in parameters.items()}
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in parameters.values():
            p.add_(torch.randn(p.shape, generator=generator) * 0.1)
    built.model.save_pretrained(tmp_path, save_embedding_layers=False)
    inputs = {name: values for name, values in batch().items() if name != "labels"}
    with torch.no_grad():
        trained = built.model.eval()(**inputs).logits
        built.model.train()
        for name, p in parameters.items():
            p.copy_(before[name])
        # The head of another seed, as a new start of it would have.
        base = classifier(built.name)
        for part in built.expected.head:
            for p in base.get_submodule(part).parameters():
                p.add_(1)
        loaded = peft.PeftModel.from_pretrained(base, tmp_path).eval()(**inputs).logits
    torch.testing.assert_close(loaded, trained)


def test_checkpointing_recomputes_only_from_the_lowest_active_block_up(built):
    enable_gradient_checkpointing(built.model)
    activate(built.blocks, {2})
    ran, hooks = [], []
    for index, member in enumerate(find_blocks(built.model)[1]):
        # Hooks of a block itself lie outside of what is recomputed.
        first = next(module for module in member.modules() if isinstance(module, peft.tuners.lora.LoraLayer))
        hooks.append(first.register_forward_pre_hook(lambda module, inputs, index=index: ran.append(index)))
    loss = built.model(**batch()).loss
    # DeBERTa projects positions too, so a layer may run more than once.
    assert list(dict.fromkeys(ran)) == [0, 1, 2, 3]
    ran.clear()
    loss.backward()
    assert list(dict.fromkeys(ran)) == [3, 2]
    assert all(p.grad is not None for _, p in built.blocks.per_block[2])
    for hook in hooks:
        hook.remove()
    built.model.gradient_checkpointing_disable()
    activate(built.blocks, range(NUM_BLOCKS))


def test_a_model_that_cannot_be_checkpointed():
    settings = {"vocab_size": 64, "n_embd": HIDDEN, "n_layer": NUM_BLOCKS, "n_head": 4, "n_positions": 64}
    model = add_adapter(classifier("openai-gpt", settings), SMALL, train_head=True, seed=0)
    with pytest.raises(ModelError, match=r"^model\.gradient_checkpointing: OpenAIGPT.* to false"):
        enable_gradient_checkpointing(model)


@pytest.mark.parametrize("name", sorted(WITH_DEFAULT_TARGETS))
def test_default_target_modules_where_they_exist(name):
    targets = AdapterConfig().target_modules
    blocks = map_parameters(adapted(name, target_modules=targets))
    assert [len(block) for block in blocks.per_block] == [2 * len(targets)] * NUM_BLOCKS


@pytest.mark.parametrize("name", sorted(set(ARCHITECTURES) - WITH_DEFAULT_TARGETS))
def test_default_target_modules_that_do_not_exist_are_named_with_those_that_do(name):
    base, targets = classifier(name), AdapterConfig().target_modules
    modules = {key.rpartition(".")[2] for member in find_blocks(base)[1] for key, _ in member.named_modules()}
    with pytest.raises(AdapterError) as caught:
        add_adapter(base, SMALL.model_copy(update={"target_modules": targets}), train_head=True, seed=0)
    message = str(caught.value)
    absent, present = message.removeprefix("adapter.target_modules: ").split(" name no module ")
    assert set(absent.split(", ")) == set(targets) - modules
    assert says(present, "adapter.target_modules=all-linear")
    # The names that the message gives are names that work.
    linear = present.partition("linear layers are ")[2].partition(";")[0].split(", ")
    assert map_parameters(adapted(name, target_modules=tuple(linear)))


def test_the_message_about_absent_target_modules_in_full():
    assert says(
        refused("gpt2", target_modules=("q_proj", "c_fc", "v_proj")),
        "adapter.target_modules: q_proj, v_proj … GPT2ForSequenceClassification … c_attn, c_proj, c_fc",
        "adapter.target_modules=all-linear",
    )
    assert "adapter.target_modules: .*q_prj names no module" in refused("llama", target_modules=".*q_prj")
    # What lies outside the blocks cannot have an adapter.
    assert "embeddings_project names no module" in refused("electra", target_modules=("embeddings_project",))


@pytest.mark.parametrize("name", ["bert", "electra", "opt", "distilbert"])
@pytest.mark.parametrize("tuner", ["lora", "vera"])
def test_no_adapter_sits_outside_the_blocks(name, tuner):
    # VeRA cannot exclude modules, so it gets the names of those in blocks.
    outside = [
        key
        for key, module in classifier(name).named_modules()
        if isinstance(module, nn.Linear) and ARCHITECTURES[name].where not in key
    ]
    assert outside
    model = adapted(name, type=tuner)
    shared = {name for name, _ in map_parameters(model).shared}
    assert shared
    assert all(".modules_to_save." in name for name in shared)


@pytest.mark.parametrize("tuner", ["lora", "vera"])
def test_a_pattern_of_target_modules(tuner):
    blocks = map_parameters(adapted("bert", type=tuner, target_modules=r".*attention.*\.(query|value)"))
    for block in blocks.per_block:
        assert {name.split(".self.")[1].partition(".")[0] for name, _ in block} == {"query", "value"}


@pytest.mark.parametrize("excluded", [["o_proj", "mlp.gate_proj"], r".*\.(o|gate)_proj"])
def test_modules_that_the_user_excludes_stay_without(excluded):
    blocks = map_parameters(adapted("llama", options={"exclude_modules": excluded}))
    for block in blocks.per_block:
        assert len(block) == 2 * 5
        assert not [name for name, _ in block if "o_proj" in name or "gate_proj" in name]


def test_modules_that_the_user_saves_too_train_beside_the_head():
    blocks = map_parameters(adapted("distilbert", options={"modules_to_save": ["output_layer_norm"]}))
    assert all(any("output_layer_norm.modules_to_save" in name for name, _ in block) for block in blocks.per_block)
    assert {name.split(".")[2] for name, _ in blocks.shared} == {"pre_classifier", "classifier"}


def test_a_head_kept_at_its_start_is_kept_whole():
    assert not map_parameters(adapted("distilbert", train_head=False)).shared


def test_tuning_norms_means_the_norms_of_blocks():
    blocks = map_parameters(adapted("llama", type="ln_tuning"))
    assert [{name.split(".")[5] for name, _ in block} for block in blocks.per_block] == [
        {"input_layernorm", "post_attention_layernorm"}
    ] * NUM_BLOCKS
    assert [name for name, _ in blocks.shared] == ["base_model.model.score.modules_to_save.default.weight"]


def test_experts_go_by_their_former_names_too():
    # transformers 5 keeps them as stacks; w1, w2 and w3 are what the checkpoint calls them.
    blocks = map_parameters(adapted("mixtral", target_modules=("q_proj", "w1", "w2", "w3")))
    assert [len(block) for block in blocks.per_block] == [2 * 3] * NUM_BLOCKS
    assert "set adapter.dropout=0" in refused("mixtral", dropout=0.05)


def test_the_experts_of_a_mixtral_block_by_hand():
    cost = CostModel.of(adapted("mixtral", target_modules=("q_proj",)), recompute=False)
    attention = 16 * 16 + 8 * 16 + 8 * 16 + 16 * 16
    # A token passes two of four experts: gate and up from 16 to 32 each, and down from 32 to 16.
    experts = 2 * (2 * 16 * 32 + 32 * 16)
    adapter = 2 * (16 + 16)
    assert cost.forward.tolist() == [2 * (attention + experts + adapter)] * NUM_BLOCKS


def test_parameters_that_blocks_share_keep_the_backward_pass_going_and_count():
    # Lily: every block has an A of its own, and all have their Bs in common.
    model = adapted("llama", type="lily", options={"num_B": 2})
    blocks = map_parameters(model)
    assert [name for name, _ in blocks.shared if "lily_B" in name]
    cost = CostModel.of(model, recompute=False)
    activate(blocks, {NUM_BLOCKS - 1})
    lowest = find_blocks(model)[1][0]
    seen = []
    lowest.register_forward_hook(lambda module, inputs, output: seen.append(output.requires_grad))
    model(**batch()).loss.backward()
    assert seen == [True]
    assert cost.step_flops([NUM_BLOCKS - 1], 1, LENGTH) == cost.step_flops([0], 1, LENGTH)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("albert", r"no list of 4 separate blocks .*ALBERT"),
        (
            "bart",
            r"has two lists of blocks, model\.encoder\.layers and model\.decoder\.layers\. .*decoder",
        ),
        ("t5", r"two lists of blocks, transformer\.encoder\.block and transformer\.decoder\.block\. .* \(as Llama\)$"),
        ("xlm", r"whole blocks: .*transformer\.attentions, transformer\.ffns"),
    ],
)
def test_models_without_one_list_of_blocks_are_refused_before_weights_are_loaded(name, reason, tmp_path):
    settings = {"vocab_size": 64, "pad_token_id": 0} | REFUSED[name]
    AutoConfig.for_model(name, num_labels=NUM_LABELS, **settings).save_pretrained(tmp_path)
    with pytest.raises(BlockError, match=rf"^model\.name: \w+ForSequenceClassification .*{reason}"):
        shapes_only(tmp_path, SMALL)
    with pytest.raises(BlockError, match=reason):
        find_blocks(classifier(name, settings))


@pytest.mark.parametrize(
    ("tuner", "reason"),
    [
        ("prefix_tuning", "virtual tokens"),
        ("prompt_tuning", "virtual tokens"),
        ("p_tuning", "virtual tokens"),
        ("multitask_prompt_tuning", "virtual tokens"),
        ("adalora", "gradients … ZeRO"),
        ("trainable_tokens", "classification head"),
        ("adaption_prompt", "classification head"),
    ],
)
def test_tuners_that_cannot_serve_are_refused_with_the_reason(tuner, reason):
    message = refused("llama", type=tuner)
    assert says(message, f"adapter.type: {tuner} … {reason}", "use")


@pytest.mark.parametrize("tuner", ["unilora", "tinylora"])
def test_tuners_whose_parameters_all_blocks_share_are_refused(tuner):
    message = refused("llama", type=tuner, target_modules=AdapterConfig().target_modules)
    assert says(message, "adapter.type: … [0, 1, 2, 3] of model.layers … base_model.model.model.")
    assert says(message, "parameters of its own in every block", "lora, dora, ia3")


def test_adapters_in_some_blocks_only_are_refused():
    message = refused("llama", options={"layers_to_transform": [0, 1]})
    assert says(message, "adapter.options.layers_to_transform:", "every block")
    assert message.endswith("say with selection.policy which blocks train")
