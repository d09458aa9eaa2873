"""What a trial costs the driver as a sweep grows to 10,000 trials: time, memory, disk.

    python benchmarks/scale.py [--figure scale.png]

Trials of a closed-form objective go through the driver's own parts as Ray Tune calls them, in one process without Ray:
searcher, scheduler, callback, progress display, study, spools, shipper. Prints what a trial costs after 100 to 10,000
others, in processor time, which neither a disk nor neighbours disturb, without MLflow and with it (SQLite); the same
with TPE, whose suggestions grow with history, to 1,000; and Ray Tune's own share, from two real sweeps of trials that
do nothing. Takes about 35 minutes. Exits with 1 if, with the random sampler, a trial of the last hundred costs more
than 1.5 times what one of the first hundred did, in time or memory.
"""

import argparse
import gc
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from io import StringIO
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import optuna
import psutil
from matplotlib.figure import Figure
from ray import tune
from rich.console import Console

from irtune.config.load import dotted_keys, explicit, load
from irtune.config.sweep import SweepConfig
from irtune.tracking.mlflow_tracker import MlflowTracker
from irtune.tracking.shipper import Shipper
from irtune.tracking.spool import SpoolWriter
from irtune.tuning import cluster
from irtune.tuning.callback import SweepCallback
from irtune.tuning.preflight import Inputs, Ready, Sweep
from irtune.tuning.progress import SweepProgress
from irtune.tuning.provenance import environment
from irtune.tuning.scheduler import build_scheduler
from irtune.tuning.searcher import STUDY, OptunaAskTell, open_study
from irtune.tuning.warm_start import Earlier
from irtune.tuning.worker import SPOOL, TrialSetup

WINDOW = 100
ENDS = (WINDOW, 300, 1000, 3000, 10_000)
TPE_ENDS = (WINDOW, 300, 1000)
SHIPPED_TOGETHER = 20
"""Trials after which the shipper is waited for; it works all the time."""
MOST_TIMES = 1.5
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
"""Asking the study and telling it; callback, scheduler and display; all other threads: shipper and drawings."""
TRIAL = "trial"
"""What a trial does itself, which is not the driver's."""
COSTS = ("step_s", "step_flops", "active_blocks", "lowest_active_block", "memory_bytes")
OF_A_STEP = ("train/loss", *(f"cost/{name}" for name in COSTS))
FINAL = ("final/validation_f1_macro", "final/test_f1_macro", "final/train_loss", "cost/train_s", "cost/total_flops")
GROWS = ("memory", "study file", "MLflow's database")


class Window(NamedTuple):
    """What a trial costs after ``upto - WINDOW`` others, and how many bytes each has left since the window before."""

    upto: int
    ms: list[float]
    grown: list[float]


class _Nowhere:
    """A tracker that takes everything at once."""

    uri = "nowhere"

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments, **more: ""


