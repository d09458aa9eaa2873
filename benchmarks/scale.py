"""What a trial costs the driver as a sweep grows to 10,000 trials: time, memory, disk.

    python benchmarks/scale.py [--figure scale.png] [--trials 10000]

Trials of a closed-form objective go through the driver's own parts as Ray Tune calls them, in one process without Ray:
searcher, scheduler, callback, progress display, study, records, uploader. Prints what a trial costs after 100 to 10,000
others, in processor time, which neither a disk nor neighbours disturb, without MLflow and with it (SQLite); the same
with TPE, to 1,000; and Ray Tune's own share, from two real sweeps of trials that do nothing. Takes about 35 minutes.

Each goal is a line of its own that passes or fails; exits with 1 if one fails.

- The last hundred trials with the random sampler against the first: at most 1.5 times the time of a suggestion, of
  bookkeeping, and of all together, and of the memory. Nothing in them has to look at the history, so what grows is a
  fault; the half is left to caches, which 10,000 trials outgrow and 100 do not.
- A suggestion of TPE at 1,000 trials: at most 50 ms, half a percent of a trial of ten seconds; and at most 1,000 / 300
  of what it is at 300. It fits densities to all trials anew, which grows as their number and no faster.
- Bookkeeping of Ray Tune itself: at most 100 ms of processor time a trial in a sweep of 400, one percent of ten
  seconds; and at most 1.5 times what it is in one of 100, since its snapshots of all trials are to be as rare as they
  are long.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import optuna
import psutil
from matplotlib.figure import Figure
from ray import tune
from scale_driver import PARTS, WINDOW, Driver

from irtune.studies.provenance import environment
from irtune.workers import cluster

ENDS = (WINDOW, 300, 1000, 3000, 10_000)
TPE_ENDS = (WINDOW, 300, 1000)
MOST_TIMES = 1.5
MOST_TPE_MS, MOST_TUNE_MS = 50.0, 100.0
SUGGESTION, BOOKKEEPING = (PARTS.index(part) for part in ("suggestion", "bookkeeping"))
GROWS = ("memory", "study file", "MLflow's database")


class Window(NamedTuple):
    """What a trial costs after ``upto - WINDOW`` others, and how many bytes each has left since the window before."""

    upto: int
    ms: list[float]
    grown: list[float]


class Goal(NamedTuple):
    """One line of the verdict."""

    what: str
    found: float
    most: float
    unit: str = "times"

    @property
    def is_met(self) -> bool:
        """Whether no more was found than is allowed."""
        return self.found <= self.most


def grow(sampler: str, ends: tuple[int, ...], *, with_mlflow: bool = False) -> list[Window]:
    """Run a sweep of as many trials as the last of ``ends``; a window ends at each of them."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    windows = []
    with tempfile.TemporaryDirectory() as folder:
        driver = Driver(Path(folder), sampler, ends[-1], with_mlflow=with_mlflow)
        driver.uploader.start()
        # What is loaded once is no trial's: the baseline goes before the first window.
        driver.run_trial(0)
        before, grown = 0, driver.sizes()
        for number in range(1, ends[-1] + 1):
            if number + WINDOW - 1 in ends:
                driver.reset()
            driver.run_trial(number)
            if number in ends:
                # First: looking at the sizes takes time itself.
                ms, sizes = driver.ms_a_trial(), driver.sizes()
                growth = [(now - then) / (number - before) for now, then in zip(sizes, grown, strict=True)]
                windows.append(Window(number, ms, growth))
                print(f"{sampler}: {number} trials", file=sys.stderr)
                before, grown = number, sizes
        driver.uploader.close()
    return windows


def apart(sampler: str, ends: tuple[int, ...], *, with_mlflow: bool = False) -> list[Window]:
    """``grow`` in a process of its own, in which nothing else has left anything."""
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


