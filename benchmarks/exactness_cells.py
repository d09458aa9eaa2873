"""The cells of benchmarks/exactness.py: 256 ways to train a small model whose active set changes, and fp16 on a GPU."""

import itertools
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

from irtune.config.schema import AdapterConfig, TrainingConfig
from irtune.training.adapter import add_adapter

NUM_BLOCKS, NUM_STEPS, RESELECT_EVERY, SAVED_AT = 4, 6, 2, 3
ACTIVE_SETS = ((0, 2), (1, 2, 3), (0,))
"""One a refresh: every block is frozen at some time after it has trained, and block 0 thaws again."""
LEARNING_RATE, WEIGHT_DECAY, WARMUP_STEPS = 5e-3, 0.5, 1
MAX_GRAD_NORM = 0.05
"""Below every gradient norm that occurs, so that clipping always bites."""
TUNERS = ("lora", "dora", "ia3", "loha")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
LOSS_SCALE = 1024
"""Of fp16, the same in every step: a power of two scales exactly, so that plain PyTorch can do the same by hand."""


@dataclass(frozen=True)
class Cell:
    """One way to train."""

    stage: int
    ranks: int
    precision: Literal["fp32", "bf16", "fp16"]
    accumulation: int
    clipping: bool
    tuner: str
    device: Literal["cpu", "cuda"] = "cpu"

    @property
    def loss_scale(self) -> int:
        """What gradients are multiplied by while they are computed."""
        return LOSS_SCALE if self.precision == "fp16" else 1

    def labels(self) -> dict[str, str]:
        """Its columns in the table."""
        return {key: str(value) for key, value in asdict(self).items()} | {"clipping": "on" if self.clipping else "off"}


@dataclass(frozen=True)
class Move:
    """A run that is saved in one cell and resumed in another, with the same examples in every step."""

    source: Cell
    target: Cell

    def labels(self) -> dict[str, str]:
        """Its columns in the table, with what changes as ``before>after``."""
        pairs = zip(self.source.labels().items(), self.target.labels().values(), strict=True)
        return {key: before if before == after else f"{before}>{after}" for (key, before), after in pairs}


def all_cells(device: Literal["cpu", "cuda"] = "cpu") -> list[Cell]:
    """The 256 cells of the CPU, or the 176 of one GPU: for one rank, but in fp16 too, which DeepSpeed refuses on a CPU.

    At stage 0 irtune refuses fp16, which DeepSpeed trains wrongly there. Stages lie next to each other, so that they
    share a reference.
    """
    ranks, precisions = ((1,), ("fp32", "bf16", "fp16")) if device == "cuda" else ((1, 2), ("fp32", "bf16"))
    product = itertools.product(ranks, precisions, (1, 2), (False, True), TUNERS, (0, 1, 2, 3))
    return [
        Cell(stage, ranks, p, accumulation, clip, t, device)
        for ranks, p, accumulation, clip, t, stage in product
        if (p, stage) != ("fp16", 0)
    ]


def all_moves() -> list[Move]:
    """Resumes at another stage, another world size, and both."""
    two_ranks = Cell(0, 2, "fp32", 1, True, "lora")
    one_rank = replace(two_ranks, ranks=1, accumulation=2)
    found = []
    for precision in ("fp32", "bf16"):
        many, one = replace(two_ranks, precision=precision), replace(one_rank, precision=precision)
        for before, after in ((0, 3), (3, 1), (1, 2), (2, 0)):
            found.append(Move(replace(many, stage=before), replace(many, stage=after)))
            found.append(Move(replace(many, stage=before), replace(one, stage=after)))
            found.append(Move(replace(one, stage=before), replace(many, stage=after)))
    return found


def active_at(step: int) -> tuple[int, ...]:
    """The blocks that train at a step."""
    return ACTIVE_SETS[step // RESELECT_EVERY]


def training_settings(cell: Cell) -> TrainingConfig:
    """How the engine trains in a cell; plain PyTorch does the same by hand."""
    return TrainingConfig(
        max_steps=NUM_STEPS,
        micro_batch_size=4,
        gradient_accumulation_steps=cell.accumulation,
        max_grad_norm=MAX_GRAD_NORM if cell.clipping else 0,
        learning_rate=LEARNING_RATE,
        weight_decay=WEIGHT_DECAY,
        lr_schedule="linear",
        warmup_steps=WARMUP_STEPS,
    )


def make_model(precision: str, tuner: str) -> Any:
    """A random 4-block Llama with a trained head; no trained tensor is all zeros, so that all gradients are real."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=NUM_BLOCKS,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=64,
        num_labels=3,
        pad_token_id=0,
    )
    adapter = AdapterConfig(type=tuner, r=4, alpha=8, dropout=0, target_modules=("q_proj", "v_proj"))
    model = add_adapter(LlamaForSequenceClassification(config), adapter, train_head=True, seed=0)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad and not parameter.any():
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)
    return model.to(DTYPES[precision]).train()


def batch(step: int, index: int, device: str) -> dict[str, torch.Tensor]:
    """Micro-batch ``index`` of those that all ranks together see in a step."""
    generator = torch.Generator().manual_seed(1000 * step + index)
    ids = torch.randint(1, 64, (4, 12), generator=generator).to(device)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids[:, 0] % 3}
