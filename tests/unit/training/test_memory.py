"""What a worker holds: a count without weights against what PyTorch really keeps, and by hand."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from irtune.config.load import build
from irtune.config.schema import AdapterConfig, ExperimentConfig
from irtune.layers import map_parameters
from irtune.training import memory
from irtune.training.adapter import add_adapter
from irtune.training.cost import release_memory
from irtune.training.memory import HEAP, PROCESS_BYTES, estimate, most_resident_bytes, width_in_file
from irtune.training.model import DTYPES, classifier_shape, enable_gradient_checkpointing, load_classifier, shapes_only

BATCH, LENGTH = 3, 40
SMALL = {"adapter": {"r": 2, "alpha": 4}}


def config_of(**tree):
    return build(ExperimentConfig, SMALL | tree, "x")


def kept_bytes(tiny, config, lowest):
    """What a real forward pass keeps for its backward pass."""
    dtype = DTYPES[config.engine.precision]
    model = add_adapter(
        load_classifier(tiny, ("a", "b"), 0, 0, dtype, config.model.attention), config.adapter, train_head=True, seed=0
    ).train()
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    for block in map_parameters(model).per_block[:lowest]:
        for _, parameter in block:
            parameter.requires_grad_(False)
    if config.model.gradient_checkpointing:
        enable_gradient_checkpointing(model)
    ids = torch.ones(BATCH, LENGTH, dtype=torch.int64)
    mask = torch.ones_like(ids)
    mask[0, -1] = 0
    own, kept = {p.untyped_storage().data_ptr() for p in model.parameters()}, {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(input_ids=ids, attention_mask=mask, labels=ids[:, 0]).loss
    assert loss.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("lowest", [0, 4])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_count_is_what_a_pass_keeps(tiny, precision, lowest, attention):
    config = config_of(engine={"precision": precision}, model={"attention": attention})
    kept = kept_bytes(tiny, config, lowest)
    counted = estimate(tiny, config, BATCH, LENGTH, lowest=lowest).passing / HEAP
    # What lives for a moment comes on top, and is much of a model so small.
    assert kept <= counted * 1.05
    assert counted <= kept * 1.25 + 100_000


def test_recomputing_and_fewer_blocks_take_less_and_eager_attention_more(tiny):
    def passing(lowest=0, gpus=1, **model):
        config = config_of(model=model, engine={"gpus_per_worker": gpus})
        return estimate(tiny, config, 8, 256, lowest=lowest).passing

    assert passing(gradient_checkpointing=True) < 0.4 * passing()
    # The heap of a CPU keeps what went through it.
    on_cpu = passing(gpus=0, gradient_checkpointing=True)
    assert on_cpu == pytest.approx(passing(gradient_checkpointing=True) + (HEAP - 1) * passing())
    assert passing(lowest=3) == pytest.approx(passing() / 2, rel=0.25)
    assert passing(attention="eager") > 1.5 * passing()


def test_experts_that_cannot_be_traced_are_taken_for_gpt(tiny, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("data-dependent")

    monkeypatch.setattr(memory, "_traced", fail)
    # 17 x 32 + 2.5 x 4 heads x 40 numbers a token and block; 120 tokens, 6 blocks.
    by_hand = 4 * (17 * 32 + 2.5 * 4 * LENGTH) * BATCH * LENGTH * 6
    assert estimate(tiny, config_of(), BATCH, LENGTH).passing == pytest.approx(HEAP * by_hand)


@pytest.mark.parametrize(
    ("engine", "each"),
    [
        ({}, 4 + 8),
        # Half precision keeps masters of what trains.
        ({"precision": "bf16"}, 4 + 12),
        ({"num_workers": 2, "zero_stage": 1}, 4 + 4),
        ({"num_workers": 2, "zero_stage": 2}, 2 + 4),
        ({"num_workers": 2, "zero_stage": 3, "precision": "bf16"}, 2 + 6),
    ],
)
def test_what_trains_takes_by_hand(tiny, engine, each):
    shapes = shapes_only(tiny, AdapterConfig(**SMALL["adapter"]))
    trained = sum(p.numel() for p in shapes.parameters() if p.requires_grad)
    found = estimate(tiny, config_of(engine=engine), 1, 8)
    assert found.training == each * trained
    assert found.peak == found.process + max(found.loading, found.weights + found.training + found.passing)
    assert found.process == PROCESS_BYTES


def test_weights_are_cast_or_stay_in_their_file(tiny, tmp_path):
    for file in tiny.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    halved = {name: tensor.bfloat16() for name, tensor in load_file(tiny / "model.safetensors").items()}
    save_file(halved, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert (width_in_file(tiny), width_in_file(tmp_path)) == (4, 2)
    base = classifier_shape(tiny)
    embeddings = base.get_input_embeddings().weight.numel()
    bf16 = config_of(engine={"precision": "bf16"})
    mapped, cast = estimate(tmp_path, bf16, 1, 8), estimate(tiny, bf16, 1, 8)
    assert mapped.loading == 0
    # Casting goes through all of the file, whose pages count until it is closed.
    assert cast.loading >= (4 + 2) * (sum(p.numel() for p in base.parameters()) - base.num_labels * 32)
    assert cast.weights - mapped.weights == 2 * embeddings
    on_gpu = estimate(tiny, config_of(engine={"precision": "bf16", "gpus_per_worker": 1}), 1, 8)
    assert (on_gpu.process, on_gpu.loading) == (0, 0)
    assert on_gpu.weights == cast.weights


def test_the_peak_is_forgotten_once_it_was_asked_for():
    # What tests before this one left may be freed at any time.
    release_memory()
    before = most_resident_bytes()
    held = torch.ones(80_000_000)
    del held
    assert most_resident_bytes() > before + 200_000_000
    assert most_resident_bytes() < before + 120_000_000
