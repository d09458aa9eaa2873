"""Does the first run learn, within ten minutes? Trains the quickstart's baseline over seeds, and runs all of it once.

    python benchmarks/first_run.py [--seeds 0 1 2] [--shuffled-seeds 0] [--threads 2] [--without-sweep] [--figure FILE]

All settings are those of ``search_spaces/quickstart.yaml``. Prints the macro-F1 on test that the baseline reaches with
true and with shuffled training labels, and how its sweep ended: trials, seconds, answer and what the winner saves.
Exits with 1 unless

- the mean over seeds with true labels is within ``WINDOW``, so that the synthetic data is learnt, and not at once;
- with shuffled labels it stays at what guessing reaches;
- the sweep takes at most ten minutes, and compares trials that have learnt, of which the selective one saves FLOPs.
"""

import argparse
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from irtune.config.load import load, with_overrides
from irtune.config.schema import ExperimentConfig
from irtune.config.sweep_schema import SweepConfig
from irtune.data.dataset import LabelledDataset
from irtune.search.source import BASELINE_OVERRIDES
from irtune.studies.provenance import environment
from irtune.training.record import NoRecorder
from irtune.training.run import run

ROOT = Path(__file__).parents[1]
QUICKSTART = ROOT / "search_spaces" / "quickstart.yaml"
WINDOW = (0.50, 0.90)
SHUFFLED_AT_MOST = 0.25
TEST_AT_LEAST = 200
SECONDS_AT_MOST = 600
SAVING_AT_LEAST = 0.15
"""Share of the baseline's FLOPs."""
NOT_LEARNT = "Nothing "
"""How an answer begins whose trials do not beat guessing."""


@dataclass(frozen=True)
class Score:
    """One run of the baseline: which labels it was trained on, and what it reached on the test split."""

    labels: str
    seed: int
    macro_f1: float
    flops: float
    seconds: float


@dataclass(frozen=True)
class Trial:
    """How one trial of the sweep ended.

    Args:
        name: MLflow's name of its run.
        chosen: The dimensions of the space, and what was drawn; nothing for the baseline.
        status: ``finished``, ``stopped`` early, or what MLflow says.
        metrics: Its latest, by name.
    """

    name: str
    chosen: str
    status: str
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class SweepEnd:
    """How a sweep ended.

    Args:
        status: Exit status.
        seconds: Wall time from the start of the process to its end.
        answer: The sentence.
        saving_flops: Share of the baseline's FLOPs that the selective trial of the answer saves.
        trials: The baseline first.
        printed: The end of what was printed.
    """

    status: int
    seconds: float
    answer: str
    saving_flops: float
    trials: tuple[Trial, ...]
    printed: str


def shuffle_train_labels(data: LabelledDataset, seed: int) -> LabelledDataset:
    """``data`` with its training labels permuted."""
    train = data.splits["train"]
    labels = [example.label for example in train]
    random.Random(seed).shuffle(labels)
    shuffled = tuple(replace(example, label=label) for example, label in zip(train, labels, strict=True))
    return replace(data, splits={**data.splits, "train": shuffled})


def score(baseline: ExperimentConfig, labels: str, seed: int, threads: int) -> Score:
    """Train the baseline once, and score its best weights on the test split."""
    config = with_overrides(baseline, {"seed": seed, "engine.threads_per_worker": threads})
    data = config.data.load()
    if labels == "shuffled":
        data = shuffle_train_labels(data, seed)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        metrics = run(config, folder=Path(folder), recorder=NoRecorder(), dataset=data).metrics
    seconds = time.perf_counter() - started
    return Score(labels, seed, metrics["final/test_f1_macro"], metrics["cost/total_flops"], seconds)


def scores(baseline: ExperimentConfig, options: argparse.Namespace) -> Iterator[Score]:
    """Every run of the baseline, one after the other."""
    for labels, seeds in (("true", options.seeds), ("shuffled", options.shuffled_seeds)):
        for seed in seeds:
            found = score(baseline, labels, seed, options.threads)
            print(f"{labels} labels, seed {seed}: {found.macro_f1:.3f} in {found.seconds:.0f} s", file=sys.stderr)
            yield found


