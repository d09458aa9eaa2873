"""Folders of studies as drivers and trials leave them, without any of them running."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from irtune.config.load import build
from irtune.config.sweep_schema import SweepConfig
from irtune.files import read_json, write_json
from irtune.studies.resume import write_identity
from irtune.tracking.heartbeat import DRIVER, Driver, Heartbeat
from irtune.tracking.run_record import Ended, Opened, RunRecord, RunStatus
from irtune.training.record import RecordWriter

NUM_BLOCKS, MAX_STEPS = 4, 30
SPACE = {"selection.policy.k": {"type": "int", "low": 1, "high": 3}}


def make_study(
    storage: Path,
    name: str = "tiny-20261128-101500",
    *,
    complete: bool = True,
    kind: type = SweepConfig,
    **settings: Any,
) -> Path:
    """A study in which no trial has begun."""
    beside = {"space": SPACE, "selection": {"policy": {"name": "top_k", "k": 2}}} if kind is SweepConfig else {}
    folder = storage / name
    (folder / "trials").mkdir(parents=True)
    tree = {"name": "tiny", "model": {"name": "tiny-random"}, **beside, **settings}
    write_identity(folder, build(kind, tree, "x"), "f1ngerprint", complete=complete)
    return folder


def make_trial(
    folder: Path,
    name: str,
    scores: Sequence[float] = (),
    *,
    status: RunStatus | None = "FINISHED",
    active: Sequence[int] = (0, 3),
    tags: Mapping[str, str] | None = None,
    error: str | None = None,
    began_ms: int = 1_000,
) -> Path:
    """A trial that was evaluated every ten steps, and ended as ``status`` says; None has not ended."""
    place = folder / "trials" / name
    RunRecord(place).begin(Opened(f"{folder.name}/{name}", f"top_k k=2 of {name}", {}, began_ms))
    writer = RecordWriter(place)
    writer.params({"seed": 0, "training": {"max_steps": MAX_STEPS}})
    choose(writer, 0, active)
    for index, score in enumerate(scores, 1):
        writer.metrics(10 * index, {"eval/f1_macro": score, "train/loss": 1.0})
    if status == "FINISHED" and not tags:
        writer.result({"step": MAX_STEPS, "final": True, "final/validation_f1_macro": max(scores, default=0.0)})
    writer.close()
    if status is not None:
        RunRecord(place).finish(Ended(status, dict(tags or {}), error, 2_000))
    return place


def choose(writer: RecordWriter, step: int, active: Sequence[int]) -> None:
    """Record a choice of blocks."""
    row = {"step": step, "active": list(active), "scores": [1.0] * NUM_BLOCKS, "measured_at": [step] * NUM_BLOCKS}
    writer._write("selection", **row, trainable_parameters=1, lowest_active=min(active))


def die(folder: Path, age_s: float, **changes: Any) -> None:
    """Leave what a driver of another host leaves that was killed ``age_s`` ago."""
    (folder / DRIVER).unlink(missing_ok=True)
    with Heartbeat(folder):
        driver = read_json(folder / DRIVER, Driver)
    write_json(folder / DRIVER, replace(driver, **({"host": "elsewhere", "pid": 4711} | changes)))
    then_s = time.time() - age_s
    os.utime(folder / DRIVER, (then_s, then_s))


def files_in(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file and folder with when it was written, and its size."""
    return {
        str(path.relative_to(folder)): (path.lstat().st_mtime_ns, path.lstat().st_size)
        for path in sorted(folder.rglob("*"))
    }
