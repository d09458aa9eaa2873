"""The driver's own parts, called as Ray Tune calls them but without Ray, for ``scale.py``."""

import ctypes
import gc
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray.tune.experiment import Trial
from rich.console import Console

from irtune.config.load import dotted_keys, explicit, load
from irtune.config.sweep_schema import SweepConfig
from irtune.search.optuna_source import STUDY, OptunaSource, open_study
from irtune.search.source import BASELINE_SPEC, ListSource, Together
from irtune.search.stopping import Asha
from irtune.studies.inputs import Inputs
from irtune.studies.preflight import Ready, Sweep
from irtune.studies.progress import SweepProgress
from irtune.studies.ray_tune import SourceSearcher, TableCallback
from irtune.studies.trial_table import TrialTable
from irtune.tracking.mlflow_tracker import MlflowTracker
from irtune.tracking.uploader import Uploader
from irtune.training.record import RecordWriter
from irtune.workers.worker import TrialSetup

WINDOW = 100
"""Trials over which costs are averaged."""
SENT_TOGETHER = 20
"""Trials after which the uploader is waited for; it works all the time."""
STEPS, EVAL_EVERY = 20, 5
SETTINGS: dict[str, Any] = {
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
PARTS = ("suggestion", "bookkeeping", "shipping")
"""Asking the study and telling it; callback, scheduler and display; all other threads: uploader and drawings."""
TRIAL = "trial"
"""What a trial does itself, which is not the driver's."""
COSTS = ("step_s", "step_flops", "active_blocks", "lowest_active_block", "memory_bytes")
OF_A_STEP = ("train/loss", *(f"cost/{name}" for name in COSTS))
FINAL = ("final/validation_f1_macro", "final/test_f1_macro", "final/train_loss", "cost/train_s", "cost/total_flops")


class _Nowhere:
    """A tracker that takes everything at once."""

    uri = "nowhere"

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments, **more: ""


class Driver:
    """The parts of ``irtune.studies.driver`` that see every trial; ``seconds`` are what each has taken so far."""

    def __init__(self, folder: Path, sampler: str, num_trials: int, *, with_mlflow: bool) -> None:
        overrides = {"tune.sampler": sampler, "tune.num_trials": num_trials}
        config = load(SweepConfig, None, SETTINGS | overrides | {"storage": str(folder)})
        self.reset()
        self.study, self.database = folder / STUDY, folder / "mlflow.db"
        uri = f"sqlite:///{self.database}"
        ready = Ready([Inputs(folder, 30, config.data.load(), lambda: None, None)], uri, ())
        sweep = Sweep("scale", folder, config, ready, "scale.py")
        self.setup = TrialSetup(explicit(config.experiment()), folder, dataset=None)
        search = OptunaSource(open_study(self.study, "scale", config.tune), config.space, config.tune)
        self.searcher = SourceSearcher(Together([ListSource([BASELINE_SPEC]), search]))
        metric, mode = config.stops_by
        self.scheduler = Asha(config.tune.scheduler, STEPS, metric, mode)
        tracker: Any = MlflowTracker(uri, "irtune") if with_mlflow else _Nowhere()
        self.uploader = Uploader(tracker)
        self.table = TrialTable(sweep, self.setup, self.uploader)
        self.callback = TableCallback(self.table, lambda trial: None, lambda: None)
        self.progress = SweepProgress(Console(file=StringIO()), num_trials + 1, STEPS, config.aim)
        # As Tune's controller has them.
        self.live: list[Any] = []
        self.trials: list[Any] = []
        self.controller = SimpleNamespace(get_trials=lambda: self.trials, get_live_trials=lambda: self.live)

    @contextmanager
    def counted(self, part: str) -> Iterator[None]:
        """Count the processor time that the block takes in this thread."""
        started = time.thread_time()
        yield
        self.seconds[part] += time.thread_time() - started

    def reset(self) -> None:
        """Begin to count anew."""
        self.seconds = dict.fromkeys((*PARTS, TRIAL), 0.0)
        self.began = time.process_time()

    def ms_a_trial(self) -> list[float]:
        """Milliseconds of each part, over a window."""
        self.seconds["shipping"] = time.process_time() - self.began - sum(self.seconds.values())
        return [1000 * self.seconds[part] / WINDOW for part in PARTS]

    def run_trial(self, number: int) -> None:
        """One trial from its suggestion to its end, and sending it on; what the trial itself does is not counted."""
        with self.counted("suggestion"):
            suggestion = self.searcher.suggest(f"t{number}")
        assert isinstance(suggestion, dict)
        trial = SimpleNamespace(trial_id=f"t{number}", config=suggestion, last_result={}, error_file=None)
        trial.status = Trial.PENDING
        self.trials.append(trial)
        self.live.append(trial)
        with self.counted("bookkeeping"):
            self.scheduler.on_trial_add(self.controller, trial)
            chosen = self.scheduler.choose_trial_to_run(self.controller)
            self.callback.on_trial_start(0, [], trial)
        assert chosen is trial
        trial.status = Trial.RUNNING
        with self.counted(TRIAL):
            writer = RecordWriter(self.setup.trial_folder(suggestion["name"]))
            writer.params(dotted_keys(self.setup.config(suggestion["overrides"])))
        for step in range(1, STEPS + 1):
            with self.counted(TRIAL):
                writer.metrics(step, dict.fromkeys(OF_A_STEP, 1 / step))
            if step % EVAL_EVERY == 0 and self._stops(trial, step, writer):
                break
        with self.counted(TRIAL):
            writer.close()
        with self.counted("suggestion"):
            self.searcher.on_trial_complete(trial.trial_id, trial.last_result)
        self.live.remove(trial)
        trial.status = Trial.TERMINATED
        with self.counted("bookkeeping"):
            self.scheduler.on_trial_complete(self.controller, trial, trial.last_result)
            self.callback.on_trial_complete(0, [], trial)
            self.table.wait()
            self.table.read()
            self.progress.update(self.table.in_order)
        # What Tune's own objects hold is Tune's.
        trial.config = trial.last_result = None
        if number % SENT_TOGETHER == 0:
            left = self.uploader.drain(60)
            assert not left, left

    def sizes(self) -> tuple[int, ...]:
        """Bytes of memory that are in use, in the study's journal, and in MLflow's database."""
        return in_use(), *(file.stat().st_size if file.is_file() else 0 for file in (self.study, self.database))

    def _stops(self, trial: Any, step: int, writer: RecordWriter) -> bool:
        """Evaluate, and tell searcher and scheduler; returns whether the trial is over."""
        score = _score(trial.config["overrides"], step)
        with self.counted(TRIAL):
            writer.metrics(step, {"eval/f1_macro": score, "eval/loss": 1 - score})
        trial.last_result = {"step": step, "eval/f1_macro": score, "eval/loss": 1 - score}
        with self.counted("bookkeeping"):
            decision = self.scheduler.on_trial_result(self.controller, trial, trial.last_result)
            # Tune asks for a trial to run after each event.
            self.scheduler.choose_trial_to_run(self.controller)
        if decision == self.scheduler.STOP:
            return True
        with self.counted("suggestion"):
            self.searcher.on_trial_result(trial.trial_id, trial.last_result)
        if step == STEPS:
            final = dict.fromkeys(FINAL, score)
            with self.counted(TRIAL):
                writer.metrics(step, final)
                writer.result({"step": step, "final": True, **final})
            trial.last_result = {"step": step, "final": True, **final}
        return step == STEPS


def _score(overrides: Mapping[str, Any], step: int) -> float:
    """Best at k = 20 and a learning rate of 1e-3."""
    k, rate = overrides.get("selection.policy.k", 30), overrides.get("training.learning_rate", 1e-4)
    return float(0.9 - abs(k - 20) / 100 - abs(rate - 1e-3) - 0.5 / step)


def in_use() -> int:
    """Bytes of memory that Python's objects, and whatever was allocated with malloc, take.

    What the process holds (RSS) is more by what it has freed before, a megabyte after the start: as much as 100 trials
    take.
    """
    gc.collect()
    found = _count_malloc()
    return _bytes_of_objects() + int(found.uordblks + found.hblkhd)


def _bytes_of_objects() -> int:
    """What Python's own allocator says, which it writes to the process's standard error only."""
    before = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            sys._debugmallocstats()
        finally:
            os.dup2(before, 2)
            os.close(before)
        file.seek(0)
        (said,) = re.findall(rb"# bytes in allocated blocks += +([0-9,]+)", file.read())
    return int(said.replace(b",", b""))


class _Malloc(ctypes.Structure):
    """``struct mallinfo2`` of glibc."""

    _fields_ = tuple((name, ctypes.c_size_t) for name in (*"abcd", "hblkhd", *"ef", "uordblks", *"gh"))


_count_malloc = ctypes.CDLL(None).mallinfo2
_count_malloc.restype = _Malloc
