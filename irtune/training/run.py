"""One training run from configuration to result: the same on a laptop, in a Ray Train worker and in a test."""

import logging
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from transformers import set_seed

from irtune.analysis.groups import Groups
from irtune.analysis.metrics import evaluation
from irtune.config.load import dotted_keys
from irtune.config.schema import ExperimentConfig
from irtune.data.batches import share_hash
from irtune.data.common_tokens import common_tokens
from irtune.data.dataset import LabelledDataset, Split
from irtune.data.encode import EncodedDataset, encode_once
from irtune.data.label_names import metric_labels
from irtune.files import once_there_is_room, write_arrays
from irtune.layers import LayerController, map_parameters
from irtune.layers.collectives import gather
from irtune.layers.compiled_blocks import check_compiled
from irtune.processor import num_cores
from irtune.redaction import redacted
from irtune.training.adapter import add_adapter
from irtune.training.adapter_notes import notes_of
from irtune.training.checkpoint import load_weights, save_adapter
from irtune.training.class_weights import weights_of_classes
from irtune.training.clock import StepClock, marks_of
from irtune.training.compile_checks import check_compile
from irtune.training.cost import CostModel, PeakMemory, release_memory
from irtune.training.device_peak import mfu, peak_flops_per_s
from irtune.training.distributed import ensure_process_group, select_accelerator
from irtune.training.engine import DeepSpeedBlocks
from irtune.training.evaluation import check_metric
from irtune.training.loop import Loop, Totals
from irtune.training.measurable import check_tensors
from irtune.training.model import DTYPES, enable_gradient_checkpointing, load_classifier
from irtune.training.out_of_memory import out_of_memory, remembered, smaller_micro_batches
from irtune.training.prefix_cache import PrefixCache
from irtune.training.prefix_reuse import reuse_of
from irtune.training.pretrained import materialize
from irtune.training.quiet_loading import QuietLoading
from irtune.training.record import ADAPTER, NoRecorder, Recorder, Report, result_of
from irtune.training.self_check import check_at_start
from irtune.training.shared_prefix import SharedPrefix, sharing_of
from irtune.training.tokenizer import load_tokenizer, max_positions
from irtune.training.trial_folder import CHECKPOINTS, PREDICTIONS


@dataclass(frozen=True)
class TrialResult:
    """What a finished run found, by metric name: ``final/…``, ``cost/…`` and the last ``eval/…``."""

    metrics: Mapping[str, float]


def run(
    config: ExperimentConfig,
    *,
    folder: Path,
    recorder: Recorder,
    report: Report = lambda metrics: None,
    encoded_folder: Path | None = None,
    dataset: LabelledDataset | None = None,
) -> TrialResult:
    """Train, choose the best weights on validation, score them once on test.

    Every rank calls it. If ``folder`` holds a checkpoint the run goes on from there; if it holds the result of a
    finished run (``irtune.training.record``), that is reported and nothing is trained.

    Args:
        config: The whole configuration.
        folder: The run's own folder, on storage that every rank shares.
        recorder: Takes the measurements of rank 0.
        report: Called by every rank after each evaluation and at the end; may raise to end the run early.
        encoded_folder: Where tokenised data is shared between runs; by default in ``folder``.
        dataset: What ``config.data`` loads, where that was loaded before.

    Raises:
        ValueError: If configuration, data and model don't fit together.
        FloatingPointError: If training diverges.
    """
    finished = result_of(folder)
    if finished is not None:
        # It stays the last that the run recorded.
        recorder.result(finished)
        report(finished)
        return TrialResult({name: value for name, value in finished.items() if name not in ("step", "final")})
    with remembered(folder, config):
        started = time.perf_counter()
        config = smaller_micro_batches(folder, config)
        dataset = dataset or config.data.load()
        with prepared(config, folder, recorder, report, encoded_folder or folder / "encoded", dataset) as loop:
            _describe(loop, dataset)
            setup_s = time.perf_counter() - started
            totals = loop.run()
            metrics = _finish(loop, dataset, totals, setup_s)
            if loop.blocks.rank == 0:
                loop.recorder.result({"step": totals.step, "final": True, **metrics})
                # A run that is over is never gone on with, and moments take twice the room of weights.
                shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
                loop.forget_weights()
    report({"step": config.training.max_steps, "final": True, **metrics})
    return TrialResult(metrics)


@contextmanager
def prepared(
    config: ExperimentConfig,
    folder: Path,
    recorder: Recorder,
    report: Report,
    encoded_folder: Path,
    dataset: LabelledDataset,
) -> Iterator[Loop]:
    """All that a run trains with, checked, inside the context; every rank enters it. Arguments are those of ``run``."""
    device = select_accelerator(config.engine)
    _reset_process(config)
    ensure_process_group(config.engine)
    loop = _prepare(config, dataset, folder, recorder, report, device, encoded_folder)
    try:
        if config.selection.self_check:
            check_at_start(loop.blocks, loop.first_batch())
        if loop.blocks.compiled is not None:
            check_compiled(loop.blocks, loop.first_batch())
        yield loop
    finally:
        loop.blocks.destroy()


