"""What a trial costs the driver as a sweep grows to 10,000 trials, and what it leaves in memory and on disk.

    python benchmarks/scale.py [--trials 10000] [--tune-only]

Trials of a closed-form objective go through the driver's own parts, called as Ray Tune calls them, in one process
without Ray: searcher, scheduler, callback, progress display, spools, and the shipper with an SQLite store of MLflow.
Prints a table of milliseconds, kilobytes and bytes a trial in windows of 100 trials, the same for TPE up to 1,000
trials, and for Ray Tune's own part, from two real sweeps of trials that do nothing. Takes about 15 minutes. Exits with 1
if a trial after 9,900 others costs more than 1.5 times what the first hundred cost, in time or memory.
"""

import argparse
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import psutil
from rich.console import Console

from irtune.config.load import dotted_keys, explicit, load
from irtune.config.schema import SweepConfig
from irtune.tracking.mlflow_tracker import MlflowTracker
from irtune.tracking.shipper import Shipper
from irtune.tracking.spool import SpoolWriter
from irtune.tuning.callback import SweepCallback
from irtune.tuning.preflight import Ready, Sweep
from irtune.tuning.progress import SweepProgress
from irtune.tuning.provenance import environment
from irtune.tuning.scheduler import build_scheduler
from irtune.tuning.searcher import STUDY, OptunaAskTell, open_study
from irtune.tuning.warm_start import Earlier
from irtune.tuning.worker import SPOOL, TrialSetup

WINDOW = 100
MOST_TIMES = 1.5
STEPS, EVAL_EVERY = 20, 5
SETTINGS: Mapping[str, Any] = {
    "model.name": "tiny-random",
    "data.name": "synthetic",
    "training.max_steps": STEPS,
    "training.eval_every": EVAL_EVERY,
    "selection.policy.name": "top_k",
    "selection.policy.k": 10,
    "space": {
        "selection.policy.k": {"type": "int", "low": 1, "high": 30},
        "training.learning_rate": {"type": "float", "low": 1e-5, "high": 1e-2, "log": True},
    },
    "tune.scheduler": {"name": "asha", "grace_steps": EVAL_EVERY},
}


@dataclass
class Costs:
    """What the trials of a window cost: seconds by part, and what grew by how many bytes."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    grown: dict[str, int] = field(default_factory=dict)

    @contextmanager
    def of(self, part: str) -> Iterator[None]:
        """Count what the block takes."""
        started = time.process_time()
        yield
        self.seconds[part] += time.process_time() - started


class _Nowhere:
    """A tracker that takes everything at once."""

    uri = "nowhere"

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: ""


class Driver:
    """The parts of ``irtune.tuning.sweep`` that see every trial."""

    def __init__(self, folder: Path, sampler: str, num_trials: int, *, with_mlflow: bool) -> None:
        overrides = {"tune.sampler": sampler, "tune.num_trials": num_trials}
        config = load(SweepConfig, None, SETTINGS | overrides | {"storage": str(folder)})
        self.uri = f"sqlite:///{folder}/mlflow.db"
        ready = Ready(folder, config.data.load(), 30, self.uri, Earlier("", (), 0), ())
        sweep = Sweep("scale", folder, config, ready, "scale.py")
        self.setup = TrialSetup(explicit(config.experiment()), folder, dataset=None)  # type: ignore[arg-type]
        self.searcher = OptunaAskTell(open_study(folder / STUDY, "scale", config.tune), config.space, config.tune)
        metric, mode = config.tune.stops_by
        self.scheduler = build_scheduler(config.tune.scheduler, max_steps=STEPS, metric=metric, mode=mode)
        tracker = MlflowTracker(self.uri, "irtune") if with_mlflow else _Nowhere()
        self.shipper = Shipper(tracker, lambda key, records: self.callback.take(key, records))  # type: ignore[arg-type]
        self.callback = SweepCallback(sweep, self.setup, self.shipper)
        self.progress = SweepProgress(Console(file=StringIO()), num_trials + 1, STEPS, config.tune)
        self.study = folder / STUDY

    def run_trial(self, number: int, costs: Costs) -> None:
        """One trial from its suggestion until MLflow has all of it."""
        with costs.of("suggestion"):
            suggestion = self.searcher.suggest(f"t{number}")
        assert isinstance(suggestion, dict)
        trial = SimpleNamespace(trial_id=f"t{number}", config=suggestion, last_result={}, error_file=None)
        with costs.of("bookkeeping"):
            self.callback.on_trial_start(0, [], trial)
            self.scheduler.on_trial_add(None, trial)
        writer = SpoolWriter(self.setup.trial_folder(suggestion["trial"]) / SPOOL, 0)
        writer.params(dotted_keys(self.setup.config(suggestion["overrides"])))
        for step in range(1, STEPS + 1):
            writer.metrics(step, _measured(step))
            if step % EVAL_EVERY == 0 and self._stops(trial, step, writer, costs):
                break
        writer.close()
        with costs.of("suggestion"):
            self.searcher.on_trial_complete(trial.trial_id, trial.last_result)
        with costs.of("bookkeeping"):
            self.scheduler.on_trial_complete(None, trial, trial.last_result)
            self.callback.on_trial_complete(0, [], trial)
            self.progress.update(self.callback.entries.values())
        with costs.of("MLflow"):
            left = self.shipper.drain(60)
        assert not left, left

    def _stops(self, trial: Any, step: int, writer: SpoolWriter, costs: Costs) -> bool:
        """Evaluate, and tell searcher and scheduler; returns whether the trial is over."""
        score = _score(trial.config["overrides"], step)
        writer.metrics(step, {"eval/f1_macro": score, "eval/loss": 1 - score})
        trial.last_result = {"step": step, "eval/f1_macro": score, "eval/loss": 1 - score}
        with costs.of("bookkeeping"):
            decision = self.scheduler.on_trial_result(None, trial, trial.last_result)
        if decision == self.scheduler.STOP:
            return True
        with costs.of("suggestion"):
            self.searcher.on_trial_result(trial.trial_id, trial.last_result)
        if step == STEPS:
            final = {"final/validation_f1_macro": score, "final/test_f1_macro": score, "final/train_loss": 1 - score}
            final |= {"cost/train_s": 1.0, "cost/total_flops": 1e9, "cost/mean_active_blocks": 10.0}
            final |= {"cost/mean_lowest_active_block": 3.0, "cost/trainable_share": 0.5}
            writer.metrics(step, final)
            trial.last_result = {"step": step, "final": True, **final}
        return step == STEPS


def _score(overrides: Mapping[str, Any], step: int) -> float:
    """Best at k = 20 and a learning rate of 1e-3."""
    k, rate = overrides.get("selection.policy.k", 30), overrides.get("training.learning_rate", 1e-4)
    return float(0.9 - abs(k - 20) / 100 - abs(rate - 1e-3) - 0.5 / step)


def _measured(step: int) -> dict[str, float]:
    """What a training step records."""
    names = ("step_s", "step_flops", "active_blocks", "lowest_active_block", "memory_bytes")
    return {"train/loss": 1 / step} | {f"cost/{name}": float(step) for name in names}
