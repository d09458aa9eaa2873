"""Does irtune learn what a Hugging Face Trainer with PEFT learns? Both train all blocks, on real revisions and seeds.

    python benchmarks/scores.py FOLDER [--seeds 0 1 2] [--steps 200] [--keep FOLDER]

FOLDER is ArgRewrite V.2. Both begin with the same weights and take the same batches of eight, with the instruction;
the Trainer in fp32, irtune in fp32 and, on a processor that multiplies bf16, in that, too. What is trained is scored on
the test split after the last step.

| goal | at most |
|---|---|
| irtune, fp32: relative difference of a loss to the Trainer's, in any step | 1e-2 |
| irtune, bf16: the same of mean losses over each 50 steps | .1 |
| macro-F1 of either is not worse: the t interval over seeds of the difference is not below 0 | |

``--keep`` holds the runs that are over, so that a run that was stopped goes on. The last line is everything as JSON.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_contenders import Bench, Setting, loop_steps, make_trainer, outside_a_process_group
from scipy import stats

from irtune.analysis.metrics import evaluation
from irtune.config.load import with_overrides
from irtune.data.batches import evaluation_batches, training_batches
from irtune.data.encode import EncodedSplit, encode
from irtune.data.label_names import metric_labels
from irtune.processor import multiplies_bf16
from irtune.studies.provenance import environment

BATCH = 8
EVERY = 50
MOST = {"fp32": 1e-2, "bf16": 0.1}
BASE = "Trainer, fp32"
METRIC = "f1_macro"


def seeded(bench: Bench, seed: int, options: argparse.Namespace, folder: Path) -> Bench:
    """The same with the weights and batches of a seed."""
    changes = {"seed": seed, "training.learning_rate": options.learning_rate, "training.eval_batch_size": 32}
    config = with_overrides(bench.config, changes | {"engine.threads_per_worker": options.threads})
    batches = list(islice(training_batches(bench.rows.lengths, BATCH, seed=seed), options.steps))
    return replace(bench, config=config, batches=batches, folder=folder)


def by_trainer(bench: Bench) -> tuple[list[float], np.ndarray]:
    """Losses of all steps, and class probabilities ``(N, C)`` of the test split."""
    with outside_a_process_group():
        trainer = make_trainer(bench, range(bench.num_blocks), [])
        trainer.train()
    model, test = trainer.model.eval(), test_rows(bench)
    found = np.zeros((len(test), len(bench.dataset.labels)))
    with torch.no_grad():
        for rows in evaluation_batches(test.lengths, bench.config.training.eval_batch_size):
            arrays = test.collate(rows, bench.tokenizer.pad_token_id)
            inputs = {name: torch.from_numpy(array) for name, array in arrays.items() if name != "labels"}
            found[rows] = model(**inputs).logits.double().softmax(dim=-1).numpy()
    return [float(loss) for loss in trainer.losses], found


def by_irtune(bench: Bench, precision: str) -> tuple[list[float], np.ndarray]:
    """The same of irtune's loop."""
    with loop_steps(bench, "all", precision=precision) as steps:
        for _ in bench.batches:
            steps.step()
        return steps.losses, steps.loop.evaluate("test")


def test_rows(bench: Bench) -> EncodedSplit:
    """As the model reads them."""
    return encode(bench.dataset, bench.tokenizer, bench.config.model.max_length).splits["test"]


def run(name: str, bench: Bench) -> dict[str, Any]:
    """What a contender finds."""
    started = time.perf_counter()
    precision = name.partition(", ")[2]
    losses, probabilities = by_trainer(bench) if name == BASE else by_irtune(bench, precision)
    scores = evaluation(test_rows(bench).labels, probabilities, metric_labels(bench.dataset.labels))
    return {"losses": losses, METRIC: scores[METRIC], "seconds": time.perf_counter() - started}


def difference(name: str, ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The largest relative difference of losses, or in bf16 of their means."""
    size = 1 if name.endswith("fp32") else EVERY
    means = [np.reshape(losses[: len(losses) // size * size], (-1, size)).mean(axis=1) for losses in (ours, theirs)]
    return float(np.max(np.abs(means[0] - means[1]) / means[1]))


def verdicts(found: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> list[tuple[str, bool]]:
    """Every goal in words, and whether it is held."""
    said = []
    for name, runs in found.items():
        if name == BASE:
            continue
        most = MOST[name.partition(", ")[2]]
        worst = max(difference(name, runs[seed]["losses"], found[BASE][seed]["losses"]) for seed in runs)
        said.append((f"{name}: losses differ by {worst:.2g} of the Trainer's, at most {most:g}", worst <= most))
        ours, theirs = ([of[seed][METRIC] for seed in runs] for of in (runs, found[BASE]))
        gains = np.subtract(ours, theirs)
        half = stats.t.ppf(0.975, len(gains) - 1) * gains.std(ddof=1) / np.sqrt(len(gains))
        low, high = gains.mean() - half, gains.mean() + half
        text = (
            f"{name}: {METRIC} {np.mean(ours):.3f}, Trainer {np.mean(theirs):.3f}; difference {low:+.3f} to {high:+.3f}"
        )
        said.append((text, bool(high >= 0)))
    return said


def main() -> int:
    """Print the scores, the goals and everything as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("argrewrite", type=Path, help="folder of ArgRewrite V.2")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--model", default="smollm2-135m", help="smollm2-135m, tiny, or a folder")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--keep", type=Path, help="a folder for what was measured, from which a stopped run goes on")
    options = parser.parse_args()
    options.device, options.no_instruction = "cpu", False
    torch.set_num_threads(options.threads)
    names = [BASE, "irtune, fp32", *(["irtune, bf16"] if multiplies_bf16() else [])]
    found: dict[str, dict[int, Any]] = {name: {} for name in names}
    with tempfile.TemporaryDirectory() as folder:
        keep = options.keep or Path(folder) / "keep"
        keep.mkdir(parents=True, exist_ok=True)
        bench = Bench.of(Setting("fp32", BATCH), options, options.steps, Path(folder))
        print(f"| contender | seed | {METRIC} | last loss | s |\n|---|---|---|---|---|", flush=True)
        for seed in options.seeds:
            for name in names:
                file = keep / f"{name.replace(', ', '-')}-{seed}-{options.steps}-{options.learning_rate}.json"
                if not file.is_file():
                    mine = seeded(bench, seed, options, Path(folder) / f"{seed}")
                    file.write_text(json.dumps(run(name, mine)), encoding="utf-8")
                row = found[name][seed] = json.loads(file.read_text(encoding="utf-8"))
                print(
                    f"| {name} | {seed} | {row[METRIC]:.3f} | {row['losses'][-1]:.3f} | {row['seconds']:.0f} |",
                    flush=True,
                )
    passed = True
    for text, is_held in verdicts(found):
        print(f"{'held' if is_held else 'MISSED':6} {text}")
        passed &= is_held
    print("PASS" if passed else "FAIL")
    print(json.dumps({"environment": environment(), "options": {k: str(v) for k, v in vars(options).items()}} | found))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
