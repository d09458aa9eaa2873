"""A small model, and a trainer in plain PyTorch whose blocks freeze and whose probes leave no trace."""

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from irtune.layers import Blocks, map_parameters

NUM_BLOCKS, HIDDEN, VOCABULARY = 4, 8, 16


class Block(nn.Module):
    """A residual block with an adapter, and dropout, which draws random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(HIDDEN, HIDDEN).requires_grad_(False)
        self.lora_A = nn.Linear(HIDDEN, 2, bias=False)
        self.lora_B = nn.Linear(2, HIDDEN, bias=False)
        self.dropout = nn.Dropout(0.5)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden + torch.tanh(self.linear(hidden) + self.lora_B(self.lora_A(self.dropout(hidden))))


class OtherBlock(Block):
    """A block of another class."""


class Model(nn.Module):
    """A classifier of ``NUM_BLOCKS`` blocks, whose head is shared; it notes the shapes that it has seen."""

    _no_split_modules = ("Block",)

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(num_hidden_layers=NUM_BLOCKS))
        self.embeddings = nn.Embedding(VOCABULARY, HIDDEN).requires_grad_(False)
        self.blocks = nn.ModuleList(Block() for _ in range(NUM_BLOCKS))
        self.head = nn.Linear(HIDDEN, 3)
        self.seen: list[tuple[int, ...]] = []

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The loss."""
        self.seen.append(tuple(input_ids.shape))
        hidden = self.embeddings(input_ids)
        for block in self.blocks:
            hidden = block(hidden)
        mask = attention_mask[..., None]
        return nn.functional.cross_entropy(self.head((hidden * mask).sum(1) / mask.sum(1)), labels)


class PlainBlocks:
    """Of a trainer what the check at the start calls."""

    def __init__(self, model: nn.Module, blocks: Blocks) -> None:
        self.model = model
        self.blocks = blocks
        self.optimizer = torch.optim.AdamW([p for _, p in blocks.all()], lr=0.1)

    def set_active(self, active: Sequence[int]) -> None:
        for index, block in enumerate(self.blocks.per_block):
            for _, parameter in block:
                parameter.requires_grad_(index in active)

    @contextmanager
    def probing(self, batch: Mapping[str, Any], *, gradients: bool) -> Iterator[None]:
        kept = {parameter: parameter.grad for _, parameter in self.blocks.all()}
        trains = {parameter: parameter.requires_grad for _, parameter in self.blocks.all()}
        states = torch.get_rng_state(), np.random.get_state(), random.getstate()
        try:
            for parameter in kept:
                parameter.grad = None
                parameter.requires_grad_(True)
            self.run_probe(batch, gradients)
            yield
        finally:
            for parameter, gradient in kept.items():
                parameter.grad = gradient
                parameter.requires_grad_(trains[parameter])
            torch.set_rng_state(states[0])
            np.random.set_state(states[1])
            random.setstate(states[2])

    def run_probe(self, batch: Mapping[str, Any], gradients: bool) -> None:
        with torch.set_grad_enabled(gradients):
            loss = self.model(**batch)
            # A classifier of transformers returns more than the loss.
            loss = getattr(loss, "loss", loss)
        if gradients:
            loss.backward()

    def local_state(self) -> dict[str, torch.Tensor]:
        """What a probe must leave alone."""
        moments = {
            f"{name}.{key}": value
            for name, parameter in self.blocks.all()
            for key, value in self.optimizer.state.get(parameter, {}).items()
        }
        return dict(self.model.named_parameters()) | moments

    def local_gradients(self) -> dict[str, torch.Tensor]:
        return {name: p.grad for name, p in self.blocks.all() if p.grad is not None}


def build(trainer: type[PlainBlocks] = PlainBlocks, model: nn.Module | None = None) -> PlainBlocks:
    """A trainer of a model in training mode."""
    torch.manual_seed(0)
    model = Model() if model is None else model
    return trainer(model.train(), map_parameters(model))
