"""What running trials costs beside the trials themselves, in each of the ways to run them.

    python benchmarks/overhead.py [--trials 8] [--only timed|real|memory]

Three tables from one run. The first runs trials of 5 timed seconds, 2 at a time: a wait takes no processor, so that two
cores don't confound it. The second trains a random 6-block model under ZeRO 2, and says how long it takes from the last
step of a trial to the first step of the next, and where that time goes. The third looks at the memory of one worker
group over 50 of these trials. Exits with 1 if a goal is missed.
"""

import argparse
import itertools
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import ray
from ray import train, tune
from ray.train.torch import TorchTrainer
from ray.tune.integration.ray_train import TuneReportCallback

from irtune.config.load import explicit, load
from irtune.config.schema import ExperimentConfig
from irtune.config.sweep_schema import SweepConfig
from irtune.search.source import TrialSpec
from irtune.studies.provenance import environment
from irtune.training.record import RecordReader
from irtune.workers import cluster
from irtune.workers.execution import Execution
from irtune.workers.worker import Objective, TrialSetup
from irtune.workers.worker import train as run_trial

AT_ONCE = 2
TRIAL_S = 5.0
REPORTS = 5
IN_ONE_GROUP = 50
SETTLED = 10
GROWTH_MIB = 0.5
SETTINGS = {
    "model.name": "tiny-random",
    "data.name": "synthetic",
    "data.train_size": 100,
    "data.validation_size": 25,
    "data.test_size": 25,
    "training.max_steps": 20,
    "training.eval_every": 10,
    "space": {"selection.reselect_every": {"type": "int", "low": 1, "high": 9}},
}


@dataclass(frozen=True)
class Timing:
    """One way to run trials of a known length.

    Args:
        way: Its name.
        to_first_step_s: From its start until the first trial began.
        a_trial_s: From the end of a trial to the end of the next one in its place, in the mean.
    """

    way: str
    to_first_step_s: float
    a_trial_s: float


def timed(config: ExperimentConfig, *, folder: Path, recorder: Any, report: Any, **surroundings: Any) -> None:
    """A trial that takes ``TRIAL_S`` seconds, whatever the machine."""
    recorder.metrics(0, {"began": 1.0})
    for step in range(1, REPORTS + 1):
        time.sleep(TRIAL_S / REPORTS)
        report({"step": step, "eval/f1_macro": 0.5})
    recorder.metrics(REPORTS, {"ended": 1.0})


