"""What `irtune predict` needs for files of any size: memory that does not grow, and the speed of an evaluation.

    python benchmarks/predict.py [--few 20000] [--many 200000]

A random 6-block model classifies few rows and then many, each in a process of its own, from CSV to
CSV; its peak resident memory may differ by less than GROWTH_MIB. Rows a second stand beside those of the run's own
evaluation of like texts, in one process, taking turns. Exits with 1 if a goal is missed.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

GROWTH_MIB = 40.0
LEAST_SPEED = 0.9
TURNS = 3
EVALUATED = 400
RESULTS = Path(__file__).parent / "results" / "predict.json"

_CHILD = """
import resource, sys, time
from irtune.cli import main
started = time.perf_counter()
assert main(["predict", sys.argv[1], sys.argv[2], "--device", "cpu", "--out", sys.argv[3]]) == 0
print(time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10)
"""


def write_rows(file: Path, num_rows: int, *, labelled: bool) -> None:
    """Texts of two to twelve words."""
    draw = random.Random(0)
    words = ("red", "green", "blue", "grey", "pink", "cat", "dog", "sat", "ran", "slept")
    with file.open("w", encoding="utf-8") as opened:
        opened.write("text,label\n" if labelled else "text\n")
        for number in range(num_rows):
            text = f"{number} {' '.join(draw.choices(words, k=draw.randint(2, 12)))}"
            opened.write(f"{text},{'ab'[draw.randrange(2)]}\n" if labelled else f"{text}\n")


def trained(folder: Path) -> tuple[Any, float]:
    """Seconds that a run's evaluation takes, and a predictor; and the ratio of their CPU times."""
    from irtune.config.load import load
    from irtune.config.schema import ExperimentConfig
    from irtune.training import run as training
    from irtune.training.predictor import Predictor
    from irtune.training.record import NoRecorder

    for name, size in {"train": 64, "validation": 16, "test": EVALUATED}.items():
        write_rows(folder / f"{name}.csv", size, labelled=True)
    settings = {
        "model.name": "tiny-random",
        "data.name": "file",
        "data.path": str(folder / "train.csv"),
        "data.validation_path": str(folder / "validation.csv"),
        "data.test_path": str(folder / "test.csv"),
        "data.text_column": "text",
        "training.max_steps": 1,
        # Threads that wait for each other on a busy machine would be counted.
        "engine.threads_per_worker": 1,
        # A loop that has not begun would pass over adapters that the predictor needs.
        "engine.skip_idle_adapters": False,
    }
    config = load(ExperimentConfig, None, settings)
    dataset = config.data.load()
    training.run(config, folder=folder, recorder=NoRecorder(), dataset=dataset)
    texts = [example.texts for example in dataset.splits["test"]]
    predictor = Predictor(folder / "adapter", "cpu")
    taken: dict[str, list[tuple[float, float]]] = {"evaluation": [], "prediction": []}
    with training.prepared(config, folder, NoRecorder(), lambda metrics: None, folder / "encoded", dataset) as loop:
        ways = {"evaluation": lambda: loop.evaluate("test"), "prediction": lambda: predictor.probabilities(texts)}
        for turn in range(TURNS + 1):
            for name, way in ways.items():
                wall, cpu = time.perf_counter(), time.process_time()
                way()
                if turn:
                    taken[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    wall_s = {name: float(np.median([wall for wall, _ in each])) for name, each in taken.items()}
    cpu_s = {name: float(np.median([cpu for _, cpu in each])) for name, each in taken.items()}
    for name in taken:
        print(
            f"{name:>12}: {EVALUATED / wall_s[name]:8.0f} rows/s, {1e3 * cpu_s[name] / EVALUATED:.3f} CPU ms a row",
            flush=True,
        )
    return {"wall_s": wall_s, "cpu_s": cpu_s}, cpu_s["evaluation"] / cpu_s["prediction"]


def streamed(folder: Path, num_rows: int) -> dict[str, float]:
    """Seconds and peak MiB of a process that classifies so many rows."""
    file, out = folder / f"rows_{num_rows}.csv", folder / f"predicted_{num_rows}.csv"
    write_rows(file, num_rows, labelled=False)
    command = [sys.executable, "-W", "ignore", "-c", _CHILD, str(folder / "adapter"), str(file), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, peak_mib = map(float, done.stdout.splitlines()[-1].split())
    with out.open(encoding="utf-8") as opened:
        assert sum(1 for _ in opened) == num_rows + 1
    print(
        f"{num_rows:>12} rows: {num_rows / seconds:8.0f} rows/s with start and check, peak {peak_mib:7.1f} MiB",
        flush=True,
    )
    return {"rows": num_rows, "seconds": seconds, "peak_mib": peak_mib}


def main() -> int:
    """Print both tables; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--few", type=int, default=20_000, help="rows of the first file; above a pool's 4096")
    parser.add_argument("--many", type=int, default=200_000, help="rows of the second")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        speeds, ratio = trained(folder)
        sizes = [streamed(folder, each) for each in (options.few, options.many)]
    growth = sizes[1]["peak_mib"] - sizes[0]["peak_mib"]
    passed = growth < GROWTH_MIB and ratio >= LEAST_SPEED
    print(f"peak memory grows by {growth:.1f} MiB from few rows to many (goal: less than {GROWTH_MIB:.0f})")
    print(f"{ratio:.2f} times as fast as evaluation, tokenising included, in CPU time (goal: {LEAST_SPEED} or more)")
    print("PASS" if passed else "FAIL")
    found = {"speeds": speeds, "ratio": ratio, "sizes": sizes, "growth_mib": growth, "passed": passed}
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
