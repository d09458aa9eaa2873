"""One run, in this process: what it learns, keeps and resumes."""

import json
import random
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from saying import says
from transformers import CanineConfig, CanineForSequenceClassification, CanineTokenizer

from irtune.analysis.metrics import evaluation
from irtune.config.load import load, with_overrides
from irtune.config.schema import ExperimentConfig, ModelConfig
from irtune.config.tree import flatten
from irtune.layers import SelectionRecord
from irtune.processor import num_cores
from irtune.search.source import BASELINE_OVERRIDES
from irtune.training import loop
from irtune.training.loop import weights_of
from irtune.training.pretrained import materialize
from irtune.training.record import RecordReader, RecordWriter, result_of
from irtune.training.run import run
from irtune.training.tokenizer import load_tokenizer


class Memory:
    """A recorder that keeps everything."""

    def __init__(self) -> None:
        self.points: dict[str, dict[int, float]] = {}
        self.records: list[Mapping[str, Any]] = []
        self.tag_values: dict[str, Any] = {}
        self.resumed_at: list[int] = []

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.points.setdefault(name, {})[step] = value

    def params(self, values: Mapping[str, Any]) -> None:
        self.param_values = flatten(values)

    def tags(self, values: Mapping[str, Any]) -> None:
        self.tag_values.update(values)

    def artifact(self, path: Path, artifact_folder: str) -> None:
        assert path.exists()

    def write(self, record: SelectionRecord) -> None:
        self.records.append(record.to_json())

    def resumed(self, step: int) -> None:
        self.resumed_at.append(step)

    def result(self, values: Mapping[str, Any]) -> None:
        self.found = dict(values)


def tiny(**overrides: Any) -> ExperimentConfig:
    return load(
        ExperimentConfig,
        None,
        {
            "model.name": "tiny-random",
            "adapter.r": 4,
            "adapter.dropout": 0.1,
            "data.name": "synthetic",
            "data.train_size": 100,
            "data.validation_size": 25,
            "data.test_size": 25,
            "selection.policy.name": "top_k",
            "selection.policy.k": 2,
            "selection.reselect_every": 3,
            "training.max_steps": 8,
            "training.learning_rate": 5e-3,
            "training.eval_every": 4,
            "training.checkpoint_every": 2,
            **overrides,
        },
    )


def best_weights(folder: Path) -> Path:
    """The only file of best weights that a finished run leaves."""
    (file,) = (folder / "best").iterdir()
    return file


def without_timing(metrics: Mapping[str, float]) -> dict[str, float]:
    # Seconds, tokens per second and bytes are the machine's; everything else is the run's.
    return {name: value for name, value in metrics.items() if not name.endswith(("_s", "_bytes"))}