def run_sweep(threads: int, space: Sequence[str], figure: Path | None) -> SweepEnd:
    """Run the quickstart as ``make sweep`` does, but for where it keeps its results.

    Args:
        threads: Of its trials.
        space: Dimensions of its search space.
        figure: Where its response figure is kept.
    """
    with tempfile.TemporaryDirectory() as folder:
        uri = f"sqlite:///{folder}/mlflow.db"
        places = [f"storage={folder}", f"tracking.uri={uri}", f"engine.cpus_per_worker={threads}"]
        command = [sys.executable, "jobs/sweep.py", str(QUICKSTART), *places]
        started = time.perf_counter()
        ended = subprocess.run(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        seconds = time.perf_counter() - started
        print(f"sweep: status {ended.returncode} in {seconds:.0f} s", file=sys.stderr)
        answer, saving, trials = in_mlflow(uri, space)
        for drawn in Path(folder).glob("*/response.png") if figure is not None else ():
            shutil.copy(drawn, figure)  # type: ignore[arg-type]
    return SweepEnd(ended.returncode, seconds, answer, saving, trials, ended.stdout[-5000:])


def in_mlflow(uri: str, space: Sequence[str]) -> tuple[str, float, tuple[Trial, ...]]:
    """Answer, saved share of FLOPs and trials of the one sweep in a store."""
    import mlflow

    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("irtune")
    answer, saving, trials = "", 0.0, list[Trial]()
    for found in client.search_runs([experiment.experiment_id], order_by=["start_time"]) if experiment else []:
        tags, metrics = found.data.tags, found.data.metrics
        if tags["irtune.kind"] == "summary":
            answer, saving = tags.get("irtune.answer", ""), metrics.get("summary/saving_flops", 0.0)
            continue
        is_baseline = found.data.params.get("selection.policy.name") == "all"
        drawn = [f"{key.rpartition('.')[2]} {found.data.params.get(key)}" for key in space]
        status = "stopped early" if tags.get("irtune.pruned") == "true" else found.info.status.lower()
        chosen = "baseline" if is_baseline else ", ".join(drawn)
        trials.append(Trial(found.info.run_name, chosen, status, metrics))
    return answer, saving, tuple(trials)


def score_table(found: Sequence[Score]) -> str:
    """The runs of the baseline and their means as Markdown."""
    lines = ["| training labels | seed | test macro-F1 | FLOPs | seconds |", "|---" * 5 + "|"]
    for labels in dict.fromkeys(each.labels for each in found):
        group = [each for each in found if each.labels == labels]
        lines += [
            f"| {labels} | {each.seed} | {each.macro_f1:.3f} | {each.flops:.3g} | {each.seconds:.0f} |"
            for each in group
        ]
        lines.append(f"| {labels} | mean | **{statistics.mean(each.macro_f1 for each in group):.3f}** | | |")
    return "\n".join(lines)


def sweep_table(sweep: SweepEnd) -> str:
    """The trials, the time and the answer as Markdown."""
    lines = [
        "| trial | chosen | status | validation macro-F1 | test macro-F1 | FLOPs | mean lowest block |",
        "|---" * 7 + "|",
    ]
    columns = {
        "eval/f1_macro": ".3f",
        "final/test_f1_macro": ".3f",
        "cost/total_flops": ".3g",
        "cost/mean_lowest_active_block": ".1f",
    }
    for trial in sweep.trials:
        numbers = [format(trial.metrics[name], form) if name in trial.metrics else "" for name, form in columns.items()]
        lines.append(f"| {' | '.join((trial.name, trial.chosen, trial.status, *numbers))} |")
    lines += ["", f"{sweep.seconds:.0f} s from start to end. {sweep.saving_flops:.0%} of the FLOPs saved.", ""]
    return "\n".join([*lines, f"> {sweep.answer}"])


def wrong_scores(found: Sequence[Score], num_test: int) -> list[str]:
    """What is wrong with what the baseline learns, in words."""
    wrong = [] if num_test >= TEST_AT_LEAST else [f"{num_test} test examples are fewer than {TEST_AT_LEAST}"]
    means = {
        labels: statistics.mean(each.macro_f1 for each in found if each.labels == labels)
        for labels in {each.labels for each in found}
    }
    if not WINDOW[0] <= means.get("true", WINDOW[0]) <= WINDOW[1]:
        wrong.append(f"the mean with true labels, {means['true']:.3f}, lies outside {WINDOW[0]} to {WINDOW[1]}")
    if means.get("shuffled", 0) > SHUFFLED_AT_MOST:
        wrong.append(f"the mean with shuffled labels, {means['shuffled']:.3f}, is above {SHUFFLED_AT_MOST}")
    return wrong


def wrong_sweep(sweep: SweepEnd) -> list[str]:
    """What is wrong with the sweep, in words."""
    wrong = []
    if sweep.status != 0:
        wrong.append(f"the sweep ended with status {sweep.status}:\n{sweep.printed}")
    if sweep.seconds > SECONDS_AT_MOST:
        wrong.append(f"the sweep took {sweep.seconds:.0f} s, more than {SECONDS_AT_MOST}")
    if not sweep.answer or sweep.answer.startswith(NOT_LEARNT):
        wrong.append("the sweep's answer compares nothing that has learnt")
    if sweep.saving_flops < SAVING_AT_LEAST:
        wrong.append(f"the answer's trial saves {sweep.saving_flops:.0%} of the FLOPs, less than {SAVING_AT_LEAST:.0%}")
    return wrong


def main() -> int:
    """Print both tables; 1 if the first run is not what it should be."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--shuffled-seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--without-sweep", action="store_true", help="train the baseline only")
    parser.add_argument("--figure", type=Path, help="keep the sweep's response figure as this PNG")
    options = parser.parse_args()
    quickstart = load(SweepConfig, QUICKSTART)
    baseline = with_overrides(quickstart.experiment(), BASELINE_OVERRIDES)
    data = baseline.data.load()
    sizes = ", ".join(f"{len(examples)} {split}" for split, examples in data.splits.items())
    # Before the runs: the working tree may have moved on after them.
    made_with = environment()
    # First, so that nothing that the runs leave in this process slows it down.
    sweep = None if options.without_sweep else run_sweep(options.threads, list(quickstart.space), options.figure)
    found = list(scores(baseline, options))
    training = baseline.training
    print(f"# The first run\n\n{data.name} data, fingerprint {data.fingerprint()}: {sizes}. ", end="")
    print(f"Baseline: {training.max_steps} steps of {training.micro_batch_size} examples.\n\n{score_table(found)}\n")
    wrong = wrong_scores(found, len(data.splits["test"]))
    if sweep is not None:
        print(f"## The whole sweep\n\n{sweep_table(sweep)}\n")
        wrong += wrong_sweep(sweep)
    print("\n".join(f"- {name}: {value}" for name, value in made_with.items()))
    print(*(f"\nFAIL {each}" for each in wrong) if wrong else ["\nPASS"])
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
