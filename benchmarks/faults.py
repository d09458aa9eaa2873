"""Faults injected into real sweeps: what of the trials is lost, repeated, or said to have ended otherwise than it did.

    python benchmarks/faults.py [--only SWEEP …] [--keep FOLDER]

Every fault strikes at two moments, in sweeps of eight trials and the baseline (benchmarks/faults.yaml); several strike
in one sweep, each in a trial of its own or at a time of its own. Each sweep is held against the same sweep without
faults: final values, and every point in MLflow against the trial's record. Exits with 1 unless all is as it should be:
nothing lost, repeated or wrong, no step kept waiting for 50 ms by what is measured in it, nor 1 % of the time spent on
that. On a full disk training waits, lest anything measured is in memory only. Takes about 45 minutes.
"""

import argparse
import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from fault_servers import Tracker

from irtune.studies.provenance import environment
from irtune.training.record import RecordReader, result_of

ROOT = Path(__file__).parents[1]
NUM_TRIALS = 9
MOST_STALL_MS = 50
MOST_TRACKING = 0.01
KEY = "importance.clip_quantile"
POOL = ("engine.num_workers=2", "engine.zero_stage=2", "engine.cpus_per_worker=0.25", "tune.execution=pool")
COLUMNS = (
    "sweep",
    "trials expected",
    "finished",
    "repeated",
    "points lost",
    "points doubled",
    "wrong status",
    "other values",
    "worst stall",
    "tracking",
)
Fault = Mapping[str, Any]


@dataclass(frozen=True)
class Scenario:
    """A sweep and what happens to it.

    Args:
        name: As ``--only`` takes it.
        faults: What strikes inside trials, by the trial's clip quantile.
        around: What is done to the sweep from outside while it runs.
        settings: Of the sweep, beside those of its file.
        num_failing: Trials that are to fail in the end.
        may_stall: A step may wait long, since there is nowhere to put what was measured.
    """

    name: str
    faults: Mapping[str, Fault] = field(default_factory=dict)
    around: "Callable[[Sweep], None]" = lambda sweep: sweep.wait()
    settings: Sequence[str] = ()
    num_failing: int = 0
    may_stall: bool = False


class Sweep:
    """A sweep that runs: started, watched, struck, and started again."""

    def __init__(self, scenario: Scenario, folder: Path, tracker: Tracker | None) -> None:
        self.scenario = scenario
        self.storage = folder / "storage"
        self.faults = folder / "faults"
        self.tracker = tracker
        self.log = folder / "log.txt"
        self.faults.mkdir(parents=True)
        (self.faults / "faults.json").write_text(json.dumps(scenario.faults))
        self.start()

    def start(self, *arguments: str) -> None:
        """Start the driver."""
        paths = [str(ROOT), str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH", "")]
        surroundings = {"IRTUNE_FAULTS": str(self.faults), "PYTHONPATH": ":".join(filter(None, paths))}
        if self.tracker is not None:
            surroundings["MLFLOW_TRACKING_URI"] = self.tracker.uri
        settings = [f"storage={self.storage}", *self.scenario.settings]
        self.started_ms = 1000 * time.time()
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "jobs/sweep.py", "benchmarks/faults.yaml", *settings, *arguments],
                cwd=ROOT,
                env=os.environ | surroundings,
                stdout=log,
                stderr=log,
            )

    def wait(self) -> None:
        """Wait for its end."""
        status = self.process.wait(900)
        if status != 0:
            raise RuntimeError(f"{self.scenario.name}: the sweep ended with {status}: {self.log.read_text()[-3000:]}")

    def until(self, num_finished: int, step: int = 0) -> None:
        """Wait until so many trials are over, and this driver has seen one more record this step."""
        deadline = time.monotonic() + 400
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"the sweep is over too early: {self.log.read_text()[-3000:]}")
            trials = list(self.storage.glob("*/trials/*"))
            over = [trial for trial in trials if result_of(trial) is not None]
            going = [trial for trial in trials if trial not in over]
            if len(over) >= num_finished and (
                step == 0 or any(max(losses(t, self.started_ms), default=0) >= step for t in going)
            ):
                return
            time.sleep(0.05)
        raise TimeoutError(f"{self.scenario.name}: {num_finished} trials are not over: {self.log.read_text()[-3000:]}")

    def kill_driver(self, number: int) -> None:
        """Send the driver a signal, wait until nothing of it is left, and resume."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(number)
        self.process.wait(60)
        _, alive = psutil.wait_procs(children, timeout=10)
        for process in alive:
            process.kill()
        self.start("--resume")

    def kill(self, title: str) -> None:
        """Kill a process of the sweep by what Ray calls it."""
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.name().startswith(title) or " ".join(process.cmdline()).startswith(title):
                    process.kill()
                    (self.faults / f"struck {title} {time.time()}").touch()
                    return
        raise RuntimeError(f"no process is called {title}")


def losses(trial: Path, since_ms: float) -> list[int]:
    """Steps whose loss a trial has recorded since then."""
    records = [record for record in RecordReader(trial).poll() if record["time_ms"] >= since_ms]
    return [r["step"] for r in records if r["kind"] == "metrics" and "train/loss" in r["values"]]


def kill_drivers(sweep: Sweep) -> None:
    """Each signal once early and once late in a trial, each time another trial."""
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
        for step in (2, 7):
            sweep.until(0, step)
            sweep.kill_driver(number)
    sweep.wait()


def kill_machinery(sweep: Sweep) -> None:
    """The actor that hands out trials, and a worker group's controller."""
    for title, over in (("ray::Pool", 1), ("ray::TrainController", 3), ("ray::Pool", 5), ("ray::TrainController", 6)):
        sweep.until(over, 4)
        sweep.kill(title)
    sweep.wait()


