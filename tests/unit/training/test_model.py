"""From a model's name to a checkpoint folder and a classifier with adapters, and what a user reads where that fails."""

import multiprocessing
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from saying import refused, says
from transformers import AutoConfig, AutoModelForSequenceClassification

from irtune.config.schema import AdapterConfig, ModelConfig
from irtune.layers import map_parameters
from irtune.training import pretrained
from irtune.training.adapter import AdapterError, add_adapter
from irtune.training.errors import ModelError
from irtune.training.model import enable_gradient_checkpointing, load_classifier, shapes_only
from irtune.training.pretrained import materialize, num_blocks
from irtune.training.tokenizer import load_tokenizer

LABELS = ("clarity", "fluency", "style")
SMALL = AdapterConfig(r=2, alpha=4, dropout=0)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("IRTUNE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def mistake(name):
    with pytest.raises(ModelError) as caught:
        materialize(ModelConfig(name=name))
    return str(caught.value)


def _materialize_at(barrier, results):
    torch.set_num_threads(1)
    barrier.wait()
    results.put(materialize(ModelConfig(name="tiny-random")))


def test_four_processes_at_once_make_one_checkpoint(home, tiny):
    # ``tiny`` is asked for so that its modules are loaded before the fork.
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(4), context.Queue()
    processes = [context.Process(target=_materialize_at, args=(barrier, results)) for _ in range(4)]
    for process in processes:
        process.start()
    folders = {results.get(timeout=60) for _ in processes}
    for process in processes:
        process.join(10)
        assert process.exitcode == 0

    assert folders == {home.resolve() / "models" / "tiny-random"}
    made = {path.name for path in (home / "models").iterdir()} - {"tiny-random.lock"}
    assert made == {"tiny-random"}
    assert num_blocks(folders.pop()) == 6


def test_a_checkpoint_is_made_once(home, monkeypatch):
    made = []

    def make(folder):
        made.append(folder)
        folder.mkdir()
        (folder / "whole").touch()

    monkeypatch.setattr(pretrained, "_make_tiny", make)
    folders = [materialize(ModelConfig(name="tiny-random")) for _ in range(2)]
    assert len(made) == 1
    assert folders[0] == folders[1]
    assert (folders[0] / "whole").exists()


def test_a_checkpoint_half_made_is_made_anew(home, monkeypatch):
    def killed(folder):
        folder.mkdir()
        (folder / "torn").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(pretrained, "_make_tiny", killed)
    with pytest.raises(KeyboardInterrupt):
        materialize(ModelConfig(name="tiny-random"))
    monkeypatch.setattr(pretrained, "_make_tiny", lambda folder: folder.mkdir())
    assert not list(materialize(ModelConfig(name="tiny-random")).iterdir())


def test_the_tiny_model_is_the_same_wherever_it_is_made(home, tiny):
    state = torch.random.get_rng_state()
    again = materialize(ModelConfig(name="tiny-random"))
    assert again != tiny
    assert (again / "model.safetensors").read_bytes() == (tiny / "model.safetensors").read_bytes()
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_tiny_model_reads_any_text(tiny):
    tokenizer = load_tokenizer(tiny)
    text = "Naïve: “cost” ↦ 3 €\n\t中文 🙂"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.pad_token_id == 0


def test_a_tokenizer_without_padding_pads_with_its_end(tiny, tmp_path):
    tokenizer = load_tokenizer(tiny)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path).pad_token == "<eos>"


def test_a_local_folder_is_taken_as_it_is(tiny):
    assert materialize(ModelConfig(name=str(tiny))) == tiny


def test_a_folder_that_is_no_checkpoint(tmp_path):
    assert says(mistake(str(tmp_path)), f"model.name: … {tmp_path} … no config.json")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").touch()
    assert says(mistake(str(tmp_path)), f"model.name: … {tmp_path} … no .safetensors")


