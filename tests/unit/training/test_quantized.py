"""Pretrained matrices in 8 and 4 bits: they stay as they are, and everything else is as it is without."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from sweeps import ROOT
from torch import nn

from irtune.config.load import ConfigError, build, load, with_overrides
from irtune.config.schema import AdapterConfig, ExperimentConfig
from irtune.training import quantized
from irtune.training.adapter import add_adapter
from irtune.training.cost import CostModel
from irtune.training.errors import ModelError
from irtune.training.memory import estimate
from irtune.training.model import load_classifier, shapes_only
from irtune.training.predictor import Predictor
from irtune.training.record import NoRecorder
from irtune.training.run import run

pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")

SMALL = AdapterConfig(r=4, alpha=8, dropout=0.0)
SETTINGS = {
    "model.name": "tiny-random",
    "model.quantization": "4bit",
    "adapter.r": 4,
    "adapter.dropout": 0.0,
    "data.name": "synthetic",
    "data.train_size": 64,
    "data.validation_size": 24,
    "data.test_size": 24,
    "selection.policy.name": "top_k",
    "selection.policy.k": 2,
    "selection.reselect_every": 2,
    "training.max_steps": 6,
    "training.eval_every": 2,
    "training.checkpoint_every": 2,
    "training.learning_rate": 1e-2,
    "tracking.keep_adapters": "all",
}


@pytest.fixture
def labels():
    return ("a", "b", "c")


@pytest.mark.parametrize("quantization", ["8bit", "4bit"])
def test_matrices_of_blocks_are_packed_and_the_rest_is_not(tiny, labels, quantization):
    base = load_classifier(tiny, labels, 0, 0, quantization=quantization)
    model = add_adapter(base, SMALL, train_head=True, seed=0)
    kinds = {name.rpartition(".")[2]: type(module) for name, module in model.named_modules()}
    assert "bitsandbytes" in kinds["base_layer"].__module__
    assert kinds["default"] is nn.Linear
    assert model.score.modules_to_save["default"].weight.dtype == torch.float32
    # What a step costs is counted by the matrices, not by their packed bytes.
    counted, plain = (CostModel.of(each, recompute=False) for each in (model, shapes_only(tiny, SMALL)))
    assert np.array_equal(counted.forward, plain.forward)
    assert np.array_equal(counted.trained, plain.trained)


@pytest.mark.parametrize("quantization", ["8bit", "4bit"])
def test_a_run_that_is_resumed_ends_as_one_that_is_not(tmp_path, quantization):
    config = with_overrides(load(ExperimentConfig, None, SETTINGS), {"model.quantization": quantization})
    whole = run_of(config, tmp_path / "whole")

    def killed(metrics):
        if metrics["step"] == 4:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        run_of(config, tmp_path / "cut", killed)
    resumed = run_of(config, tmp_path / "cut")
    # Of the last selections, and of evaluations before and after it was stopped.
    assert scores(whole) == scores(resumed)
    with np.load(tmp_path / "whole" / "predictions.npz") as arrays:
        found = arrays["test_probabilities"]
    # The adapter applied to the same packed matrices predicts the same, to the bit.
    rows = [example.texts for example in config.data.load().splits["test"]]
    predictor = Predictor(tmp_path / "whole" / "adapter", "cpu")
    assert np.array_equal(predictor.probabilities(rows)[0], found)


def run_of(config, folder, report=lambda metrics: None):
    return run(config, folder=folder, recorder=NoRecorder(), report=report).metrics


def scores(metrics):
    return {name: value for name, value in metrics.items() if name.startswith("final/")}


def test_evaluation_leaves_packed_matrices_as_they_are(tiny, labels):
    model = load_classifier(tiny, labels, 0, 0, torch.bfloat16, quantization="4bit").train()
    model.score.to(torch.bfloat16)
    ids = torch.arange(1, 25).reshape(2, 12)
    packed = {name: tensor.clone() for name, tensor in model.named_parameters() if tensor.dtype == torch.uint8}
    assert packed
    before = model(input_ids=ids).logits
    with torch.no_grad():
        evaluated = model.eval()(input_ids=ids).logits
    after = model.train()(input_ids=ids).logits
    # bitsandbytes packs them anew here, for another kernel, unless it is kept from that.
    assert all(torch.equal(model.get_parameter(name), tensor) for name, tensor in packed.items())
    assert torch.equal(before, after)
    assert torch.equal(before, evaluated)


def test_what_packing_does_not_go_with_is_refused(tmp_path):
    tree = {"model": {"quantization": "4bit"}}
    for other, key in (
        ({"engine": {"zero_stage": 3, "num_workers": 2}}, "engine.zero_stage"),
        ({"engine": {"compile": "blocks"}}, "engine.compile"),
        ({"method": "owlore"}, "importance.name"),
        ({"model": {"quantization": "3bit"}}, "model.quantization"),
    ):
        with pytest.raises(ConfigError, match=key):
            build(ExperimentConfig, tree | other, "x")


def test_a_missing_package_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setattr(quantized.importlib.util, "find_spec", lambda name: None)
    config = build(ExperimentConfig, {"model": {"quantization": "8bit"}}, "x")
    with pytest.raises(ModelError, match=r"model.quantization: 8bit.*pip install 'irtune\[quantization\]'"):
        quantized.check_quantization(config)


def test_packed_matrices_take_less_by_hand(tiny):
    # 6 blocks of 32 x 32 (q, o), 2 of 32 x 16 (k, v), 3 of 32 x 64.
    numbers = 6 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64)
    bf16, packed = (
        estimate(
            tiny, build(ExperimentConfig, {"model": {"quantization": how}, "engine": {"precision": "bf16"}}, "x"), 2, 8
        )
        for how in (None, "4bit")
    )
    assert bf16.weights - packed.weights == pytest.approx(numbers * (2 - 0.5625))


def test_the_script_that_needs_no_irtune_packs_them_too(tmp_path):
    config = load(ExperimentConfig, None, SETTINGS)
    run_of(config, tmp_path)
    texts = config.data.load().splits["test"][0].texts
    script = tmp_path / "adapter" / "predict.py"
    done = subprocess.run([sys.executable, script, *texts], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    said = sorted(float(line.split()[0]) for line in done.stdout.splitlines())
    expected = sorted(Predictor(tmp_path / "adapter", "cpu").probabilities([texts])[0][0])
    assert said == pytest.approx(expected, abs=2e-4)


def test_no_code_of_the_hub_is_fetched(tmp_path, tiny):
    (tmp_path / "kernels.py").write_text("def get_kernel(*_, **__):\n    raise SystemExit('fetches')\n")
    program = (
        "from irtune.config.schema import AdapterConfig\n"
        "from irtune.training.model import shapes_only\n"
        "from pathlib import Path\n"
        f"shapes_only(Path({str(tiny)!r}), AdapterConfig())\n"
        "import sys, kernels\n"
        "assert 'bitsandbytes' in sys.modules"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    assert "kernels" not in done.stderr
