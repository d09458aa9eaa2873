"""Studies as their trials' records leave them, written without training anything."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from irtune.config.ablation_schema import AblationConfig
from irtune.config.load import build
from irtune.config.schema import ExperimentConfig
from irtune.config.study_schema import StudyConfig
from irtune.files import write_arrays
from irtune.studies.resume import write_identity
from irtune.tracking.run_record import Ended, Opened, RunRecord
from irtune.training.record import RecordWriter

NUM_BLOCKS = 6
CELLS = {"all": {"selection.policy.name": "all"}, "few": {"method": "lisa"}, "same": {"method": "lisa"}}
TREE: dict[str, Any] = {
    "name": "tiny",
    "model": {"name": "tiny-random"},
    "adapter": {"r": 4, "alpha": 8, "dropout": 0.0},
    "training": {"max_steps": 10},
}
TOP_K = {"name": "top_k", "k": 2}
SWEEP = {"selection": {"policy": TOP_K}, "space": {"selection.policy.k": {"type": "int", "low": 1, "high": 5}}}
SCORES = [1.0, 2.0, 3.0, 4.0, 5.0, 9.0]
DATA = "f1ngerprint"
"""The fingerprint of their data."""


def begun(folder: Path, kind: type[StudyConfig] = AblationConfig, fingerprint: str = DATA, **more: Any) -> Path:
    """Make the folder of an ablation or a sweep in which nothing has run yet."""
    beside = {"ablation": {"cells": CELLS}} if kind is AblationConfig else SWEEP | more
    (folder / "trials").mkdir(parents=True)
    write_identity(folder, build(kind, TREE | beside, "x"), fingerprint)
    return folder


def trial(
    folder: Path,
    name: str,
    score: float,
    *,
    choices: Sequence[tuple[int, Sequence[int]]] = ((0, (4, 5)), (4, (0, 5))),
    scores: list[float] | None = SCORES,
    policy: Mapping[str, Any] = TOP_K,
    seed: int = 0,
    repeats: str | None = None,
    finished: bool = True,
    tags: Mapping[str, str] | None = None,
    signal: str = "gradient_norm",
    measured: Mapping[str, float] | None = None,
    **adapter: Any,
) -> Path:
    """Write what a trial and its driver leave behind.

    Args:
        folder: The study's.
        name: The trial's.
        score: On validation.
        choices: From which step on which blocks trained.
        scores: Of all blocks at every choice.
        policy: Its settings.
        seed: The trial's.
        repeats: The cell, or the trial, that it is of.
        finished: Whether it has a result.
        tags: What else the driver noted.
        signal: What blocks are scored by.
        measured: Metrics beside the score.
        adapter: Settings of it.
    """
    tree: dict[str, Any] = TREE | {"seed": seed, "selection": {"policy": policy}}
    tree["adapter"] = {**TREE["adapter"], **adapter}
    tree["importance"] = {"name": signal}
    config = build(ExperimentConfig, tree, "x")
    place = folder / "trials" / name
    driver = {"irtune.strategy": config.strategy, "irtune.kind": "cell", "irtune.git_commit": "abc123"}
    driver |= dict({} if repeats is None else {"irtune.repeats": repeats}) | (tags or {})
    RunRecord(place).begin(Opened(f"{folder.name}/{name}", name, driver, 1_000))
    writer = RecordWriter(place)
    writer.params(config.model_dump(mode="json"))
    data = {"irtune.data": "synthetic", "irtune.data.fingerprint": DATA}
    writer.tags(data | {"irtune.blocks": NUM_BLOCKS, "irtune.blocks.name": "model.layers"})
    for step, active in choices:
        measured_at = [-1 if scores is None else step] * NUM_BLOCKS
        row = {
            "step": step,
            "active": list(active),
            "scores": scores or [None] * NUM_BLOCKS,
            "measured_at": measured_at,
        }
        more = {"trainable_parameters": len(active), "lowest_active": min(active)}
        writer._write("selection", **row, **more)
    if measured is not None:
        writer.metrics(10, {"final/validation_f1_macro": score, **measured})
    if finished:
        writer.result({"step": 10, "final": True, "final/validation_f1_macro": score, "cost/train_s": 5.0})
        RunRecord(place).finish(Ended("FINISHED", {}, None, 0))
    writer.close()
    return place


def cell(folder: Path, name: str, scores: Sequence[float], **more: Any) -> None:
    """Write a cell of an ablation, one trial for each seed."""
    for seed, score in enumerate(scores):
        trial(folder, f"{name}_seed_{seed}", score, seed=seed, repeats=name, **more)


def all_blocks(folder: Path, **more: Any) -> None:
    """Write a cell that trains every block."""
    cell(folder, "all", [0.9, 0.9], policy={"name": "all"}, choices=((0, range(NUM_BLOCKS)),), **more)


def predicted(place: Path, right: float, num_test: int = 40) -> None:
    """Write the predictions of a trial of two classes, a share ``right`` of which are true."""
    labels = np.arange(num_test) % 2
    said = np.where(np.arange(num_test) < right * num_test, labels, 1 - labels)
    arrays = {}
    for split in ("validation", "test"):
        arrays[f"{split}_ids"] = np.array([f"row:{i}" for i in range(num_test)])
        arrays[f"{split}_labels"], arrays[f"{split}_probabilities"] = labels, np.eye(2)[said] * 0.8 + 0.1
    write_arrays(place / "predictions.npz", arrays)