class Driver:
    """The parts of ``irtune.tuning.sweep`` that see every trial; ``seconds`` are what each has taken so far."""

    def __init__(self, folder: Path, sampler: str, num_trials: int, *, with_mlflow: bool) -> None:
        overrides = {"tune.sampler": sampler, "tune.num_trials": num_trials}
        config = load(SweepConfig, None, SETTINGS | overrides | {"storage": str(folder)})
        self.reset()
        self.study, self.database = folder / STUDY, folder / "mlflow.db"
        uri = f"sqlite:///{self.database}"
        ready = Ready(Inputs(folder, 30, config.data.load(), None, None), uri, Earlier("", (), 0), ())
        sweep = Sweep("scale", folder, config, ready, "scale.py")
        self.setup = TrialSetup(explicit(config.experiment()), folder, dataset=None)
        self.searcher = OptunaAskTell(open_study(self.study, "scale", config.tune), config.space, config.tune)
        metric, mode = config.stops_by
        self.scheduler = build_scheduler(config.tune.scheduler, max_steps=STEPS, metric=metric, mode=mode)
        tracker: Any = MlflowTracker(uri, "irtune") if with_mlflow else _Nowhere()
        self.shipper = Shipper(tracker, lambda *new: self.callback.take(*new), lambda key: self.callback.take_last(key))
        self.callback = SweepCallback(sweep, self.setup, self.shipper)
        self.progress = SweepProgress(Console(file=StringIO()), num_trials + 1, STEPS, config.tune)

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
        """One trial from its suggestion to its end, and shipping; what the trial itself does is not counted."""
        with self.counted("suggestion"):
            suggestion = self.searcher.suggest(f"t{number}")
        assert isinstance(suggestion, dict)
        trial = SimpleNamespace(trial_id=f"t{number}", config=suggestion, last_result={}, error_file=None)
        with self.counted("bookkeeping"):
            self.callback.on_trial_start(0, [], trial)
            self.scheduler.on_trial_add(None, trial)
        with self.counted(TRIAL):
            writer = SpoolWriter(self.setup.trial_folder(suggestion["trial"]) / SPOOL, 0)
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
        with self.counted("bookkeeping"):
            self.scheduler.on_trial_complete(None, trial, trial.last_result)
            self.callback.on_trial_complete(0, [], trial)
            self.callback.wait()
            self.progress.update(self.callback.entries.values())
        if number % SHIPPED_TOGETHER == 0:
            left = self.shipper.drain(60)
            assert not left, left

    def sizes(self) -> tuple[int, ...]:
        """Bytes that are resident, in the study's journal, and in MLflow's database."""
        return _resident(), *(file.stat().st_size if file.is_file() else 0 for file in (self.study, self.database))

    def _stops(self, trial: Any, step: int, writer: SpoolWriter) -> bool:
        """Evaluate, and tell searcher and scheduler; returns whether the trial is over."""
        score = _score(trial.config["overrides"], step)
        with self.counted(TRIAL):
            writer.metrics(step, {"eval/f1_macro": score, "eval/loss": 1 - score})
        trial.last_result = {"step": step, "eval/f1_macro": score, "eval/loss": 1 - score}
        with self.counted("bookkeeping"):
            decision = self.scheduler.on_trial_result(None, trial, trial.last_result)
        if decision == self.scheduler.STOP:
            return True
        with self.counted("suggestion"):
            self.searcher.on_trial_result(trial.trial_id, trial.last_result)
        if step == STEPS:
            final = dict.fromkeys(FINAL, score)
            with self.counted(TRIAL):
                writer.metrics(step, final)
            trial.last_result = {"step": step, "final": True, **final}
        return step == STEPS


def _score(overrides: Mapping[str, Any], step: int) -> float:
    """Best at k = 20 and a learning rate of 1e-3."""
    k, rate = overrides.get("selection.policy.k", 30), overrides.get("training.learning_rate", 1e-4)
    return float(0.9 - abs(k - 20) / 100 - abs(rate - 1e-3) - 0.5 / step)


def grow(sampler: str, ends: tuple[int, ...], *, with_mlflow: bool = False) -> list[Window]:
    """Run a sweep of as many trials as the last of ``ends``; a window ends at each of them."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    windows = []
    with tempfile.TemporaryDirectory() as folder:
        driver = Driver(Path(folder), sampler, ends[-1], with_mlflow=with_mlflow)
        driver.shipper.start()
        # What is loaded once is no trial's: the baseline goes before the first window.
        driver.run_trial(0)
        before, grown = 0, driver.sizes()
        for number in range(1, ends[-1] + 1):
            if number + WINDOW - 1 in ends:
                driver.reset()
            driver.run_trial(number)
            if number in ends:
                sizes = driver.sizes()
                growth = [(now - then) / (number - before) for now, then in zip(sizes, grown, strict=True)]
                windows.append(Window(number, driver.ms_a_trial(), growth))
                print(f"{sampler}: {number} trials", file=sys.stderr)
                before, grown = number, sizes
        driver.shipper.close()
    return windows


def apart(sampler: str, ends: tuple[int, ...], *, with_mlflow: bool = False) -> list[Window]:
    """``grow`` in a process of its own, so that one sweep does not live in memory that another one has left."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(grow, sampler, ends, with_mlflow=with_mlflow).result()