def disturb_tracker(sweep: Sweep) -> None:
    """Slow, refusing and failing answers, a server that is away for 40 s: at the start, and in the middle."""
    assert sweep.tracker is not None
    for over in (0, 4):
        for trouble in ("slow", "403", "500"):
            sweep.until(over, 1)
            with sweep.tracker.trouble(trouble):
                time.sleep(8)
        sweep.tracker.stop()
        time.sleep(40)
        sweep.tracker.start()
    sweep.wait()


def kill_tracker_for_good(sweep: Sweep, trials: int = 2) -> None:
    """The server does not come back while the sweep runs; afterwards what was measured is sent by hand."""
    assert sweep.tracker is not None
    if trials:
        sweep.until(trials, 3)
    sweep.tracker.stop()
    sweep.wait()
    sweep.tracker.start()
    (folder,) = sweep.storage.glob("faults-*")
    uri = ["--tracking-uri", sweep.tracker.uri]
    subprocess.run([sys.executable, "-m", "irtune.cli", "sync", str(folder), *uri], cwd=ROOT, check=True)


def fill_disk(sweep: Sweep) -> None:
    """No byte is left on the storage for six seconds, twice."""
    for over in (1, 5):
        sweep.until(over, 2)
        with _full(sweep.storage):
            time.sleep(6)
    sweep.wait()


@contextlib.contextmanager
def _full(storage: Path) -> Iterator[None]:
    ballast = storage / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    try:
        yield
    finally:
        ballast.unlink()


def strike(kind: str, *ranks: int) -> list[dict[str, Any]]:
    """A fault at two refreshes, early and late, on each of these ranks."""
    return [{"kind": kind, "step": step} | {"rank": rank} for rank in ranks for step in (3, 6)]


def spread(*faults: Sequence[Fault]) -> dict[str, Fault]:
    """One fault a trial."""
    return {f"{0.1 * (index + 1):.1g}": fault for index, fault in enumerate(fault for kind in faults for fault in kind)}


