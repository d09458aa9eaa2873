"""Does an instruction before each example pay, and is the change of a revision always shown? On ArgRewrite V.2.

    python benchmarks/prompts.py [--data FOLDER] [--only shown time scores] [--device cuda --parallel 6]

Prints three tables; ``--json FILE`` keeps their figures.

- shown: how many pairs show the whole of what changed at 64, 96 and 128 tokens, beside cutting on the right. What
  changed is found here by another way than irtune's: words between the longest common head and tail. Exits with 1 where
  a pair whose change fits does not show it.
- time: seconds of a step with and without the instruction, runs taking turns, as ratios.
- scores: test macro-F1 of plain LoRA with and without the instruction over seeds, each at the learning rate that is
  best on validation over these seeds, and what a step costs in FLOPs; the difference has an interval for other seeds
  and other test examples.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from irtune.analysis.statistics import paired_over_seeds
from irtune.config.load import load
from irtune.config.schema import ExperimentConfig
from irtune.data.dataset import SPLITS, LabelledDataset
from irtune.data.encode import encode
from irtune.studies.provenance import environment
from irtune.training.pretrained import materialize
from irtune.training.record import NoRecorder
from irtune.training.run import run
from irtune.training.tokenizer import load_tokenizer
from irtune.training.trial_folder import PREDICTIONS

ARGREWRITE = Path(__file__).parents[2] / "shared" / "data" / "argrewrite-v2"
LENGTHS = (64, 96, 128)
INSTRUCTIONS = {"with": "auto", "without": None}
RATES = (2e-4, 1e-3)
TEST = "test"
"""Of a run: labels and predictions of the test examples."""
SETTINGS = {
    "data.name": "argrewrite",
    "selection.policy.name": "all",
    "adapter.r": 8,
    "adapter.alpha": 16,
    "training.warmup_steps": 20,
    "training.micro_batch_size": 16,
    "training.eval_batch_size": 64,
}


def config_of(options: argparse.Namespace, instruction: str, **settings: Any) -> ExperimentConfig:
    """The run with or without instruction."""
    threads = {"engine.threads_per_worker": options.threads}
    engine = {"engine.gpus_per_worker": 1} if options.device == "cuda" else threads
    own = {"data.path": str(options.data), "data.instruction": INSTRUCTIONS[instruction]}
    return load(ExperimentConfig, None, SETTINGS | engine | own | settings)


def change(before: str, after: str) -> tuple[str, str]:
    """What lies between the longest common head and tail, in words."""
    one, other = (re.findall(r"\s*\S+", text) for text in (before, after))

    def common(pairs: Iterable[tuple[str, str]]) -> int:
        return sum(1 for _ in takewhile(lambda pair: pair[0].split() == pair[1].split(), pairs))

    head = common(zip(one, other, strict=False))
    tail = common(zip(one[head:][::-1], other[head:][::-1], strict=False))
    return "".join(one[head : len(one) - tail]).lstrip(), "".join(other[head : len(other) - tail]).lstrip()


def shows(text: str, changed: Sequence[str]) -> bool:
    """Whether both sides of a prompt hold what changed on them."""
    before, _, after = " ".join(text.split()).rpartition("After:")
    return all(" ".join(part.split()) in side for part, side in zip(changed, (before, after), strict=True))


def shown(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of the first table."""
    rows = []
    for name in INSTRUCTIONS:
        config = config_of(options, name)
        dataset, tokenizer = config.data.load(), load_tokenizer(materialize(config.model))
        rows += [shown_at(length, name, dataset, tokenizer) for length in (*LENGTHS, "auto")]
    return rows