def _reset_process(config: ExperimentConfig) -> None:
    """Leave nothing of the runs that this process did before."""
    release_memory()
    torch.set_num_threads(config.engine.threads(num_cores(), config.engine.num_workers))
    # irtune seeds what it draws where it draws it; this is for what users bring.
    set_seed(config.seed)


def _load(
    config: ExperimentConfig, dataset: LabelledDataset, encoded_folder: Path
) -> tuple[PeftModel, EncodedDataset, int]:
    """The model with its adapter, the data as it reads them, and the id of its padding."""
    check_metric(config.metric, dataset)
    checkpoint = materialize(config.model)
    tokenizer = load_tokenizer(checkpoint)
    with QuietLoading():
        how = (DTYPES[config.engine.precision], config.model.attention, config.model.quantization)
        base = load_classifier(checkpoint, dataset.labels, tokenizer.pad_token_id, config.seed, *how)
        positions = max_positions(base, tokenizer)
        encoded = encode_once(dataset, tokenizer, config.model.max_length, encoded_folder, positions)
        model = add_adapter(base, config.adapter, train_head=config.model.train_head, seed=config.seed)
    if config.model.gradient_checkpointing:
        enable_gradient_checkpointing(model)
    model.train()
    return model, encoded, tokenizer.pad_token_id


def _prepare(
    config: ExperimentConfig,
    dataset: LabelledDataset,
    folder: Path,
    recorder: Recorder,
    report: Report,
    device: torch.device,
    encoded_folder: Path,
) -> Loop:
    model, encoded, pad_token_id = _load(config, dataset, encoded_folder)
    trainable = map_parameters(model)
    config.selection.policy.check(len(trainable))
    check_tensors(config, trainable)
    if config.engine.compile is not None:
        check_compile(config)
    common = common_tokens(encoded)
    sharing = sharing_of(model, config.engine.share_prefix, len(common), encoded.max_length)
    cost = CostModel.of(model, recompute=config.model.gradient_checkpointing, sharing=sharing)
    length = float(encoded.splits["train"].lengths.mean())
    cost = replace(cost, reuse=reuse_of(model, config.engine)).under(config.selection.policy, length)
    weights = weights_of_classes(config.training.class_weights, dataset.labels, encoded.splits["train"].labels)
    prefix = SharedPrefix(model, common, sharing)
    blocks = DeepSpeedBlocks(
        model,
        trainable,
        config.training,
        config.engine,
        weights,
        prefix=prefix,
        frozen_state=config.selection.frozen_state,
    )
    prefix_cache = PrefixCache(blocks, cost.reuse, encoded, pad_token_id, sharing, config, encoded_folder / "prefix")
    cost = replace(cost, reuse=prefix_cache.reuse)
    controller = LayerController(
        blocks,
        len(trainable),
        config.selection.policy,
        config.importance,
        reselect_every=config.selection.reselect_every,
        total_steps=config.training.max_steps,
        seed=config.seed,
        sinks=[recorder],
        always_measure=config.selection.measure == "always",
        reset_on_thaw=config.selection.on_thaw == "reset",
        cost=cost.per_block(length),
        probe_memory=config.selection.probe_memory,
    )
    return Loop(
        config=config,
        folder=folder,
        blocks=blocks,
        controller=controller,
        data=encoded,
        class_names=metric_labels(dataset.labels),
        pad_token_id=pad_token_id,
        cost=cost,
        memory=PeakMemory(device),
        clock=StepClock(marks_of(device)),
        recorder=recorder if blocks.rank == 0 else NoRecorder(),
        report=report,
        peak_flops_per_s=peak_flops_per_s(device, config.engine.precision),
        prefix_cache=prefix_cache,
    )


def _describe(loop: Loop, dataset: LabelledDataset) -> None:
    """Record settings, and facts read off the live objects."""
    config = loop.config
    if loop.blocks.rank == 0:
        logging.getLogger(__name__).info(loop.cost.sharing.in_words())
    lengths = loop.data.splits["train"].lengths
    world = {"batch_size": config.training.micro_batch_size, "seed": config.seed}
    shares = gather(share_hash(lengths, **world, rank=loop.blocks.rank, world_size=torch.distributed.get_world_size()))
    loop.recorder.params(config.model_dump(mode="json"))
    loop.recorder.tags(
        {f"irtune.engine.{name}": value for name, value in loop.blocks.description().items()}
        | {f"irtune.data.share_hash.rank_{rank}": share for rank, share in enumerate(shares)}
        | {
            "irtune.data": dataset.name,
            "irtune.data.fingerprint": dataset.fingerprint(),
            "irtune.data.skipped_rows": dataset.num_skipped,
            "irtune.data.lengths": loop.data.in_words(),
            "irtune.data.shared_prefix": loop.cost.sharing.in_words(),
            "irtune.engine.prefix_cache": loop.cost.reuse.in_words(),
            "irtune.data.notes": " ".join(dataset.notes),
            "irtune.blocks": len(loop.blocks.blocks),
            "irtune.blocks.name": loop.blocks.blocks.name,
        }
    )
    lack = out_of_memory(loop.folder)
    if lack is not None:
        tried = f"with micro-batches of {lack.micro_batch_size}; tried again with {config.training.micro_batch_size}"
        loop.recorder.tags({"irtune.out_of_memory": tried})