@pytest.mark.parametrize("text", ["{", "{}", '{"model_type": "resnet"}'], ids=["torn", "empty", "no-transformer"])
def test_a_configuration_that_is_not_one_of_a_transformer(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with refused(ModelError, f"model.name: {tmp_path}/config.json … no transformer:"):
        num_blocks(tmp_path)


def test_a_transformer_that_classifies_no_text(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    with refused(ModelError, "model.name: … no sequence classifier … CLIPConfig"):
        shapes_only(tmp_path, SMALL)


def test_gguf_files_that_cannot_be_read(tmp_path, home):
    missing, wrong = tmp_path / "missing.gguf", tmp_path / "wrong.gguf"
    assert mistake(str(missing)) == f"model.name: no file {missing}"
    wrong.write_bytes(b"no GGUF")
    assert mistake(str(wrong)).startswith(f"model.name: {wrong} cannot be read as GGUF: ")
    assert not [path for path in (home / "models").iterdir() if not path.name.endswith((".lock", ".partial"))]


def build(tiny, seed=0, labels=LABELS, train_head=True, **adapter):
    base = load_classifier(tiny, labels, 0, seed)
    # Whatever else draws random numbers in between makes no difference.
    torch.seed()
    return add_adapter(base, SMALL.model_copy(update=adapter), train_head=train_head, seed=seed)


def own_weights(model):
    """All that distinguishes a classifier from its pretrained base, by name."""
    return {name: p.detach() for name, p in model.named_parameters() if "lora_" in name or "modules_to_save" in name}


@pytest.mark.parametrize("labels", [LABELS, LABELS[:2]], ids=["three-labels", "two-labels"])
def test_head_and_adapters_are_drawn_with_the_seed(tiny, labels):
    first, again, other = (own_weights(build(tiny, seed, labels)) for seed in (0, 0, 1))
    assert first.keys() == again.keys() == other.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)
    drawn = {name for name in first if "lora_A" in name or "modules_to_save" in name}
    assert {name for name in first if not torch.equal(first[name], other[name])} == drawn
    assert all(not first[name].any() for name in first if "lora_B" in name)


def test_the_pretrained_weights_do_not_depend_on_the_seed(tiny):
    first, other = (build(tiny, seed).state_dict() for seed in (0, 1))
    base = [name for name in first if "lora_" not in name and "score" not in name]
    assert len(base) > 6 * 9
    assert all(torch.equal(first[name], other[name]) for name in base)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tuner", ["lora", "ia3", "loha"])
def test_what_is_loaded_in_half_precision_is_what_would_be_cast_to_it(tiny, dtype, tuner):
    def made(dtype):
        base = load_classifier(tiny, LABELS, 0, 3, dtype)
        return dict(
            add_adapter(base, SMALL.model_copy(update={"type": tuner}), train_head=True, seed=5).named_parameters()
        )

    whole, half = made(torch.float32), made(dtype)
    assert whole.keys() == half.keys()
    assert all(torch.equal(whole[name].to(dtype), half[name].to(dtype)) for name in whole)
    # What trains is drawn in fp32; what does not takes half the room.
    assert {parameter.dtype for parameter in half.values() if parameter.requires_grad} == {torch.float32}
    assert {half[name].dtype for name in half if name.endswith("input_layernorm.weight")} == {dtype}


def test_a_head_of_another_size_in_the_file_is_drawn_alike_in_every_precision(tiny, tmp_path):
    load_classifier(tiny, LABELS[:2], 0, 0).save_pretrained(tmp_path)
    drawn = [load_classifier(tmp_path, LABELS, 0, 3, dtype).score.weight for dtype in (torch.float32, torch.bfloat16)]
    assert drawn[0].shape == (3, 32)
    assert torch.equal(*drawn)


def test_weights_in_the_precision_of_their_file_stay_there(tiny, tmp_path):
    AutoModelForSequenceClassification.from_pretrained(tiny, dtype=torch.bfloat16).save_pretrained(tmp_path)
    model = load_classifier(tmp_path, LABELS[:2], 0, 0, torch.bfloat16)
    lines = Path("/proc/self/maps").read_text().splitlines()
    spans = [line.split()[0].split("-") for line in lines if line.endswith(str(tmp_path / "model.safetensors"))]
    inside = [(int(start, 16), int(end, 16)) for start, end in spans]
    addresses = [parameter.data_ptr() for name, parameter in model.named_parameters() if "layers" in name]
    assert len(addresses) == 6 * 9
    assert all(any(start <= address < end for start, end in inside) for address in addresses)


def test_attention_is_computed_as_asked(tiny):
    for attention, used in {"auto": "sdpa", "eager": "eager", "sdpa": "sdpa"}.items():
        assert load_classifier(tiny, LABELS, 0, 0, attention=attention).config._attn_implementation == used
        assert shapes_only(tiny, SMALL, attention).config._attn_implementation == used


def test_attention_that_the_model_or_the_machine_lacks(tiny, tmp_path):
    with refused(ModelError, "model.attention: flash_attention_2 … auto"):
        load_classifier(tiny, LABELS, 0, 0, torch.bfloat16, "flash_attention_2")
    config = AutoConfig.for_model("deberta-v2", hidden_size=32, num_hidden_layers=2, num_attention_heads=2)
    config.save_pretrained(tmp_path)
    with refused(ModelError, "model.attention: DebertaV2ForSequenceClassification has no sdpa; use … auto, eager"):
        shapes_only(tmp_path, SMALL, "sdpa")


def test_the_classifier_knows_its_labels(tiny):
    config = load_classifier(tiny, LABELS, 7, 0).config
    assert config.id2label == dict(enumerate(LABELS))
    assert config.label2id == {label: index for index, label in enumerate(LABELS)}
    assert config.num_labels == 3
    assert config.pad_token_id == 7
    assert not config.use_cache


def test_only_adapters_and_head_train(tiny):
    trainable = {name for name, parameter in build(tiny).named_parameters() if parameter.requires_grad}
    assert {name for name in trainable if "lora_" not in name} == {
        "base_model.model.score.modules_to_save.default.weight"
    }
    assert len(trainable) == 1 + 6 * 2 * len(SMALL.target_modules)


def test_a_head_kept_at_its_start_does_not_train_but_is_saved(tiny, tmp_path):
    model = build(tiny, train_head=False)
    assert all("lora_" in name for name, parameter in model.named_parameters() if parameter.requires_grad)
    assert not map_parameters(model).shared
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    head = model.get_parameter("base_model.model.score.modules_to_save.default.weight")
    assert torch.equal(saved["base_model.model.score.weight"], head)


def test_adapter_settings_reach_peft(tiny):
    config = build(tiny, r=3, alpha=6.0, dropout=0.25, options={"bias": "lora_only"}).peft_config["default"]
    assert (config.r, config.lora_alpha, config.lora_dropout, config.bias) == (3, 6.0, 0.25, "lora_only")
    assert not config.use_dora
    assert build(tiny, type="dora").peft_config["default"].use_dora


@pytest.mark.parametrize("tuner", ["lora", "dora", "ia3", "loha", "lokr", "vera", "ln_tuning"])
def test_tuners_with_parameters_in_every_block(tiny, tuner):
    assert len(map_parameters(shapes_only(tiny, SMALL.model_copy(update={"type": tuner})))) == 6


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        ({"type": "lorra"}, r"^adapter\.type: .*'lorra'.*'lora'\? available: .*dora, "),
        ({"type": "adalora"}, r"^adapter\.type: adalora .* use lora or dora$"),
        ({"options": {"rr": 8}}, r"^adapter: .*'lora' .*LlamaForSequenceClassification: .*'rr'"),
        (
            {"target_modules": ("q_prj",)},
            r"^adapter\.target_modules: q_prj .* name some of these",
        ),
    ],
)
def test_adapters_that_cannot_be_made(tiny, adapter, message):
    with pytest.raises(AdapterError, match=message):
        shapes_only(tiny, SMALL.model_copy(update=adapter))


