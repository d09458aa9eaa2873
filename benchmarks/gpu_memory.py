"""How much memory a step takes at most, beside what irtune's closed form predicts, and how long it takes.

    python benchmarks/gpu_memory.py [--device cuda] [--model smollm2-135m|tiny] [--steps 8] [--out results.json]

Three kinds of steps, on one batch of random tokens: all blocks train; the last third; a third of them chosen anew in
every step, so that each is a refresh, which runs the backward pass through all blocks. On a GPU the peak is PyTorch's
own count of what tensors held; on a CPU it is what the process holds after a step, Python included. The prediction is
about all blocks.

The large model has the shape of Llama 3 8B and random weights in bf16, drawn on the device itself.

A case that fails, for want of memory say, is a line with the reason, and stops no other. ``--within .05`` also asks
that peaks are as predicted, to 5 % of these. Exits with 1 if one failed.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import AutoModelForSequenceClassification, LlamaConfig

from irtune.config.load import load
from irtune.config.schema import ExperimentConfig, ModelConfig
from irtune.importance import GradientNorm
from irtune.layers import LayerController, map_parameters
from irtune.selection import AllBlocks, SelectionPolicy, Static, TopK
from irtune.training.adapter import add_adapter
from irtune.training.cost import CostModel, release_memory
from irtune.training.distributed import ensure_process_group, select_accelerator
from irtune.training.memory import of_shapes
from irtune.training.model import enable_gradient_checkpointing, load_classifier
from irtune.training.pretrained import materialize

LABELS = ("a", "b", "c", "d", "e")
WARM_UP = 2
LARGE = {
    "smollm2-135m": LlamaConfig(
        vocab_size=128_256,
        hidden_size=4096,
        intermediate_size=14_336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
    ),
    "tiny": LlamaConfig(
        vocab_size=1000,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
    ),
}
"""The large model that goes with a small one."""


@dataclass(frozen=True)
class Case:
    """What is trained.

    Args:
        size: ``small`` for the model that was asked for, ``large`` for a random one.
        precision: Of the engine.
        checkpointing: Whether activations are recomputed.
        batch: Examples in the micro-batch.
        length: Tokens in each.
    """

    size: str
    precision: str
    checkpointing: bool
    batch: int
    length: int = 128


CASES = (
    Case("small", "fp32", False, 16),
    Case("small", "bf16", False, 16),
    Case("small", "bf16", True, 16),
    Case("small", "bf16", False, 64),
    Case("large", "bf16", False, 8),
    Case("large", "bf16", True, 8),
)


def experiment(case: Case, device: str) -> ExperimentConfig:
    """The settings of a case, as a user would write them."""
    settings = {
        "adapter.r": 8,
        "adapter.alpha": 16,
        "adapter.dropout": 0.0,
        "model.gradient_checkpointing": case.checkpointing,
        "training.micro_batch_size": case.batch,
        "engine.precision": case.precision,
        "engine.gpus_per_worker": int(device == "cuda"),
    }
    return load(ExperimentConfig, None, settings)


def classifier(case: Case, model: str, device: str) -> Any:
    """The model without an adapter."""
    if case.size == "small":
        name = "tiny-random" if model == "tiny" else model
        return load_classifier(materialize(ModelConfig(name=name)), LABELS, 0, seed=0)
    config = LARGE[model]
    config.num_labels, config.pad_token_id, config.use_cache = len(LABELS), 0, False
    with torch.device(device):
        return AutoModelForSequenceClassification.from_config(config, dtype=torch.bfloat16)


def measure(case: Case, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row per kind of step."""
    from irtune.training.engine import DeepSpeedBlocks

    config = experiment(case, options.device)
    started = time.perf_counter()
    model = add_adapter(classifier(case, options.model, options.device), config.adapter, train_head=True, seed=0)
    if case.checkpointing:
        enable_gradient_checkpointing(model)
    model.train()
    cost = CostModel.of(model, recompute=case.checkpointing)
    with torch.device("meta"):
        shapes = AutoModelForSequenceClassification.from_config(model.get_base_model().config)
        shapes = add_adapter(shapes, config.adapter, train_head=True, seed=0)
    predicted = of_shapes(shapes, config, case.batch, case.length).peak
    vocabulary = model.config.vocab_size
    blocks = DeepSpeedBlocks(model, map_parameters(model), config.training, config.engine)
    del model
    loaded = {"load_s": time.perf_counter() - started, "weights_bytes": held_bytes(blocks.device)}
    third = max(1, len(blocks.blocks) // 3)
    kinds: dict[str, SelectionPolicy] = {
        "all": AllBlocks(),
        "last third": Static(which="last", k=third),
        "refresh": TopK(k=third),
    }
    batch = random_batch(case, vocabulary, blocks.device)
    try:
        whole_s = None
        for kind, policy in kinds.items():
            row = steps(blocks, policy, cost, batch, options.steps)
            whole_s = whole_s or row["step_s"]
            row |= {"kind": kind, "time_ratio": row["step_s"] / whole_s, **loaded}
            if kind == "all":
                row |= {"predicted_bytes": predicted, "peak_ratio": row["peak_bytes"] / predicted}
            yield asdict(case) | row
    finally:
        blocks.destroy()


def steps(
    blocks: Any, policy: SelectionPolicy, cost: CostModel, batch: dict[str, torch.Tensor], number: int
) -> dict[str, Any]:
    """Train a few steps with a policy that chooses in each of them: the peak, the median time and the FLOPs."""
    size, length = batch["input_ids"].shape
    controller = LayerController(
        blocks,
        len(blocks.blocks),
        policy,
        GradientNorm(),
        reselect_every=1,
        total_steps=WARM_UP + number,
        seed=0,
        cost=cost.per_block(length),
    )
    seconds: list[float] = []
    for step in range(WARM_UP + number):
        if step == WARM_UP:
            forget_peak(blocks.device)
        started = synchronized(blocks.device)
        controller.before_step(step, batch)
        through = blocks.active
        blocks.train_step([batch])
        controller.after_backward(step)
        blocks.optimizer_step()
        seconds.append(synchronized(blocks.device) - started)
    step_s = statistics.median(seconds[WARM_UP:])
    flops = cost.step_flops(through, size, length)
    return {
        "peak_bytes": peak_bytes(blocks.device),
        "step_s": step_s,
        "flops": flops,
        "flops_ratio": flops / cost.step_flops(range(len(blocks.blocks)), size, length),
        "flops_per_s": flops / step_s,
    }


def random_batch(case: Case, vocabulary: int, device: torch.device) -> dict[str, torch.Tensor]:
    """Tokens without padding."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, vocabulary, (case.batch, case.length), generator=generator).to(device)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids[:, 0] % len(LABELS)}


def synchronized(device: torch.device) -> float:
    """The time once the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def held_bytes(device: torch.device) -> int:
    """What tensors hold on the device, or the process on a CPU."""
    return int(torch.cuda.memory_allocated(device) if device.type == "cuda" else psutil.Process().memory_info().rss)


def peak_bytes(device: torch.device) -> int:
    """The most that tensors have held on the device; on a CPU what the process holds now."""
    return int(torch.cuda.max_memory_allocated(device)) if device.type == "cuda" else held_bytes(device)


def forget_peak(device: torch.device) -> None:
    """Let the peak begin anew."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A line per case and kind of step, as Markdown."""
    lines = [
        "| model | precision | recomputed | batch | step | peak GiB | predicted GiB | peak / predicted | ms "
        "| time / all | FLOPs / all | TFLOP/s |",
        "|---" * 12 + "|",
    ]
    for row in rows:
        case = [row["size"], row["precision"], str(row["checkpointing"]), f"{row['batch']}x{row['length']}"]
        if "error" in row:
            values = [row["error"].splitlines()[0][:90], *[""] * 7]
        else:
            values = [
                row["kind"],
                f"{row['peak_bytes'] / 2**30:.2f}",
                f"{row['predicted_bytes'] / 2**30:.2f}" if "predicted_bytes" in row else "",
                f"{row['peak_ratio']:.2f}" if "peak_ratio" in row else "",
                f"{row['step_s'] * 1e3:.1f}",
                f"{row['time_ratio']:.3f}",
                f"{row['flops_ratio']:.3f}",
                f"{row['flops_per_s'] / 1e12:.2f}",
            ]
        lines.append("| " + " | ".join([*case, *values]) + " |")
    return "\n".join(lines)


def main() -> int:
    """Print the table; 1 if a case failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--model", choices=tuple(LARGE), default="smollm2-135m")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--within", type=float, help="how far a peak may be from what is predicted, as a part of that")
    parser.add_argument("--out", type=Path, help="write rows as JSON, too, case by case")
    options = parser.parse_args()
    engine = experiment(CASES[0], options.device).engine
    select_accelerator(engine)
    ensure_process_group(engine)
    rows: list[dict[str, Any]] = []
    for case in CASES:
        try:
            rows += measure(case, options)
        except (RuntimeError, ValueError) as error:
            rows.append(asdict(case) | {"error": f"{type(error).__name__}: {error}"})
        release_memory()
        if options.out:
            options.out.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    print(table(rows))
    far = [row for row in rows if options.within and abs(row.get("peak_ratio", 1) - 1) > options.within]
    print(
        *(f"MISSED {row['size']}, {row['precision']}: peak / predicted {row['peak_ratio']:.2f}" for row in far),
        sep="\n",
    )
    return int(bool(far) or any("error" in row for row in rows))


if __name__ == "__main__":
    sys.exit(main())
