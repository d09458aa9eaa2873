"""A whole run with the instruction computed once per batch: the results of one without it, for fewer FLOPs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from saying import says

from irtune.config.load import load
from irtune.config.schema import ExperimentConfig
from irtune.data.common_tokens import common_tokens
from irtune.data.encode import encode
from irtune.studies.forecast import Trial
from irtune.training.cost import CostModel
from irtune.training.model import shapes_only
from irtune.training.pretrained import materialize
from irtune.training.record import NoRecorder
from irtune.training.run import run
from irtune.training.shared_prefix import NO_SHARING, sharing_of
from irtune.training.tokenizer import load_tokenizer


class Tags(NoRecorder):
    """Keeps tags and losses."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}
        self.losses: list[float] = []

    def tags(self, values: Mapping[str, Any]) -> None:
        self.found.update(values)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self.losses += [values["train/loss"]] if "train/loss" in values else []


def tiny(**overrides: Any) -> ExperimentConfig:
    return load(
        ExperimentConfig,
        None,
        {
            "model.name": "tiny-random",
            "model.max_length": 160,
            "adapter.r": 4,
            "adapter.dropout": 0,
            "data.name": "synthetic",
            "data.instruction": "Which kind of change turns the first text into the second one, in one word?",
            "data.train_size": 40,
            "data.validation_size": 17,
            "data.test_size": 10,
            "selection.policy.name": "top_k",
            "selection.policy.k": 2,
            "selection.reselect_every": 3,
            "training.max_steps": 7,
            "training.learning_rate": 5e-3,
            "training.eval_every": 4,
            **overrides,
        },
    )


def result(folder: Path, **overrides: Any) -> tuple[Mapping[str, float], Tags]:
    seen = Tags()
    return run(tiny(**overrides), folder=folder, recorder=seen).metrics, seen


@pytest.mark.parametrize("stage", [0, 2])
def test_a_run_finds_what_it_finds_without(stage, tmp_path):
    without, plain = result(tmp_path / "without", **{"engine.share_prefix": False, "engine.zero_stage": stage})
    shared, seen = result(tmp_path / "shared", **{"engine.zero_stage": stage})
    assert says(plain.found["irtune.data.shared_prefix"], "computes 0", "engine.share_prefix=false")
    assert says(seen.found["irtune.data.shared_prefix"], "of 84 tokens", "computes 84", "evaluation 84")
    assert seen.losses == pytest.approx(plain.losses, rel=1e-4)
    for name in ("final/validation_loss", "final/test_loss"):
        assert shared[name] == pytest.approx(without[name], rel=1e-4)
    assert shared["cost/total_flops"] < 0.6 * without["cost/total_flops"]


def test_the_forecast_counts_what_the_run_counts(tmp_path):
    config = tiny(**{"selection.policy": {"name": "static", "blocks": [3, 4]}, "selection.measure": "when_needed"})
    metrics = run(config, folder=tmp_path, recorder=Tags()).metrics
    checkpoint = materialize(config.model)
    encoded = encode(config.data.load(), load_tokenizer(checkpoint), config.model.max_length)
    model = shapes_only(checkpoint, config.adapter)
    sharing = sharing_of(model, "auto", len(common_tokens(encoded)), encoded.max_length)
    assert sharing.training > 0
    lengths = {split: part.lengths for split, part in encoded.splits.items()}
    costs = (CostModel.of(model, recompute=False, sharing=each) for each in (sharing, NO_SHARING))
    forecast, without = (Trial.of(config, cost, lengths, None).step_flops for cost in costs)
    # Lengths are rounded there.
    assert metrics["cost/mean_step_flops"] == pytest.approx(forecast, rel=0.01)
    assert forecast < 0.6 * without


def test_a_model_that_cannot_is_refused_where_it_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr("irtune.training.shared_prefix.FAMILIES", frozenset({"gpt2"}))
    with pytest.raises(ValueError, match=r"engine\.share_prefix: .*llama"):
        result(tmp_path, **{"engine.share_prefix": True})
