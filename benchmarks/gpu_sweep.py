"""One short sweep of the quickstart's kind, with two trials at a time on one GPU, or on two cores.

    python benchmarks/gpu_sweep.py [--device cuda] [--model smollm2-135m|tiny] [--limit 120] [--out results.json]

Runs ``jobs/sweep.py`` as a user does, with MLflow in an SQLite file, and prints how its trials ended, what was
predicted beside what it took, and for how long two trials ran at the same time. Exits with 1 unless MLflow knows of all
trials that they finished, and two of them overlapped.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
MODELS = {
    "smollm2-135m": ["model.name=smollm2-135m"],
    "tiny": ["model.name=tiny-random"],
}
ENGINES = {
    "cuda": ["engine.gpus_per_worker=0.5", "engine.cpus_per_worker=4", "engine.precision=bf16"],
    "cpu": ["engine.cpus_per_worker=1"],
}
SHORT = [
    "data.max_validation=40",
    "training.max_steps=40",
    "training.eval_every=20",
    "training.checkpoint_every=20",
    "tune.num_trials=3",
    "tune.scheduler=null",
]
NUM_TRIALS = 4
"""With the baseline."""


def run_sweep(options: argparse.Namespace, storage: Path) -> dict[str, Any]:
    """Run it to its end, or until the limit; what it printed last, and how it ended."""
    settings = [*MODELS[options.model], *ENGINES[options.device], *SHORT]
    places = [f"storage={storage}", f"tracking.uri=sqlite:///{storage}/mlflow.db"]
    command = [sys.executable, "jobs/sweep.py", "search_spaces/quickstart.yaml", *settings, *places]
    started, log = time.perf_counter(), storage / "log"
    with log.open("w") as printed:
        # Wide enough for whole tables.
        wide = os.environ | {"COLUMNS": "160"}
        process = subprocess.Popen(
            command, cwd=ROOT, env=wide, stdin=subprocess.DEVNULL, stdout=printed, stderr=subprocess.STDOUT
        )
        try:
            process.wait(options.limit)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    return {
        "settings": settings,
        "status": process.returncode,
        "seconds": time.perf_counter() - started,
        "printed": log.read_text(encoding="utf-8", errors="replace").splitlines()[-60:],
    }


def trials(storage: Path) -> list[dict[str, Any]]:
    """When trials began and how they ended, as the driver noted it."""
    from irtune.tracking.run_record import RunRecord

    found = []
    for folder in sorted(storage.glob("*/trials/*")):
        run_record = RunRecord(folder)
        try:
            start, end = run_record.start(), run_record.end()
        except FileNotFoundError:
            # A sweep that was ended early has trials that have not begun.
            continue
        found.append(
            {
                "trial": folder.name,
                "status": end.status if end else "none",
                "began_s": start.start_time_ms / 1000,
                "ended_s": end.end_time_ms / 1000 if end else None,
            }
        )
    return found


def overlap_s(found: Sequence[Mapping[str, Any]]) -> float:
    """For how long at most two trials ran at the same time."""
    spans = [(one["began_s"], one["ended_s"]) for one in found if one["ended_s"]]
    pairs = itertools.combinations(spans, 2)
    return max((min(a[1], b[1]) - max(a[0], b[0]) for a, b in pairs), default=0.0)


def in_mlflow(storage: Path) -> tuple[dict[str, str], dict[str, float]]:
    """The status of every trial's run, and the numbers of the summary run."""
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{storage}/mlflow.db")
    experiment = client.get_experiment_by_name("irtune")
    runs = list(client.search_runs([experiment.experiment_id])) if experiment else []
    statuses = {run.info.run_name: run.info.status for run in runs if run.data.tags["irtune.kind"] != "summary"}
    summaries = [run.data.metrics for run in runs if run.data.tags["irtune.kind"] == "summary"]
    return statuses, summaries[0] if summaries else {}


def mistakes(found: Mapping[str, Any]) -> list[str]:
    """What is not as it has to be, in words."""
    wrong = []
    if found["status"] != 0:
        wrong.append(f"the sweep ended with status {found['status']}")
    if list(found["mlflow"].values()) != ["FINISHED"] * NUM_TRIALS:
        wrong.append(f"MLflow knows of {found['mlflow']}, not of {NUM_TRIALS} trials that finished")
    if found["overlap_s"] <= 0:
        wrong.append("no two trials ran at the same time")
    return wrong


def table(found: Mapping[str, Any]) -> str:
    """Trials, and predicted beside actual, as Markdown."""
    lines = ["| trial | status | seconds |", "|---|---|---|"]
    for one in found["trials"]:
        seconds = f"{one['ended_s'] - one['began_s']:.1f}" if one["ended_s"] else ""
        lines.append(f"| {one['trial']} | {one['status']} | {seconds} |")
    lines += ["", "| quantity | predicted | actual |", "|---|---|---|"]
    numbers = found["summary"]
    for name in sorted(key.partition("/")[2] for key in numbers if key.startswith("actual/")):
        predicted = numbers.get(f"predicted/{name}", float("nan"))
        lines.append(f"| {name} | {predicted:.3g} | {numbers[f'actual/{name}']:.3g} |")
    lines += ["", f"{found['seconds']:.0f} s in all, two trials at the same time for {found['overlap_s']:.1f} s"]
    return "\n".join(lines)


def main() -> int:
    """Print both tables; 1 if something is off."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--device", choices=tuple(ENGINES), default="cpu")
    parser.add_argument("--model", choices=tuple(MODELS), default="smollm2-135m")
    parser.add_argument("--limit", type=float, default=120, help="seconds after which the sweep is ended")
    parser.add_argument("--out", type=Path, help="write what was found as JSON, too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        storage = Path(folder)
        found = run_sweep(options, storage)
        found["trials"] = trials(storage)
        found["overlap_s"] = overlap_s(found["trials"])
        found["mlflow"], found["summary"] = in_mlflow(storage)
    wrong = mistakes(found)
    if options.out:
        options.out.write_text(json.dumps(found | {"wrong": wrong}, indent=1), encoding="utf-8")
    print(table(found))
    print(*(f"\nFAIL {each}" for each in wrong) if wrong else ["\nPASS"])
    if found["status"] != 0:
        print("\n".join(found["printed"]))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
