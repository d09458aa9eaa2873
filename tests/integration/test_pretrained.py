"""The default model is a real one, and learns."""

from pathlib import Path

import torch
from test_run import Memory
from transformers import AutoModelForCausalLM

from irtune.config.load import load
from irtune.config.schema import ExperimentConfig, ModelConfig
from irtune.training.pretrained import materialize
from irtune.training.run import run
from irtune.training.tokenizer import load_tokenizer


def test_the_converted_model_knows_the_capital_of_france() -> None:
    folder = materialize(ModelConfig(name="smollm2-135m"))
    tokenizer = load_tokenizer(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    with torch.no_grad():
        token = model(**prompt).logits[0, -1].argmax()
    assert tokenizer.decode([int(token)]).strip() == "Paris"


def test_four_of_thirty_blocks_train_and_the_loss_falls(tmp_path: Path) -> None:
    memory = Memory()
    config = load(
        ExperimentConfig,
        None,
        {
            "data.name": "synthetic",
            "data.max_train": 8,
            "data.max_validation": 5,
            "data.max_test": 5,
            "adapter.r": 8,
            "adapter.dropout": 0.0,
            "selection.policy.name": "top_k",
            "selection.policy.k": 4,
            "selection.reselect_every": 3,
            "training.max_steps": 6,
            "training.learning_rate": 2e-3,
            "engine.threads_per_worker": 2,
        },
    )
    run(config, folder=tmp_path, recorder=memory)
    losses = memory.points["train/loss"]
    assert losses[6] < losses[1] - 0.3
    assert [len(record["active"]) for record in memory.records] == [4, 4]
    assert all(len(record["scores"]) == 30 for record in memory.records)
    # Blocks below the lowest active one cost a forward pass only.
    flops = memory.points["cost/step_flops"]
    assert flops[2] < 0.85 * flops[1] or min(memory.records[0]["active"]) < 8