def shown_at(length: int | str, name: str, dataset: LabelledDataset, tokenizer: Any) -> dict[str, Any]:
    """What can be seen of the change of each pair at one length."""
    encoded = encode(dataset, tokenizer, length)
    examples = [example for split in SPLITS for example in dataset.splits[split]]
    parts = [encoded.splits[split] for split in SPLITS]
    rows = [part.token_ids[part.offsets[i] : part.offsets[i + 1]] for part in parts for i in range(len(part))]
    changes = [change(*example.texts) for example in examples]

    def count(prompts: Sequence[Any], *, of: Sequence[bool]) -> int:
        texts = tokenizer.batch_decode(prompts, skip_special_tokens=True)
        return sum(fits and shows(text, changed) for text, changed, fits in zip(texts, changes, of, strict=True))

    def tokens(texts: Sequence[Any], **limits: Any) -> list[list[int]]:
        prompts = [dataset.prompt.render(encoded.instruction, each) for each in texts]
        ids: list[list[int]] = tokenizer(prompts, verbose=False, **limits)["input_ids"]
        return ids

    fits = [len(row) <= encoded.max_length for row in tokens(changes)]
    on_the_right = tokens([each.texts for each in examples], truncation=True, max_length=encoded.max_length)
    return {
        "instruction": name,
        "length": length if isinstance(length, int) else f"auto ({encoded.max_length})",
        "labels listed": encoded.instruction is not None and dataset.labels[0] in encoded.instruction,
        "mean tokens": round(statistics.mean(map(len, rows)), 1),
        "pairs": len(examples),
        "cut": encoded.num_cut,
        "change fits": sum(fits),
        "shown": count(rows, of=fits),
        "shown if cut on the right": count(on_the_right, of=fits),
    }