def print_windows(title: str, windows: list[Window]) -> None:
    """One row a window."""
    print(f"\n## {title}\n")
    print(f"| trials | {' | '.join((*PARTS, 'together', *GROWS))} |")
    print("|---" * (2 + len(PARTS) + len(GROWS)) + "|")
    for upto, ms, grown in windows:
        cells = [f"{part:.1f} ms" for part in (*ms, sum(ms))] + [f"{size / 1e6:.4f} MB" for size in grown]
        print(f"| {upto - WINDOW + 1:,} to {upto:,} | {' | '.join(cells)} |")


def print_tune_share(sizes: tuple[int, int] = (100, 400)) -> None:
    """What Ray Tune's own loop costs this process, its snapshots included."""
    assert "TUNE_GLOBAL_CHECKPOINT_S" not in os.environ, "switches off that Tune's snapshots back off as it grows"
    cluster.connect()
    found = []
    for num_trials in sizes:
        with tempfile.TemporaryDirectory() as folder:
            before = time.monotonic(), time.process_time(), _resident() / 1e9
            tune.Tuner(
                tune.with_resources(_nothing, {"CPU": 0.5}),
                tune_config=tune.TuneConfig(num_samples=num_trials, max_concurrent_trials=2, reuse_actors=True),
                run_config=tune.RunConfig(storage_path=folder, name="tune", verbose=0),
            ).fit()
            after = time.monotonic(), time.process_time(), _resident() / 1e9
        wall, cpu, memory = (1000 * (now - then) / num_trials for now, then in zip(after, before, strict=True))
        found.append(f"of {num_trials} {wall:.0f} ms ({cpu:.0f} ms of processor time, {memory:.3f} MB)")
    print(f"\n## Ray Tune's own part\n\nTrials of nothing, 2 at a time, actors reused, each: {'; '.join(found)}.")


def _nothing(config: Mapping[str, Any]) -> None:
    tune.report({"step": 1})


def _resident() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)


def draw(sweeps: Mapping[str, list[Window]], file: Path) -> None:
    """The growth curves: time and memory of a trial against the trials before it, one line a sweep."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    time_axes, memory_axes = figure.subplots(1, 2)
    for title, windows in sweeps.items():
        upto = [window.upto for window in windows]
        time_axes.plot(upto, [sum(window.ms) for window in windows], marker="o", label=title)
        memory_axes.plot(upto, [window.grown[0] / 1e3 for window in windows], marker="o", label=title)
    time_axes.set_ylabel("driver's processor time a trial (ms)")
    memory_axes.set_ylabel("driver's memory a trial (kB)")
    for axes in (time_axes, memory_axes):
        axes.set(xscale="log", xlabel="trials so far")
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
    time_axes.legend(frameon=False)
    figure.savefig(file, dpi=120)


def main() -> int:
    """Print all tables; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--figure", type=Path, help="where to draw the growth curves")
    arguments = parser.parse_args()
    print("# What a trial costs the driver as a sweep grows\n")
    print("\n".join(f"- {name}: {value}" for name, value in environment().items()))
    flat = {
        "Random sampler, without MLflow": apart("random", ENDS),
        "Random sampler, with MLflow on SQLite": apart("random", ENDS, with_mlflow=True),
    }
    sweeps = flat | {"TPE, without MLflow": apart("tpe", TPE_ENDS)}
    for title, windows in sweeps.items():
        print_windows(title, windows)
    if arguments.figure:
        draw(sweeps, arguments.figure)
    print_tune_share()
    print("\n| the last trials against the first | time | memory | at most |\n|---|---|---|---|")
    ratios = {}
    for title, (first, *_, last) in flat.items():
        ratios[title] = sum(last.ms) / sum(first.ms), last.grown[0] / first.grown[0]
        print(f"| {title} | {ratios[title][0]:.2f} | {ratios[title][1]:.2f} | {MOST_TIMES:.2f} |")
    is_met = max(max(pair) for pair in ratios.values()) <= MOST_TIMES
    print("\nPASS" if is_met else "\nFAIL")
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())