def _finish(loop: Loop, dataset: LabelledDataset, totals: Totals, setup_s: float) -> dict[str, float]:
    """Score the best weights on validation and, for the only time, on test; keep adapter and predictions."""
    weights = loop.best_weights
    load_weights(loop.blocks, weights)
    splits: tuple[Split, ...] = ("validation", "test")
    validation = loop.evaluate("validation") if loop.best_validation is None else loop.best_validation
    probabilities: dict[Split, np.ndarray] = {"validation": validation, "test": loop.evaluate("test")}
    scores = {
        split: evaluation(loop.data.splits[split].labels, probabilities[split], loop.class_names) for split in splits
    }
    metrics = {f"final/{split}_{name}": value for split in splits for name, value in scores[split].items()}
    metrics |= {
        "final/best_step": float(totals.best_step),
        "final/train_loss": float(np.mean(totals.recent_losses)),
        "cost/setup_s": setup_s,
        **_cost_metrics(loop, totals),
    }
    if loop.blocks.rank == 0:
        if loop.blocks.compiled is not None:
            loop.recorder.tags({"irtune.engine.compile": loop.blocks.compiled.in_words()})
        _keep(loop, dataset, weights, probabilities)
        # They hold for the whole run; MLflow draws a metric that has step 0 only as a bar, for comparison.
        loop.recorder.metrics(0, metrics)
    return metrics | {f"eval/{name}": value for name, value in scores["validation"].items()}


def _cost_metrics(loop: Loop, totals: Totals) -> dict[str, float]:
    all_parameters = loop.blocks.trainable_parameters(range(len(loop.blocks.blocks)))
    world_size = torch.distributed.get_world_size()
    return {
        "cost/train_s": totals.train_s,
        "cost/total_flops": totals.flops,
        "cost/mean_step_flops": totals.per_step("flops"),
        "cost/mean_step_s": totals.per_step("train_s"),
        "cost/mean_tokens_per_s": totals.tokens / totals.train_s,
        **mfu("cost/mean_mfu", totals.flops / world_size, totals.train_s, loop.peak_flops_per_s),
        "cost/peak_memory_bytes": float(max(gather(loop.memory.sample()))),
        **_probe_costs(loop, totals),
        "cost/mean_active_blocks": totals.per_step("active_blocks"),
        "cost/mean_lowest_active_block": totals.per_step("lowest_active"),
        "cost/mean_trainable_parameters": totals.per_step("trainable_parameters"),
        "cost/trainable_share": totals.per_step("trainable_parameters") / all_parameters,
    }


def _probe_costs(loop: Loop, totals: Totals) -> dict[str, float]:
    """Steps that also measured blocks which they did not train, apart from ordinary ones."""
    kinds = {
        "ordinary": (totals.step - totals.probe_steps, totals.train_s - totals.probe_steps_s),
        "probe": (totals.probe_steps, totals.probe_steps_s),
    }
    peaks = gather(loop.memory.peaks_bytes)
    found = {"cost/probe_flops": totals.probe_flops}
    for kind, (steps, seconds) in kinds.items():
        if steps:
            found[f"cost/mean_{kind}_step_s"] = seconds / steps
            found[f"cost/{kind}_peak_memory_bytes"] = float(max(peak[kind] for peak in peaks))
    return found


def _keep(loop: Loop, dataset: LabelledDataset, weights: Path, probabilities: Mapping[Split, np.ndarray]) -> None:
    notes = {**notes_of(loop.config, dataset, loop.data), "config": dotted_keys(loop.config)}
    tracking = loop.config.tracking
    if tracking.keep_adapters != "none":
        save_adapter(loop.blocks, loop.folder / ADAPTER, weights, redacted(notes))
    arrays: dict[str, Any] = {}
    for split, values in probabilities.items():
        arrays[f"{split}_ids"] = np.array([example.id for example in dataset.splits[split]])
        arrays[f"{split}_labels"] = np.asarray(loop.data.splits[split].labels)
        arrays[f"{split}_probabilities"] = values
        groups = Groups.of_names([example.group for example in dataset.splits[split]], dataset.grouped_by)
        arrays |= groups.arrays(split) if groups is not None else {}
    predictions = loop.folder / PREDICTIONS
    once_there_is_room(lambda: write_arrays(predictions, arrays), predictions)
    if tracking.upload_adapters == "all":
        loop.recorder.artifact(loop.folder / ADAPTER, ADAPTER)
    loop.recorder.artifact(loop.folder / PREDICTIONS, "")