def print_tune_share(sizes: tuple[int, int] = (100, 400)) -> list[float]:
    """What Ray Tune's own loop costs this process, its snapshots included: milliseconds of processor time a trial."""
    assert "TUNE_GLOBAL_CHECKPOINT_S" not in os.environ, "switches off that Tune's snapshots back off as it grows"
    cluster.connect()
    found, cpu_ms = [], []
    for num_trials in sizes:
        with tempfile.TemporaryDirectory() as folder:
            before = time.monotonic(), time.process_time(), psutil.Process().memory_info().rss / 1e9
            tune.Tuner(
                tune.with_resources(_nothing, {"CPU": 0.5}),
                tune_config=tune.TuneConfig(num_samples=num_trials, max_concurrent_trials=2, reuse_actors=True),
                run_config=tune.RunConfig(storage_path=folder, name="tune", verbose=0),
            ).fit()
            after = time.monotonic(), time.process_time(), psutil.Process().memory_info().rss / 1e9
        wall, cpu, memory = (1000 * (now - then) / num_trials for now, then in zip(after, before, strict=True))
        found.append(f"of {num_trials} {wall:.0f} ms ({cpu:.0f} ms of processor time, {memory:.3f} MB)")
        cpu_ms.append(cpu)
    print(f"\n## Ray Tune's own part\n\nTrials of nothing, 2 at a time, actors reused, each: {'; '.join(found)}.")
    return cpu_ms


def _nothing(config: Mapping[str, Any]) -> None:
    tune.report({"step": 1})


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


def goals(flat: Mapping[str, list[Window]], tpe: list[Window], tune_ms: list[float]) -> list[Goal]:
    """Every goal with what was found.

    Args:
        flat: Sweeps whose cost is to stay, by title.
        tpe: The sweep with TPE.
        tune_ms: Ray Tune's own cost of a trial in a short and in a longer sweep.
    """
    lines = []
    for title, (first, *_, last) in flat.items():
        for part in (SUGGESTION, BOOKKEEPING):
            ratio = last.ms[part] / first.ms[part]
            lines.append(Goal(f"{title}: {PARTS[part]}, last trials to first", ratio, MOST_TIMES))
        lines.append(Goal(f"{title}: all together, last trials to first", sum(last.ms) / sum(first.ms), MOST_TIMES))
        lines.append(Goal(f"{title}: memory, last trials to first", last.grown[0] / first.grown[0], MOST_TIMES))
    *_, before, last = tpe
    asked, grown = last.ms[SUGGESTION], last.ms[SUGGESTION] / before.ms[SUGGESTION]
    short, longer = tune_ms
    return [
        *lines,
        Goal(f"TPE: a suggestion after {last.upto:,} trials", asked, MOST_TPE_MS, "ms"),
        Goal(f"TPE: a suggestion after {last.upto:,} trials to {before.upto}", grown, last.upto / before.upto),
        Goal("TPE: bookkeeping, last trials to first", last.ms[BOOKKEEPING] / tpe[0].ms[BOOKKEEPING], MOST_TIMES),
        Goal("Ray Tune: its own bookkeeping a trial, longer sweep", longer, MOST_TUNE_MS, "ms"),
        Goal("Ray Tune: its own bookkeeping a trial, longer sweep to short", longer / short, MOST_TIMES),
    ]


def main() -> int:
    """Print all tables; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--figure", type=Path, help="where to draw the growth curves")
    parser.add_argument("--trials", type=int, choices=ENDS[1:], default=ENDS[-1], help="of the random sampler's sweeps")
    arguments = parser.parse_args()
    print("# What a trial costs the driver as a sweep grows\n")
    print("\n".join(f"- {name}: {value}" for name, value in environment().items()))
    ends = tuple(end for end in ENDS if end <= arguments.trials)
    flat = {
        "Random sampler, without MLflow": apart("random", ends),
        "Random sampler, with MLflow on SQLite": apart("random", ends, with_mlflow=True),
    }
    tpe = apart("tpe", TPE_ENDS)
    sweeps = flat | {"TPE, without MLflow": tpe}
    for title, windows in sweeps.items():
        print_windows(title, windows)
    if arguments.figure:
        draw(sweeps, arguments.figure)
    found = goals(flat, tpe, print_tune_share())
    print("\n| goal | found | at most | |\n|---|---|---|---|")
    for goal in found:
        verdict = "PASS" if goal.is_met else "FAIL"
        print(f"| {goal.what} | {goal.found:.2f} {goal.unit} | {goal.most:.2f} {goal.unit} | {verdict} |")
    is_met = all(goal.is_met for goal in found)
    print("\nPASS" if is_met else "\nFAIL")
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())