def test_shapes_take_no_memory_and_are_those_of_the_model(tiny):
    shapes = shapes_only(tiny, SMALL)
    assert {parameter.device.type for parameter in shapes.parameters()} == {"meta"}
    real = map_parameters(build(tiny))
    assert [s.tolist() for s in map_parameters(shapes).sizes("all")] == [s.tolist() for s in real.sizes("all")]


def test_checkpointing_does_not_bring_back_the_backward_pass_below_the_lowest_active_block(tiny):
    model = build(tiny)
    enable_gradient_checkpointing(model)
    model.train()
    blocks = map_parameters(model)
    for block in blocks.per_block[:5]:
        for _, parameter in block:
            parameter.requires_grad_(False)
    ran = []
    for index, member in enumerate(model.get_base_model().model.layers):
        # Hooks of a block itself lie outside of what is recomputed.
        member.mlp.register_forward_pre_hook(lambda module, inputs, index=index: ran.append(index))
    ids = torch.ones(2, 4, dtype=torch.long)
    loss = model(input_ids=ids, labels=torch.tensor([0, 1])).loss
    assert ran == [0, 1, 2, 3, 4, 5]
    loss.backward()
    # Only the block that trains runs once more.
    assert ran[6:] == [5]
    assert all(parameter.grad is not None for _, parameter in blocks.per_block[5])