def timed(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Ratios of seconds a step, without to with instruction, of runs that take turns."""
    rows = []
    for turn in range(options.turns):
        found = {name: train(options, name, RATES[0], turn, options.timed_steps) for name in INSTRUCTIONS}
        seconds = {name: each["cost/mean_step_s"] for name, each in found.items()}
        flops = {name: each["cost/mean_step_flops"] for name, each in found.items()}
        rows.append(
            {
                "turn": turn,
                **{f"{name}, s a step": round(value, 3) for name, value in seconds.items()},
                "time ratio": round(seconds["without"] / seconds["with"], 3),
                "FLOP ratio": round(flops["without"] / flops["with"], 3),
            }
        )
    return rows


def train(options: argparse.Namespace, instruction: str, rate: float, seed: int, steps: int) -> dict[str, Any]:
    """Train once in this process; returns what the run found, and what it says of the test examples."""
    own = {"seed": seed, "training.learning_rate": rate, "training.max_steps": steps}
    every = {"training.eval_every": max(steps // 8, 1), "training.checkpoint_every": steps}
    if steps < 50:
        own |= {"data.max_validation": 9, "data.max_test": 9, "training.warmup_steps": 0}
    with tempfile.TemporaryDirectory() as folder:
        config = config_of(options, instruction, **own, **every)
        metrics = run(config, folder=Path(folder), recorder=NoRecorder()).metrics
        with np.load(Path(folder) / PREDICTIONS, allow_pickle=False) as kept:
            labels, probabilities = kept["test_labels"], kept["test_probabilities"]
        said = {"labels": labels.tolist(), "predictions": probabilities.argmax(axis=1).tolist()}
        return {**metrics, TEST: said}


def scores(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every run, each in a process of its own, ``--parallel`` at a time."""
    wanted = [(name, rate, seed) for seed in options.seeds for rate in options.rates for name in INSTRUCTIONS]
    with ThreadPoolExecutor(options.parallel) as pool:
        return list(pool.map(lambda one: in_a_process(options, *one), wanted))


def in_a_process(options: argparse.Namespace, name: str, rate: float, seed: int) -> dict[str, Any]:
    """One run of ``scores``."""
    command = [sys.executable, __file__, "--one", name, str(rate), str(seed), "--data", str(options.data)]
    command += ["--device", options.device, "--steps", str(options.steps), "--threads", str(options.threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    row = {"instruction": name, "rate": rate, "seed": seed} | {
        "validation macro-F1": found["final/validation_f1_macro"],
        "test macro-F1": found["final/test_f1_macro"],
        "test accuracy": found["final/test_accuracy"],
        "best step": found["final/best_step"],
        "FLOPs a step": found["cost/mean_step_flops"],
        "train s": found["cost/train_s"],
    }
    print(row, file=sys.stderr, flush=True)
    return row | {TEST: found[TEST]}


def compared(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Both prompts at their best learning rate on validation, over the seeds, and the difference seed by seed."""
    best = {name: max(rates(rows, name), key=lambda group: mean(group, "validation macro-F1")) for name in INSTRUCTIONS}
    summary: list[dict[str, Any]] = [
        {
            "instruction": name,
            "rate": group[0]["rate"],
            "seeds": len(group),
            "validation macro-F1": round(mean(group, "validation macro-F1"), 4),
            "test macro-F1": round(mean(group, "test macro-F1"), 4),
            "spread over seeds": round(statistics.stdev(row["test macro-F1"] for row in group), 4),
            "test accuracy": round(mean(group, "test accuracy"), 4),
            "FLOPs a step": f"{mean(group, 'FLOPs a step'):.3g}",
        }
        for name, group in best.items()
    ]
    said = best["without"][0][TEST]
    without, with_it = ([row[TEST]["predictions"] for row in best[name]] for name in ("without", "with"))
    found = paired_over_seeds(said["labels"], without, with_it)
    ratio = mean(best["without"], "FLOPs a step") / mean(best["with"], "FLOPs a step")
    note = f"{found.difference:+.4f} (95 % interval {found.low:+.4f} to {found.high:+.4f})"
    summary.append({"instruction": "without minus with", "test macro-F1": note, "FLOPs a step": f"x {ratio:.3f}"})
    return summary


def rates(rows: Sequence[dict[str, Any]], name: str) -> list[list[dict[str, Any]]]:
    """The runs of one prompt, by learning rate, in order of seeds."""
    mine = sorted((row for row in rows if row["instruction"] == name), key=lambda row: row["seed"])
    return [[row for row in mine if row["rate"] == rate] for rate in sorted({row["rate"] for row in mine})]


def mean(rows: Sequence[dict[str, Any]], name: str) -> float:
    """Mean of a column."""
    return statistics.mean(row[name] for row in rows)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as Markdown."""
    columns = list(dict.fromkeys(name for row in rows for name in row if name != TEST))
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    return "\n".join(lines + [f"| {' | '.join(str(row.get(name, '')) for name in columns)} |" for row in rows])


def unseen(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Where a change that fits is not shown."""
    return [
        f"{row['change fits'] - row['shown']} of {row['change fits']} changes that fit are not shown at "
        f"{row['length']} tokens {row['instruction']} instruction"
        for row in rows
        if row["shown"] < row["change fits"]
    ]


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ARGREWRITE, help="a clone of omidkashefi/ArgRewrite")
    parser.add_argument("--only", nargs="+", choices=["shown", "time", "scores"], default=["shown", "time", "scores"])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rates", type=float, nargs="+", default=list(RATES))
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--parallel", type=int, default=1, help="runs of scores at a time")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--timed-steps", type=int, default=10)
    parser.add_argument("--json", type=Path, help="keep the figures here")
    parser.add_argument("--one", nargs=3, metavar=("INSTRUCTION", "RATE", "SEED"), help=argparse.SUPPRESS)
    return parser.parse_args()


def tables(options: argparse.Namespace) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Name and rows of each table that is asked for."""
    makers: dict[str, Callable[[argparse.Namespace], list[dict[str, Any]]]]
    makers = {"shown": shown, "time": timed, "scores": scores}
    for name in options.only:
        rows = makers[name](options)
        yield name, rows
        if name == "scores":
            yield "compared", compared(rows)


def main() -> int:
    """Print the tables; 1 if a change that fits is not shown."""
    options = parsed()
    if options.one:
        name, rate, seed = options.one
        print(json.dumps(train(options, name, float(rate), int(seed), options.steps)))
        return 0
    made_with = environment()
    kept: dict[str, Any] = {"made with": made_with, "settings": SETTINGS | {"steps": options.steps}}
    for name, rows in tables(options):
        print(f"\n## {name}\n\n{table(rows)}", flush=True)
        kept[name] = rows
        if options.json:
            options.json.write_text(json.dumps(kept, indent=1), encoding="utf-8")
    print("\n" + "\n".join(f"- {name}: {value}" for name, value in made_with.items()))
    wrong = unseen(kept.get("shown", []))
    print("\n".join(f"FAIL {each}" for each in wrong) if wrong else "\nPASS")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