SCENARIOS = (
    Scenario(
        "trials",
        spread(strike("raise", 0), strike("nan", 0), strike("out of memory", 0), strike("worker killed", 0)),
    ),
    Scenario("failing", spread(strike("always raise", 0)), num_failing=2),
    Scenario(
        "pool",
        spread(strike("raise", 1), strike("worker killed", 0, 1), strike("out of memory", 1)),
        settings=POOL,
    ),
    # A trial may be struck twice here.
    Scenario("machinery", around=kill_machinery, settings=(*POOL, "tune.max_failures=2")),
    Scenario("drivers", around=kill_drivers),
    # Each trial waits twice, so that the server's troubles find some that run.
    Scenario("tracker", {f"{n / 10:g}": {"kind": "waits"} for n in range(1, 9)}, disturb_tracker),
    Scenario("tracker for good", around=kill_tracker_for_good),
    Scenario("tracker never there", around=partial(kill_tracker_for_good, trials=0)),
    Scenario("full disk", around=fill_disk, may_stall=True),
)


@dataclass(frozen=True)
class Finding:
    """What became of a sweep's trials; ``differing`` ones end with other values than without faults."""

    finished: int
    repeated: int
    lost_points: int
    doubled_points: int
    wrong_status: int
    differing: int
    worst_stall_ms: float
    tracking_share: float


def examine(sweep: Sweep, database: Path, undisturbed: Mapping[str, dict[str, float]]) -> Finding:
    """Hold a sweep's folder and MLflow's database against each other, and against the sweep without faults."""
    (folder,) = sweep.storage.glob("faults-*")
    trials = sorted((folder / "trials").iterdir())
    values = final_values(folder)
    failing = {quantile for quantile, fault in sweep.scenario.faults.items() if fault["kind"].startswith("always")}
    stored = _stored(database)
    counts = {
        trial.name: _compare(trial, stored.get(f"{folder.name}/{trial.name}", ("absent", {}))) for trial in trials
    }
    expected = {trial.name: "FINISHED" if trial.name in values else "FAILED" for trial in trials}
    wrong = sum(stored.get(f"{folder.name}/{name}", ("absent", {}))[0] != status for name, status in expected.items())
    seconds = [float(line) for file in sweep.faults.glob("tracking_*.txt") for line in file.read_text().splitlines()]
    trained_s = sum(value["cost/train_s"] for value in values.values())
    named = by_quantile(folder, values)
    return Finding(
        finished=len(values),
        repeated=sum(_repeats(trial) for trial in trials),
        lost_points=sum(lost for lost, _ in counts.values()) + (NUM_TRIALS - len(trials)),
        doubled_points=sum(doubled for _, doubled in counts.values()),
        wrong_status=wrong,
        differing=sum(
            _without_machine(named.get(key, {})) != _without_machine(found)
            for key, found in undisturbed.items()
            if key not in failing
        ),
        worst_stall_ms=1000 * max(seconds, default=0.0),
        tracking_share=sum(seconds) / trained_s,
    )


def final_values(folder: Path) -> dict[str, dict[str, float]]:
    """What each finished trial found, by its name."""
    results = {trial.name: result_of(trial) for trial in folder.glob("trials/*")}
    return {name: result for name, result in results.items() if result is not None}