@pytest.mark.parametrize("policy", ["top_k", "random", "variance_split"])
def test_a_resumed_run_equals_an_uninterrupted_one(policy: str, tmp_path: Path) -> None:
    k = {} if policy == "variance_split" else {"selection.policy.k": 2}
    config = tiny(**{"selection.policy.name": policy, **k}) if k else tiny_split()
    whole = run(config, folder=tmp_path / "whole", recorder=Memory())

    def stop_at_first_evaluation(metrics: Mapping[str, Any]) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        run(config, folder=tmp_path / "halves", recorder=Memory(), report=stop_at_first_evaluation)
    memory = Memory()
    halves = run(config, folder=tmp_path / "halves", recorder=memory)
    assert memory.resumed_at == [2]
    assert without_timing(halves.metrics) == without_timing(whole.metrics)
    first, second = (load_file(best_weights(tmp_path / name)) for name in ("whole", "halves"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_result_of_a_finished_run_is_the_last_line_of_its_record_and_is_found_again(tmp_path: Path) -> None:
    recorder = RecordWriter(tmp_path)
    reported: list[Mapping[str, Any]] = []
    first = run(tiny(), folder=tmp_path, recorder=recorder, report=reported.append)
    recorder.close()
    lines = RecordReader(tmp_path).poll()
    assert [line["kind"] for line in lines].index("result") == len(lines) - 1
    assert result_of(tmp_path) == lines[-1]["values"] == reported[-1]

    again = RecordWriter(tmp_path)
    again.tags({"where": "it runs"})
    found: list[Mapping[str, Any]] = []
    assert run(tiny(), folder=tmp_path, recorder=again, report=found.append) == first
    assert found == reported[-1:]
    # Nothing was measured again, and the result is the last line again.
    assert [line["kind"] for line in RecordReader(tmp_path)][len(lines) :] == ["tags", "result"]
    # What nobody recorded is not found.
    unrecorded = run(tiny(), folder=tmp_path / "unrecorded", recorder=Memory())
    assert without_timing(unrecorded.metrics) == without_timing(first.metrics)
    assert result_of(tmp_path / "unrecorded") is None


def test_weights_that_were_best_after_the_checkpoint_are_of_a_lost_timeline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Best at step 4, killed after a better one at step 6, gone on with from step 4 on a machine where none is."""
    config = tiny(**{"training.eval_every": 2, "training.checkpoint_every": 4})
    score = dict.fromkeys((2, 4, 6, 8), 0.0) | {4: 0.5, 6: 0.9}
    evaluations = iter(score)

    def scored(*arguments: Any) -> dict[str, float]:
        metrics = evaluation(*arguments)
        return metrics | {"f1_macro": score.get(next(evaluations, 0), 0.0)}

    def killed(metrics: Mapping[str, Any]) -> None:
        if metrics["step"] == 6:
            raise InterruptedError

    monkeypatch.setattr(loop, "evaluation", scored)
    with pytest.raises(InterruptedError):
        run(config, folder=tmp_path, recorder=Memory(), report=killed)
    kept = load_file(weights_of(tmp_path, 4))
    assert not all(torch.equal(kept[name], load_file(weights_of(tmp_path, 6))[name]) for name in kept)
    result = run(config, folder=tmp_path, recorder=Memory())
    assert result.metrics["final/best_step"] == 4
    found = load_file(best_weights(tmp_path))
    assert all(torch.equal(kept[name], found[name]) for name in kept)
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize(
    ("scores", "losses", "best"),
    [
        ((0.5, 0.5, 0.5, 0.5), (0.9, 0.7, 0.8, 0.8), 4),
        ((0.5, 0.5, 0.5, 0.5), (0.7, 0.7, 0.7, 0.7), 8),
        ((0.5, 0.6, 0.5, 0.5), (0.1, 0.9, 0.1, 0.1), 4),
    ],
)
def test_of_equal_scores_the_lower_loss_is_best_and_then_the_later_step(
    scores: tuple[float, ...], losses: tuple[float, ...], best: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluations = iter(zip(scores, losses, strict=True))

    def scored(*arguments: Any) -> dict[str, float]:
        return evaluation(*arguments) | dict(zip(("f1_macro", "loss"), next(evaluations), strict=True))

    monkeypatch.setattr(loop, "evaluation", scored)
    result = run(tiny(**{"training.eval_every": 2}), folder=tmp_path, recorder=Memory())
    assert result.metrics["final/best_step"] == best


def tiny_split() -> ExperimentConfig:
    return load(
        ExperimentConfig,
        None,
        {key: value for key, value in _plain(tiny()).items() if not key.startswith("selection.policy")}
        | {"selection.policy.name": "variance_split"},
    )


def _plain(config: ExperimentConfig) -> dict[str, Any]:
    from irtune.config.load import dotted_keys

    return dotted_keys(config)


def test_a_run_does_not_depend_on_what_ran_before_it(tmp_path: Path) -> None:
    first = run(tiny(), folder=tmp_path / "first", recorder=Memory())
    run(tiny(**{"engine.zero_stage": 3, "seed": 5}), folder=tmp_path / "between", recorder=Memory())
    second = run(tiny(), folder=tmp_path / "second", recorder=Memory())
    assert without_timing(first.metrics) == without_timing(second.metrics)


def test_a_run_without_enough_memory_goes_on_with_smaller_micro_batches(tmp_path: Path) -> None:
    def lack(metrics: Mapping[str, Any]) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    config = tiny(**{"training.on_out_of_memory": "smaller_micro_batches", "training.micro_batch_size": 4})
    with pytest.raises(torch.OutOfMemoryError):
        run(config, folder=tmp_path, recorder=Memory(), report=lack)
    memory = Memory()
    started = time.monotonic()
    result = run(config, folder=tmp_path, recorder=memory)
    assert 0 < result.metrics["cost/setup_s"] < time.monotonic() - started
    assert memory.resumed_at == [2]
    assert says(memory.tag_values["irtune.out_of_memory"], "4 … again with 2")
    assert memory.param_values["training.micro_batch_size"] == 2
    # Steps see as many examples as before.
    assert memory.param_values["training.gradient_accumulation_steps"] == 2
    assert sorted(memory.points["train/loss"]) == [3, 4, 5, 6, 7, 8]


def test_the_adapter_is_a_normal_peft_folder_with_the_trained_head(tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    config = tiny()
    run(config, folder=tmp_path, recorder=Memory())
    base_folder = materialize(ModelConfig(name="tiny-random"))
    tokenizer = load_tokenizer(base_folder)
    notes = json.loads((tmp_path / "adapter" / "irtune.json").read_text())
    base = AutoModelForSequenceClassification.from_pretrained(base_folder, num_labels=len(notes["labels"]))
    base.config.pad_token_id = tokenizer.pad_token_id
    model = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    with np.load(tmp_path / "predictions.npz", allow_pickle=False) as predictions:
        dataset = config.data.load()
        assert predictions["test_ids"].tolist() == [example.id for example in dataset.splits["test"]]
        for index, example in enumerate(dataset.splits["test"][:5]):
            with torch.no_grad():
                text = dataset.prompt.render(notes["instruction"], example.texts)
                logits = model(**tokenizer(text, return_tensors="pt")).logits
            np.testing.assert_allclose(logits.softmax(-1)[0], predictions["test_probabilities"][index], atol=1e-5)


def test_a_tokenizer_that_is_written_in_python_works(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    hashes = {"num_hash_functions": 4, "num_hash_buckets": 256, "max_position_embeddings": 256}
    CanineForSequenceClassification(CanineConfig(**sizes, **hashes)).save_pretrained(tmp_path / "canine")
    CanineTokenizer(model_max_length=256).save_pretrained(tmp_path / "canine")
    for folder in ("once", "again"):
        config = tiny(**{"model.name": str(tmp_path / "canine"), "adapter.target_modules": ["query", "value"]})
        run(config, folder=tmp_path / folder, recorder=Memory(), encoded_folder=tmp_path / "encoded")
    # Both found the same tokens.
    assert len([path for path in (tmp_path / "encoded").iterdir() if path.is_dir()]) == 1


def test_k_changes_the_loss_the_cost_and_the_trace(tmp_path: Path) -> None:
    losses, flops = set(), []
    for k in (1, 3, 6):
        memory = Memory()
        result = run(tiny(**{"selection.policy.k": k}), folder=tmp_path / str(k), recorder=memory)
        losses.add(memory.points["train/loss"][8])
        flops.append(result.metrics["cost/total_flops"])
        assert [record["step"] for record in memory.records] == [0, 3, 6]
        assert all(len(record["active"]) == k for record in memory.records)
        assert all(None not in record["scores"] for record in memory.records)
    assert len(losses) == 3
    assert flops[0] < flops[2]


def test_k_of_all_blocks_trains_like_the_baseline(tmp_path: Path) -> None:
    every, baseline = Memory(), Memory()
    run(tiny(**{"selection.policy.k": 6}), folder=tmp_path / "k", recorder=every)
    run(with_overrides(tiny(), BASELINE_OVERRIDES), folder=tmp_path / "all", recorder=baseline)
    assert every.points["train/loss"] == baseline.points["train/loss"]
    assert [r["scores"] for r in every.records] == [r["scores"] for r in baseline.records]


@pytest.mark.parametrize("adapter", ["dora", "ia3"])
def test_other_tuners_train(adapter: str, tmp_path: Path) -> None:
    memory = Memory()
    tensors = "all" if adapter == "ia3" else "lora_B"
    config = tiny(**{"adapter.type": adapter, "importance.tensors": tensors, "engine.precision": "bf16"})
    run(config, folder=tmp_path, recorder=memory)
    assert memory.tag_values["irtune.engine.dtype"] == "bfloat16"
    assert all(len(record["active"]) == 2 for record in memory.records)


def test_a_diverging_run_says_what_to_lower(tmp_path: Path) -> None:
    config = tiny(**{"training.learning_rate": 1e30, "training.max_grad_norm": 0})
    with pytest.raises(FloatingPointError, match=r"training\.learning_rate"):
        run(config, folder=tmp_path, recorder=Memory())


@pytest.mark.parametrize("when", [{"training.eval_every": 1}, {"training.max_steps": 1}])
def test_a_divergence_that_an_evaluation_sees_first_says_the_same(tmp_path: Path, when: dict[str, int]) -> None:
    config = tiny(**{"training.learning_rate": 1e30, "training.max_grad_norm": 0, **when})
    with pytest.raises(FloatingPointError, match=r"validation examples .* step 1: .*training\.learning_rate"):
        run(config, folder=tmp_path, recorder=Memory())


def test_signals_that_match_no_tensor_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"set importance\.tensors=all"):
        run(tiny(**{"adapter.type": "ia3"}), folder=tmp_path, recorder=Memory())


@pytest.fixture
def uneven(tmp_path: Path) -> Path:
    """A corpus with nine examples of one class for each of the other, which its texts do not tell apart."""
    words = ("red", "green", "blue", "grey", "pink")
    lines = ["before,after,label"]
    # Drawn, so that no digit goes with the label.
    for i, number in enumerate(random.Random(0).sample(range(1000, 10_000), 200)):
        label = "rare" if i % 10 == 0 else "common"
        lines.append(f"the {words[number % 5]} cat {number},the {words[number % 5]} cat {number} sat,{label}")
    (tmp_path / "uneven.csv").write_text("\n".join(lines))
    return tmp_path / "uneven.csv"


def uneven_run(path: Path, **overrides: Any) -> ExperimentConfig:
    settings = {key: value for key, value in _plain(tiny()).items() if not key.startswith("data.")}
    return load(ExperimentConfig, None, {**settings, "data.name": "file", "data.path": str(path), **overrides})


def test_balanced_weights_even_out_what_the_model_expects(uneven: Path, tmp_path: Path) -> None:
    expects: dict[str, float] = {}
    for name, weights in {"none": "none", "balanced": "balanced", "by label": {"rare": 9}}.items():
        memory = Memory()
        settings = {"training.class_weights": weights, "training.max_steps": 20, "training.eval_every": 20}
        result = run(uneven_run(uneven, **settings), folder=tmp_path / name, recorder=memory)
        with np.load(tmp_path / name / "predictions.npz", allow_pickle=False) as predictions:
            rare = predictions["test_probabilities"][:, 1]
            expects[name] = float(rare.mean())
            of_label = np.where(predictions["test_labels"] == 1, rare, 1 - rare)
        # Weights are the training loss's alone.
        assert result.metrics["final/test_loss"] == pytest.approx(-np.log(of_label).mean(), rel=1e-5)
    assert expects["none"] < 0.25
    assert 0.35 < expects["balanced"] < 0.65
    # There are nine of the other in the training split too.
    assert expects["by label"] == pytest.approx(expects["balanced"], abs=1e-6)


def test_equal_weights_train_as_none_do_up_to_rounding(uneven: Path, tmp_path: Path) -> None:
    plain, weighted = Memory(), Memory()
    run(uneven_run(uneven), folder=tmp_path / "plain", recorder=plain)
    equal = {"training.class_weights": {"rare": 3.0, "common": 3.0}}
    run(uneven_run(uneven, **equal), folder=tmp_path / "weighted", recorder=weighted)
    assert weighted.points["train/loss"] == pytest.approx(plain.points["train/loss"], abs=1e-4)


def test_a_resumed_run_with_weights_equals_an_uninterrupted_one(uneven: Path, tmp_path: Path) -> None:
    config = uneven_run(uneven, **{"training.class_weights": {"rare": 5}, "adapter.dropout": 0.1})
    whole = run(config, folder=tmp_path / "whole", recorder=Memory())

    def stop_at_first_evaluation(metrics: Mapping[str, Any]) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        run(config, folder=tmp_path / "halves", recorder=Memory(), report=stop_at_first_evaluation)
    memory = Memory()
    halves = run(config, folder=tmp_path / "halves", recorder=memory)
    assert memory.resumed_at == [2]
    assert without_timing(halves.metrics) == without_timing(whole.metrics)
    first, second = (load_file(best_weights(tmp_path / name)) for name in ("whole", "halves"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_label_that_the_data_lacks_is_refused(uneven: Path, tmp_path: Path) -> None:
    config = uneven_run(uneven, **{"training.class_weights": {"rara": 5}})
    with pytest.raises(ValueError, match=r"training\.class_weights\.rara.*did you mean 'rare'"):
        run(config, folder=tmp_path / "run", recorder=Memory())


def test_a_run_alone_has_all_cores_and_says_how_many_threads_it_used(tmp_path: Path) -> None:
    alone, told = Memory(), Memory()
    run(tiny(**{"training.max_steps": 1}), folder=tmp_path / "alone", recorder=alone)
    assert alone.tag_values["irtune.engine.threads"] == str(num_cores())
    run(tiny(**{"training.max_steps": 1, "engine.threads_per_worker": 3}), folder=tmp_path / "told", recorder=told)
    assert told.tag_values["irtune.engine.threads"] == "3"


def test_dropping_moments_is_forgetting_them_at_the_thaw(tmp_path: Path) -> None:
    random = {"selection.policy.name": "random", "selection.policy.k": 2, "selection.reselect_every": 1}
    memories = {}
    for name, setting in {"drop": {"frozen_state": "drop"}, "reset": {"on_thaw": "reset"}, "keep": {}}.items():
        memories[name] = Memory()
        settings = {f"selection.{key}": value for key, value in setting.items()}
        run(tiny(**random, **settings), folder=tmp_path / name, recorder=memories[name])
    assert memories["drop"].points["train/loss"] == memories["reset"].points["train/loss"]
    assert memories["drop"].points["train/loss"] != memories["keep"].points["train/loss"]


def test_idle_adapters_are_no_part_of_what_a_run_finds(tmp_path: Path) -> None:
    """Dropout too: blocks that train draw what they would have drawn."""
    found = []
    for skip in (True, False):
        memory = Memory()
        config = tiny(**{"engine.skip_idle_adapters": skip, "adapter.dropout": 0.2})
        found.append(without_timing(run(config, folder=tmp_path / str(skip), recorder=memory).metrics))
        found.append(memory.points["train/loss"])
    assert found[:2] == found[2:]


def test_compiled_blocks_are_said_in_the_record_and_find_the_same(tmp_path: Path, monkeypatch: Any) -> None:
    # It calls the kernels of uncompiled blocks, and no compiler.
    monkeypatch.setattr("irtune.layers.compiled_blocks.BACKEND", "eager")
    monkeypatch.setenv("CXX", "python3")
    found = []
    for kind in (None, "blocks"):
        memory = Memory()
        config = tiny(**{"engine.compile": kind, "adapter.dropout": 0.2})
        found.append(without_timing(run(config, folder=tmp_path / str(kind), recorder=memory).metrics))
        found.append(memory.points["train/loss"])
    assert found[:2] == found[2:]
    said, graphs, _ = memory.tag_values["irtune.engine.compile"].split()
    assert said == "blocks,"
    # Probes run uncompiled; a block trains, is frozen, or is passed over, above what trains or below.
    assert 2 <= int(graphs) <= 6


def test_kept_states_are_no_part_of_what_a_run_finds(tmp_path: Path) -> None:
    """Two runs share them, one of which is interrupted."""

    def interrupt(metrics: Mapping[str, Any]) -> None:
        raise InterruptedError

    settings = {"selection.policy.name": "static", "adapter.dropout": 0.2}
    found = []
    for name, setting in {"off": False, "auto": "auto", "true": True, "again": True}.items():
        memory = Memory()
        config = tiny(**settings, **{"engine.prefix_cache": setting})
        if name == "again":
            with pytest.raises(InterruptedError):
                run(config, folder=tmp_path / name, recorder=Memory(), report=interrupt, encoded_folder=tmp_path / "e")
        metrics = run(config, folder=tmp_path / name, recorder=memory, encoded_folder=tmp_path / "e").metrics
        found.append((without_timing(metrics), memory.points["train/loss"], memory.tag_values))
    off, auto, true, again = found
    assert auto[:2] == off[:2]
    assert again[0] == true[0]
    assert true[1] == pytest.approx(off[1], rel=1e-5)
    assert true[0]["cost/total_flops"] < off[0]["cost/total_flops"]
    assert says(true[2]["irtune.engine.prefix_cache"], "training and evaluation … block 4")
    # Of three splits, once: evaluation and training read the same.
    assert len(list((tmp_path / "e" / "prefix").iterdir())) == 3