def plain_loop(num_trials: int) -> Timing:
    """The same trials in two threads of this process."""
    started = time.monotonic()
    nothing: Any = type("Nothing", (), {"metrics": lambda *arguments: None})()

    def place() -> None:
        for _ in range(num_trials // AT_ONCE):
            timed(ExperimentConfig(), folder=Path(), recorder=nothing, report=lambda metrics: None)

    threads = [threading.Thread(target=place) for _ in range(AT_ONCE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Timing("plain loop", 0.0, (time.monotonic() - started) * AT_ONCE / num_trials)


def tune_function(num_trials: int) -> Timing:
    """Ray Tune's function trials, as its documentation has them."""

    def trial(config: dict[str, Any]) -> None:
        _timed_steps(config, tune.report)

    return _rays_own("Tune function", tune.with_resources(trial, {"CPU": 0.5}), num_trials)


def trainer_each(num_trials: int) -> Timing:
    """A ``TorchTrainer`` of two workers in each of Tune's function trials, as Ray's documentation has them."""

    def loop(config: dict[str, Any]) -> None:
        _timed_steps(config, train.report, writes=train.get_context().get_world_rank() == 0)

    def trial(config: dict[str, Any]) -> None:
        TorchTrainer(
            loop,
            train_loop_config=config,
            scaling_config=train.ScalingConfig(num_workers=2, resources_per_worker={"CPU": 0.5 / AT_ONCE}),
            run_config=train.RunConfig(
                name=f"train_{config['name']}", storage_path=config["folder"], callbacks=[TuneReportCallback()]
            ),
        ).fit()

    own = tune.PlacementGroupFactory([dict(cluster.HEAD_NODE)])
    return _rays_own("TorchTrainer per trial, 2 workers", tune.with_resources(trial, own), num_trials)


def _timed_steps(config: dict[str, Any], report: Callable[[dict[str, Any]], None], *, writes: bool = True) -> None:
    """A trial that takes ``TRIAL_S`` seconds, and leaves when it began and ended in a file."""
    began = time.time()
    for step in range(REPORTS):
        time.sleep(TRIAL_S / REPORTS)
        report({"step": step})
    if writes:
        Path(config["folder"], config["name"]).write_text(f"{began} {time.time()}")


def _rays_own(way: str, trainable: Any, num_trials: int) -> Timing:
    with tempfile.TemporaryDirectory() as folder:
        started = time.time()
        _fit(trainable, [{"name": f"{n}", "folder": folder} for n in range(num_trials)], folder, reuse=False)
        files = [Path(folder, str(n)).read_text().split() for n in range(num_trials)]
    return _timing(way, started, [(float(began), float(ended)) for began, ended in files])


def irtune_trials(mode: str, workers: int, num_trials: int) -> Timing:
    """The same trials as irtune runs them."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.time()
        setup = run_trials(mode, workers, num_trials, Path(folder), timed, AT_ONCE)
        spans = [_span(setup.trial_folder(f"{n}")) for n in range(num_trials)]
    return _timing(f"irtune {mode}, {workers} worker{'s' * (workers > 1)}", started, spans)


def run_trials(
    mode: str,
    workers: int,
    num_trials: int,
    folder: Path,
    objective: Objective,
    at_once: int,
    settings: Mapping[str, Any] = MappingProxyType({}),
) -> TrialSetup:
    """Run trials ``0``, ``1``, … through Ray Tune in one of irtune's ways, to the end."""
    engine = {"engine.num_workers": workers, "engine.zero_stage": 2 if workers > 1 else 0}
    share = {
        "engine.cpus_per_worker": 1 / (at_once * workers) if at_once > 1 else 1,
        "tune.execution": mode,
    }
    config = load(SweepConfig, None, SETTINGS | engine | share | settings)
    setup = TrialSetup(explicit(config.experiment()), folder, ray.put(config.data.load()), objective)
    execution = Execution(config, setup, at_once)
    specs = [asdict(TrialSpec(f"{n}", {"selection.reselect_every": 1 + n % 9})) for n in range(num_trials)]
    _fit(execution.trainable(), specs, str(folder), reuse=True, at_once=at_once)
    execution.close()
    return setup


def _fit(
    trainable: Any, suggestions: Sequence[dict[str, Any]], folder: str, *, reuse: bool, at_once: int = AT_ONCE
) -> None:
    tune.Tuner(
        trainable,
        param_space=tune.grid_search(list(suggestions)),
        tune_config=tune.TuneConfig(max_concurrent_trials=at_once, reuse_actors=reuse),
        run_config=tune.RunConfig(storage_path=folder, name="tune", verbose=0),
    ).fit()


def _span(trial: Path) -> tuple[float, float]:
    times = [record["time_ms"] / 1000 for record in RecordReader(trial).poll()]
    return times[0], times[-1]


def _timing(way: str, started: float, spans: Sequence[tuple[float, float]]) -> Timing:
    """Each trial comes after the one whose end is the oldest that none has come after yet."""
    ends = sorted(end for _, end in spans)
    periods = []
    for began, ended in sorted(spans)[AT_ONCE:]:
        before = ends.pop(0)
        assert before <= began, "more trials ran at once than there are places"
        periods.append(ended - before)
    return Timing(way, min(began for began, _ in spans) - started, statistics.mean(periods))


def timed_table(num_trials: int) -> bool:
    """Print the first table; returns whether the goals are met."""
    ways: list[Callable[[int], Timing]] = [
        plain_loop,
        tune_function,
        trainer_each,
        partial(irtune_trials, "in_process", 1),
        partial(irtune_trials, "pool", 2),
    ]
    timings = [_progress(way, num_trials) for way in ways]
    plain, _, trainer, in_process, pool = timings
    print(f"\n{num_trials} trials of {TRIAL_S:g} s, {AT_ONCE} at a time\n")
    print("| way | to the first step | a trial | against the plain loop |\n|---|---|---|---|")
    for timing in timings:
        ratio = timing.a_trial_s / plain.a_trial_s
        print(f"| {timing.way} | {timing.to_first_step_s:.1f} s | {timing.a_trial_s:.2f} s | {ratio:.2f} |")
    goals = {
        "pool per trial, against the plain loop": (pool.a_trial_s / plain.a_trial_s, 1.10),
        "in_process per trial, against the plain loop": (in_process.a_trial_s / plain.a_trial_s, 1.05),
        "pool to the first step, against TorchTrainer": (pool.to_first_step_s / trainer.to_first_step_s, 1.20),
    }
    print("\n| goal | found | at most |\n|---|---|---|")
    for name, (found, most) in goals.items():
        print(f"| {name} | {found:.2f} | {most:.2f} |")
    return all(found <= most for found, most in goals.values())


def _progress(way: Callable[[int], Timing], num_trials: int) -> Timing:
    timing = way(num_trials)
    print(f"{timing.way}: {timing.a_trial_s:.2f} s a trial", file=sys.stderr)
    return timing


def real_table(num_trials: int) -> None:
    """Print the second table: medians over all but the first trial."""
    print(f"\n{num_trials} real trials (tiny-random, 20 steps), one after the other: seconds from one to the next\n")
    print("| way | last step to first step | score and save | hand over | model and engine | first step |")
    print("|---|---|---|---|---|---|")
    for mode, workers, settings in (("in_process", 1, {}), ("pool", 2, {}), ("pool", 2, {"tune.renew_after": 1})):
        with tempfile.TemporaryDirectory() as folder:
            setup = run_trials(mode, workers, num_trials, Path(folder), run_trial, at_once=1, settings=settings)
            trials = [_moments(setup.trial_folder(f"{n}")) for n in range(num_trials)]
        gaps = [_gap(before, after) for before, after in itertools.pairwise(trials)]
        medians = [statistics.median(column) for column in zip(*gaps, strict=True)]
        way = f"{mode}, {workers} worker" + ("s, ZeRO 2" if workers > 1 else "") + (", fresh" if settings else "")
        print(f"| {way} | " + " | ".join(f"{seconds:.2f}" for seconds in medians) + " |")
        print(f"{way}: {medians[0]:.2f} s between trials", file=sys.stderr)


def memory_table() -> bool:
    """Print the third table; returns whether memory stays as it is after the first trials."""
    with tempfile.TemporaryDirectory() as folder:
        setup = run_trials("pool", 2, IN_ONE_GROUP, Path(folder), run_trial, at_once=1)
        peaks = [_peak_bytes(setup.trial_folder(f"{n}")) / 2**20 for n in range(IN_ONE_GROUP)]
    growth = float(np.polyfit(range(SETTLED, IN_ONE_GROUP), peaks[SETTLED:], 1)[0])
    print(f"\n{IN_ONE_GROUP} real trials in one worker group: the peak memory of a worker\n")
    print("| after trial | MiB |\n|---|---|")
    for number in (1, 5, 10, 20, 30, 40, IN_ONE_GROUP):
        print(f"| {number} | {peaks[number - 1]:.0f} |")
    print(f"\ngrowth a trial after the first {SETTLED}: {growth:.2f} MiB (at most {GROWTH_MIB:g})")
    return growth <= GROWTH_MIB


def _peak_bytes(trial: Path) -> float:
    metrics = [record["values"] for record in RecordReader(trial).poll() if record["kind"] == "metrics"]
    return float(next(values["cost/peak_memory_bytes"] for values in metrics if "cost/peak_memory_bytes" in values))


@dataclass(frozen=True)
class Moments:
    """When what happened in a trial, in seconds since 1970."""

    set_up_began: float
    described: float
    first_step: float
    last_step: float
    ended: float


def _moments(trial: Path) -> Moments:
    records = RecordReader(trial).poll()
    at = [record["time_ms"] / 1000 for record in records]
    described = next(t for t, record in zip(at, records, strict=True) if record["kind"] == "params")
    steps = [t for t, r in zip(at, records, strict=True) if r["kind"] == "metrics" and "train/loss" in r["values"]]
    setup_s = next(r["values"]["cost/setup_s"] for r in records if "cost/setup_s" in r.get("values", {}))
    return Moments(described - setup_s, described, steps[0], steps[-1], at[-1])


def _gap(before: Moments, after: Moments) -> tuple[float, ...]:
    return (
        after.first_step - before.last_step,
        before.ended - before.last_step,
        after.set_up_began - before.ended,
        after.described - after.set_up_began,
        after.first_step - after.described,
    )


def main() -> int:
    """Print both tables; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=8, help="trials of each way, a multiple of 2")
    parser.add_argument("--only", choices=["timed", "real", "memory"])
    options = parser.parse_args()
    cluster.connect()
    print("\n".join(f"- {name}: {value}" for name, value in environment().items()))
    met = True
    if options.only in (None, "timed"):
        met = timed_table(options.trials)
    if options.only in (None, "real"):
        real_table(min(options.trials, 5))
    if options.only in (None, "memory"):
        met = memory_table() and met
    print("\nPASS" if met else "\nFAIL")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
