"""How long a step takes in irtune's own loop, beside a Hugging Face Trainer with PEFT on the same batches.

    python benchmarks/gpu_steps.py [--device cuda] [--model smollm2-135m|tiny] [--rounds 40] [--out results.json]

Six contenders take turns, one step each in every round, in one process: the Trainer and irtune, each with all blocks,
the last third of them, and the third with the largest gradient norms, chosen anew every 10 steps. The Trainer trains
the last third by PEFT's ``layers_to_transform``, and chooses by irtune's callback. In bf16 the Trainer has fp32 weights
under autocast, as its users do, and irtune has DeepSpeed's bf16 weights with fp32 masters.

The device is synchronised before and after every step. Ratios are medians over rounds of a contender's time to that of
the Trainer with all blocks in the same round; FLOPs are the closed form's. ``busy`` is the part of one more step in
which the GPU ran kernels: where it is small, time goes with the number of kernels that Python starts, not with FLOPs.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from gpu_contenders import Bench, LoopSteps, Setting, contenders, outside_a_process_group

WARM_UP = 5
BASE = "Trainer, all"
SETTINGS = {
    "cuda": (Setting("fp32", 16), Setting("bf16", 16), Setting("bf16", 64)),
    "cpu": (Setting("fp32", 4), Setting("bf16", 4)),
}


def measure(setting: Setting, options: argparse.Namespace) -> dict[str, Any]:
    """Everything about one setting."""
    # Two more steps go to the profiler.
    num_steps = WARM_UP + options.rounds + 2
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench.of(setting, options, num_steps, Path(folder))
        with contenders(bench) as ready, outside_a_process_group():
            seconds = take_turns(ready, options.rounds, options.device)
            flops = {name: each.flops / len(each.losses) for name, each in ready.items() if isinstance(each, LoopSteps)}
            losses = {name: each.losses for name, each in ready.items()}
            busy = {name: busy_share(each, options.device) for name, each in ready.items()}
    whole = flops["irtune, all"]
    rows = {}
    for name, taken in seconds.items():
        # A Trainer's step has the FLOPs of irtune's that trains the same blocks.
        step_flops = flops[f"irtune, {name.partition(', ')[2]}"]
        ratios = [one / base for one, base in zip(taken, seconds[BASE], strict=True)]
        rows[name] = {
            "median_s": statistics.median(taken),
            "time_ratio": statistics.median(ratios),
            "time_ratio_quartiles": statistics.quantiles(ratios, n=4),
            "flops_ratio": step_flops / whole,
            "flops_per_s": step_flops / statistics.median(taken),
            "busy": busy[name],
            "seconds": taken,
            "losses": losses[name],
        }
    return {
        "precision": setting.precision,
        "batch": setting.batch,
        "mean_length": bench.mean_length,
        "loss_difference": largest_difference(losses[BASE], losses["irtune, all"]),
        "contenders": rows,
    }


def take_turns(ready: Mapping[str, Any], rounds: int, device: str) -> dict[str, list[float]]:
    """Seconds of every contender's step in every round after the first few; each round begins with another one."""
    names, seconds = list(ready), {name: list[float]() for name in ready}
    for number in range(WARM_UP + rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            started = synchronized(device)
            ready[name].step()
            taken = synchronized(device) - started
            if number >= WARM_UP:
                seconds[name].append(taken)
    return seconds


def synchronized(device: str) -> float:
    """The time once the device has done all that it was given."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def busy_share(contender: Any, device: str) -> float | None:
    """The part of a step in which the GPU ran kernels, of which one stream runs one at a time."""
    if device == "cpu":
        return None
    contender.step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        started = synchronized(device)
        contender.step()
        taken = synchronized(device) - started
    kernels = [
        event for event in profile.key_averages() if event.device_type.name == "CUDA" and not event.is_user_annotation
    ]
    return float(sum(event.self_device_time_total for event in kernels) / 1e6 / taken)


def largest_difference(left: Sequence[float], right: Sequence[float]) -> float:
    """The largest relative difference of two losses of the same step; the one that was profiled last has no fellow."""
    return max(abs(one - other) / abs(other) for one, other in zip(left, right, strict=False))


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """A line per setting and contender, as Markdown."""
    lines = [
        "| precision | batch | contender | ms | time / Trainer, all | quartiles | FLOPs / all | TFLOP/s | busy |",
        "|---" * 9 + "|",
    ]
    for one in found:
        for name, row in one["contenders"].items():
            low, _, high = row["time_ratio_quartiles"]
            values = [
                one["precision"],
                f"{one['batch']}x{one['mean_length']:.0f}",
                name,
                f"{row['median_s'] * 1e3:.1f}",
                f"{row['time_ratio']:.3f}",
                f"{low:.3f}-{high:.3f}",
                f"{row['flops_ratio']:.3f}",
                f"{row['flops_per_s'] / 1e12:.2f}",
                "" if row["busy"] is None else f"{row['busy']:.2f}",
            ]
            lines.append("| " + " | ".join(values) + " |")
    told = "largest relative difference of a loss, irtune to Trainer, all blocks"
    lines += ["", *(f"{told}: {o['precision']}, batch {o['batch']}: {o['loss_difference']:.1e}" for o in found)]
    return "\n".join(lines)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--model", default="smollm2-135m", help="smollm2-135m or tiny")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--out", type=Path, help="write what was found as JSON, too, setting by setting")
    options = parser.parse_args()
    found: list[dict[str, Any]] = []
    for setting in SETTINGS[options.device]:
        found.append(measure(setting, options))
        if options.out:
            options.out.write_text(json.dumps(found, indent=1), encoding="utf-8")
    print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
