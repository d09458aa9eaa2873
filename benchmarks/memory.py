"""Does a worker take the memory that ``--plan`` predicts? Each case trains in a process of its own, on the CPU.

    python benchmarks/memory.py [--steps 3] [--threads 2] [--only NAME…]

Predicted is what ``irtune.training.memory.estimate`` counts before anything is loaded. Measured is the most that the
process held from its start on (``VmHWM``): imports, loading, and steps in which the last k blocks train. SmolLM2-135M,
and a random Llama of the shape of one with 1.2 billion parameters, of which it has four blocks, stored in bf16.

Exits with 1 unless measured and predicted are within 1.2 of each other in every case.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

AT_MOST = 1.2


@dataclass(frozen=True)
class Case:
    """What is trained.

    Args:
        model: ``small`` or ``large``.
        precision: Of the engine.
        k: The last so many blocks train; 0: all.
        batch: Inputs of a micro-batch.
        length: Tokens of each.
        checkpointing: Whether activations are recomputed.
    """

    model: str
    precision: str
    k: int
    batch: int
    length: int
    checkpointing: bool = False

    @property
    def name(self) -> str:
        """For the table."""
        recomputed = ", recomputed" if self.checkpointing else ""
        return f"{self.model} {self.precision}, {self.k or 'all'} blocks, {self.batch}x{self.length}{recomputed}"


CASES = (
    Case("small", "fp32", 0, 8, 96),
    Case("small", "fp32", 8, 8, 96),
    Case("small", "fp32", 0, 4, 32),
    Case("small", "fp32", 0, 8, 96, checkpointing=True),
    Case("small", "bf16", 0, 8, 96),
    Case("small", "bf16", 8, 8, 96),
    Case("small", "bf16", 0, 16, 128),
    Case("large", "fp32", 0, 4, 96),
    Case("large", "bf16", 0, 4, 96),
    Case("large", "bf16", 1, 4, 96),
)


def experiment(case: Case, large: Path) -> Any:
    """The settings of a case, as a user would write them."""
    from irtune.config.load import load
    from irtune.config.schema import ExperimentConfig

    settings = {
        "model.name": "smollm2-135m" if case.model == "small" else str(large),
        "model.gradient_checkpointing": case.checkpointing,
        "training.micro_batch_size": case.batch,
        "engine.precision": case.precision,
    }
    return load(ExperimentConfig, None, settings)


def make_large(folder: Path) -> None:
    """Write the large model, without a tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from irtune.training.quiet_loading import QuietLoading

    config = LlamaConfig(
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=4,
        num_attention_heads=32,
        num_key_value_heads=8,
        vocab_size=32_000,
        pad_token_id=0,
        tie_word_embeddings=True,
        dtype=torch.bfloat16,
    )
    with QuietLoading():
        LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)


def train(case: Case, large: Path, steps: int, threads: int) -> int:
    """Train in this process; returns the most bytes that it has held since it started."""
    # As in a rehearsal: nothing here uses what would import it.
    sys.modules["mlflow"] = None  # type: ignore[assignment]
    config = experiment(case, large)
    from irtune.training.distributed import ensure_process_group, select_accelerator

    select_accelerator(config.engine)
    import torch

    from irtune.layers import map_parameters
    from irtune.training.adapter import add_adapter
    from irtune.training.engine import DeepSpeedBlocks
    from irtune.training.memory import most_resident_bytes
    from irtune.training.model import (
        DTYPES,
        enable_gradient_checkpointing,
        load_classifier,
    )
    from irtune.training.pretrained import materialize
    from irtune.training.quiet_loading import QuietLoading

    torch.set_num_threads(threads)
    ensure_process_group(config.engine)
    with QuietLoading():
        base = load_classifier(materialize(config.model), ("a", "b", "c"), 0, 0, DTYPES[case.precision])
        model = add_adapter(base, config.adapter, train_head=True, seed=0).train()
    if case.checkpointing:
        enable_gradient_checkpointing(model)
    blocks = DeepSpeedBlocks(model, map_parameters(model), config.training, config.engine)
    num_blocks = len(blocks.blocks)
    blocks.set_active(range(num_blocks - (case.k or num_blocks), num_blocks))
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        ids = torch.randint(1, 30_000, (case.batch, case.length), generator=generator)
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids[:, 0] % 3}
        batch["attention_mask"][0, case.length // 2 :] = 0
        blocks.train_step([batch])
        blocks.optimizer_step()
    return most_resident_bytes()


def predict(case: Case, large: Path) -> float:
    """The bytes that are predicted."""
    from irtune.training.memory import estimate
    from irtune.training.pretrained import materialize, num_blocks

    config = experiment(case, large)
    checkpoint = materialize(config.model)
    blocks = num_blocks(checkpoint)
    return estimate(checkpoint, config, case.batch, case.length, lowest=blocks - (case.k or blocks)).peak


def measured(case: Case, large: Path, options: argparse.Namespace) -> int:
    """Train in a process of its own."""
    command = [sys.executable, __file__, "--case", json.dumps(asdict(case)), "--large", str(large)]
    command += ["--steps", str(options.steps), "--threads", str(options.threads)]
    environment = os.environ | {"OMP_WAIT_POLICY": "passive"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)
    if run.returncode:
        raise RuntimeError(run.stderr)
    return int(run.stdout.splitlines()[-1])


def main() -> int:
    """Print the table; 1 if a case is off."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="*", help="cases whose name contains one of these")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--large", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(train(Case(**json.loads(options.case)), options.large, options.steps, options.threads), flush=True)
        # Taking the interpreter down in order takes seconds.
        os._exit(0)
    ratios = []
    with tempfile.TemporaryDirectory(prefix="irtune-memory-") as folder:
        large = Path(folder)
        make_large(large)
        print("| case | predicted GiB | measured GiB | measured / predicted |\n|---|---|---|---|", flush=True)
        for case in CASES:
            if options.only and not any(part in case.name for part in options.only):
                continue
            predicted, held = predict(case, large), measured(case, large, options)
            ratios.append(held / predicted)
            print(f"| {case.name} | {predicted / 2**30:.2f} | {held / 2**30:.2f} | {ratios[-1]:.2f} |", flush=True)
    passes = all(1 / AT_MOST <= ratio <= AT_MOST for ratio in ratios)
    spread = f"from {min(ratios):.2f} to {max(ratios):.2f}"
    print(f"{'PASS' if passes else 'FAIL'}: measured / predicted {spread}, allowed {1 / AT_MOST:.2f} to {AT_MOST}")
    return 0 if passes else 1


if __name__ == "__main__":
    sys.exit(main())
