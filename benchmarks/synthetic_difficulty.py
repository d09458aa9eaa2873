"""Is the synthetic dataset learnt neither at once nor never? Trains on it with true and with shuffled labels.

    python benchmarks/synthetic_difficulty.py [--seeds 0 1 2] [--shuffled-seeds 0] [--threads 2]

Prints a table of macro-F1 on the 500 test pairs after 150 optimizer steps of plain LoRA on the default model, and exits
with 1 when the mean over the seeds with true labels lies outside the window, or the mean with shuffled training labels
above what guessing explains.
"""

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from irtune.config.load import load
from irtune.config.schema import ExperimentConfig
from irtune.data.base import LabelledDataset
from irtune.training.recorder import NoRecorder
from irtune.training.run import run
from irtune.tuning.provenance import environment

WINDOW = (0.35, 0.90)
SHUFFLED_AT_MOST = 0.25
SETTINGS = {
    "data.name": "synthetic",
    "selection.policy.name": "all",
    "adapter.r": 8,
    "adapter.alpha": 16,
    "adapter.dropout": 0.0,
    "training.max_steps": 150,
    "training.micro_batch_size": 8,
    "training.learning_rate": 1e-3,
    "training.warmup_steps": 10,
    "training.eval_every": 150,
}


@dataclass(frozen=True)
class Score:
    """One run: which labels it was trained on, and what it reached on the test split."""

    labels: str
    seed: int
    macro_f1: float
    seconds: float


def shuffle_train_labels(data: LabelledDataset, seed: int) -> LabelledDataset:
    """``data`` with its training labels permuted."""
    train = data.splits["train"]
    labels = [example.label for example in train]
    random.Random(seed).shuffle(labels)
    shuffled = tuple(replace(example, label=label) for example, label in zip(train, labels, strict=True))
    return replace(data, splits={**data.splits, "train": shuffled})


def score(labels: str, seed: int, options: argparse.Namespace) -> Score:
    """Train once, and score the result on the test split."""
    overrides = SETTINGS | {"seed": seed, "engine.cpus_per_worker": options.threads}
    # With one evaluation, at the end, validation chooses nothing and may be small.
    config = load(ExperimentConfig, None, overrides | {"data.max_validation": 25})
    data = config.data.load()
    if labels == "shuffled":
        data = shuffle_train_labels(data, seed)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        result = run(config, folder=Path(folder), recorder=NoRecorder(), dataset=data)
    return Score(labels, seed, result.metrics["final/test_f1_macro"], time.perf_counter() - started)


def scores(options: argparse.Namespace) -> Iterator[Score]:
    """Every run, one after the other."""
    for labels, seeds in (("true", options.seeds), ("shuffled", options.shuffled_seeds)):
        for seed in seeds:
            found = score(labels, seed, options)
            print(f"{labels} labels, seed {seed}: {found.macro_f1:.3f} in {found.seconds:.0f} s", file=sys.stderr)
            yield found


def table(found: Sequence[Score]) -> str:
    """The runs and their means as Markdown."""
    lines = ["| training labels | seed | test macro-F1 | seconds |", "|---|---|---|---|"]
    for labels in dict.fromkeys(each.labels for each in found):
        group = [each for each in found if each.labels == labels]
        lines += [f"| {labels} | {each.seed} | {each.macro_f1:.3f} | {each.seconds:.0f} |" for each in group]
        lines.append(f"| {labels} | mean | **{statistics.mean(each.macro_f1 for each in group):.3f}** | |")
    return "\n".join(lines)


def out_of_bounds(found: Sequence[Score]) -> list[str]:
    """What is wrong with the difficulty, in words."""
    by_labels = {
        labels: statistics.mean(each.macro_f1 for each in found if each.labels == labels)
        for labels in {each.labels for each in found}
    }
    wrong = []
    if not WINDOW[0] <= by_labels.get("true", WINDOW[0]) <= WINDOW[1]:
        wrong.append(f"the mean with true labels, {by_labels['true']:.3f}, lies outside {WINDOW[0]} to {WINDOW[1]}")
    if by_labels.get("shuffled", 0) > SHUFFLED_AT_MOST:
        wrong.append(f"the mean with shuffled labels, {by_labels['shuffled']:.3f}, is above {SHUFFLED_AT_MOST}")
    return wrong


def main() -> int:
    """Print the table; 1 if the difficulty is out of bounds."""
    parser = argparse.ArgumentParser(description="How hard is the synthetic dataset?")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--shuffled-seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    data = load(ExperimentConfig, None, SETTINGS).data.load()
    sizes = ", ".join(f"{len(examples)} {split}" for split, examples in data.splits.items())
    # Before the runs: the working tree may have moved on after them.
    made_with = environment()
    found = list(scores(options))
    print(f"# Difficulty of the synthetic data\n\nsynthetic data, fingerprint {data.fingerprint()}: {sizes}\n")
    print(table(found) + "\n")
    print("\n".join(f"- {name}: {value}" for name, value in made_with.items()))
    wrong = out_of_bounds(found)
    print(*(f"\nFAIL {each}" for each in wrong) if wrong else ["\nPASS"])
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
