"""The plug-in compiles block by block: the weights of uncompiled training, and a Trainer's model as it was."""

from types import SimpleNamespace

import hf_training
import torch
from hf_training import Scheduled, make_model, same, weights
from saying import refused

from irtune import IRTuningCallback
from irtune.layers import compiled_blocks
from irtune.layers.blocks import find_blocks
from irtune.layers.hf_checks import check_trainer

ALLOWED = {
    "deepspeed": None,
    "fsdp": None,
    "n_gpu": 1,
    "world_size": 1,
    "ddp_find_unused_parameters": True,
    "device": "cpu",
    "torch_compile": False,
    "optim": "adamw_torch",
}


def test_compiled_training_has_the_weights_of_uncompiled_training(tmp_path, monkeypatch):
    monkeypatch.setattr(compiled_blocks, "BACKEND", "eager")
    found = []
    for kind in (None, "blocks"):
        model = make_model()
        callback = IRTuningCallback(Scheduled(), reselect_every=3, compile=kind)
        steps = {"max_steps": 7, "gradient_accumulation_steps": 1, "logging_steps": 10}
        hf_training.train(model, tmp_path / str(kind), [callback], **steps)
        found.append(weights(model))
        assert not any("forward" in vars(member) for member in find_blocks(model)[1])
    assert same(*found)
    graphs = int(callback.compiled.split()[1])
    assert callback.compiled == f"blocks, {graphs} graphs"
    # Trained or frozen, with or without something that trains below, in the check before the first step and after it,
    # where a Trainer hands num_items_in_batch to blocks.
    assert 2 <= graphs <= 8
    assert callback.state()["args"]["compile"] == "blocks"
    torch._dynamo.reset()


def test_what_cannot_be_compiled_is_refused(monkeypatch):
    model = make_model()

    def check(**setting):
        args = SimpleNamespace(**ALLOWED | setting)
        check_trainer(args, model, None, unused_by_default=True, compiles=True)

    check()
    with refused(ValueError, "torch_compile=False", 'IRTuningCallback(compile="blocks")'):
        check(torch_compile=True)
    with refused(ValueError, "compile: … DistributedDataParallel"):
        check(world_size=2)
    with refused(ValueError, "compile: gradient checkpointing", "gradient_checkpointing=False"):
        check(gradient_checkpointing=True)
    monkeypatch.setattr(torch, "__version__", "2.11.0")
    with refused(ValueError, "compile: PyTorch 2.11.0", "torch>=2.12"):
        check()
    with refused(ValueError, "compile", "'model'"):
        IRTuningCallback("all", compile="model")