def by_quantile(folder: Path, values: Mapping[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """The same by what tells configurations apart."""
    found = {}
    for name, value in values.items():
        params = next(r["values"] for r in RecordReader(folder / "trials" / name).poll() if r["kind"] == "params")
        found[name if name == "baseline" else params[KEY]] = value
    return found


def _without_machine(result: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in result.items() if name.startswith("final/")}


def _repeats(trial: Path) -> int:
    """Whether a trial was trained on after it had finished."""
    metrics = [record for record in RecordReader(trial).poll() if record["kind"] == "metrics"]
    trained = {record["attempt"] for record in metrics if "train/loss" in record["values"]}
    finished = {record["attempt"] for record in metrics if "final/test_f1_macro" in record["values"]}
    return sum(attempt > min(finished) for attempt in trained) if finished else 0


def _compare(trial: Path, run: tuple[str, Mapping[tuple[str, int], int]]) -> tuple[int, int]:
    """Points of a trial's record that MLflow lacks, and points that it has more than once."""
    records = RecordReader(trial).poll()
    points = {(name, r["step"]) for r in records if r["kind"] == "metrics" for name in r["values"]}
    return len(points - run[1].keys()), sum(count > 1 for count in run[1].values())


def _stored(database: Path) -> dict[str, tuple[str, dict[tuple[str, int], int]]]:
    """By irtune's key of a run: its status, and how often each point is stored."""
    with contextlib.closing(sqlite3.connect(database)) as rows:
        keys = dict(rows.execute("SELECT run_uuid, value FROM tags WHERE key = 'irtune.key'"))
        runs = {keys[run]: (status, {}) for run, status in rows.execute("SELECT run_uuid, status FROM runs")}
        for run, name, step, count in rows.execute(
            "SELECT run_uuid, key, step, COUNT(*) FROM metrics GROUP BY run_uuid, key, step"
        ):
            runs[keys[run]][1][name, step] = count
    return runs


def run_scenario(scenario: Scenario, folder: Path, undisturbed: Mapping[str, dict[str, float]] | None) -> Any:
    """Run a sweep; returns its final values, or what became of it against those of one without faults."""
    with contextlib.ExitStack() as stack:
        folder.mkdir(parents=True)
        tracker = stack.enter_context(Tracker(folder / "mlflow")) if "tracker" in scenario.name else None
        if scenario.name == "full disk":
            stack.enter_context(_small_disk(folder / "storage"))
        sweep = Sweep(scenario, folder, tracker)
        stack.callback(sweep.process.kill)
        scenario.around(sweep)
        if undisturbed is None:
            (found,) = sweep.storage.glob("faults-*")
            return by_quantile(found, final_values(found))
        database = tracker.database if tracker is not None else sweep.storage / "mlflow.db"
        struck = len(list(sweep.faults.glob("struck *")))
        if struck < len(scenario.faults):
            raise RuntimeError(f"{scenario.name}: only {struck} of {len(scenario.faults)} faults struck")
        return examine(sweep, database, undisturbed)


@contextlib.contextmanager
def _small_disk(folder: Path) -> Iterator[None]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def main() -> int:
    """Print the table; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=[scenario.name for scenario in SCENARIOS])
    parser.add_argument("--keep", type=Path, help="where to leave logs and sweeps")
    options = parser.parse_args()
    chosen = [scenario for scenario in SCENARIOS if scenario.name in (options.only or scenario.name)]
    print("\n".join(f"- {name}: {value}" for name, value in environment().items()))
    print("\n| " + " | ".join(COLUMNS) + " |")
    print("|---" * len(COLUMNS) + "|", flush=True)
    references: dict[Sequence[str], dict[str, dict[str, float]]] = {}
    right = True
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        for scenario in chosen:
            settings = scenario.settings
            if settings not in references:
                name = f"undisturbed {len(references)}"
                references[settings] = run_scenario(Scenario(name, settings=settings), folder / name, None)
            try:
                found = run_scenario(scenario, folder / scenario.name, references[settings])
            except (RuntimeError, TimeoutError, subprocess.SubprocessError) as error:
                right = False
                print(f"| {scenario.name} | did not come to its end: {str(error).splitlines()[0]} |", flush=True)
                print(error, file=sys.stderr)
                continue
            expected = NUM_TRIALS - scenario.num_failing
            mistakes = (found.repeated, found.lost_points, found.doubled_points, found.wrong_status, found.differing)
            in_time = found.worst_stall_ms < MOST_STALL_MS and found.tracking_share < MOST_TRACKING
            right = right and found.finished == expected and not any(mistakes) and (in_time or scenario.may_stall)
            numbers = " | ".join(map(str, (expected, found.finished, *mistakes)))
            print(
                f"| {scenario.name} | {numbers} | {found.worst_stall_ms:.1f} ms | {found.tracking_share:.2%} |",
                flush=True,
            )
    print("\nPASS" if right else "\nFAIL")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
