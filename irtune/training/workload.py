"""What a run has to compute, known before it runs: FLOPs from the model's shapes, the data's lengths and the policy."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np

from irtune.config.schema import ExperimentConfig
from irtune.data.base import Split
from irtune.data.encode import evaluation_batches, training_batches
from irtune.importance import ImportanceSignal
from irtune.layers import LayerController
from irtune.training.cost import CostModel

MAX_BATCHES = 256
"""How many batches of a run are looked at; the others are taken to be like them."""

MAX_REFRESHES = 200
"""How many refreshes are played through; a longer run is shortened to so many, whatever share of it has passed."""


@dataclass(frozen=True)
class Workload:
    """What one rank of a run has to do.

    Args:
        max_steps: Optimizer steps, if nothing stops it.
        eval_every: Optimizer steps between evaluations on validation.
        checkpoint_every: Optimizer steps between checkpoints.
        step_flops: FLOPs of an optimizer step, on average over the run.
        evaluation_flops: FLOPs of scoring validation once.
        test_flops: FLOPs of scoring test once.
    """

    max_steps: int
    eval_every: int
    checkpoint_every: int
    step_flops: float
    evaluation_flops: float
    test_flops: float

    @classmethod
    def of(cls, config: ExperimentConfig, cost: CostModel, lengths: Mapping[Split, np.ndarray]) -> "Workload":
        """Count what a configuration asks for.

        Which blocks train is what its policy chooses on made-up scores, drawn at random for each probe. That is right
        for a policy that trains a given number of blocks, but for where the lowest of them lies, and a guess for one
        that makes up its number from the scores.

        Args:
            config: The run.
            cost: Of its model.
            lengths: Tokens of each example ``(N,)`` of each split; they are cut to ``model.max_length``.
        """
        settings, ranks = config.training, config.engine.num_workers
        cost = replace(cost, recompute=config.model.gradient_checkpointing)
        lengths = {split: np.minimum(tokens, config.model.max_length) for split, tokens in lengths.items()}
        stream = training_batches(lengths["train"], settings.micro_batch_size, seed=config.seed, world_size=ranks)
        num_batches = min(MAX_BATCHES, settings.max_steps * settings.gradient_accumulation_steps)
        longest = float(np.mean([lengths["train"][batch].max() for batch in islice(stream, num_batches)]))
        return cls(
            max_steps=settings.max_steps,
            eval_every=settings.eval_every,
            checkpoint_every=settings.checkpoint_every,
            step_flops=_mean_step_flops(config, cost, longest),
            evaluation_flops=evaluation_flops(cost, lengths["validation"], settings.eval_batch_size, ranks),
            test_flops=evaluation_flops(cost, lengths["test"], settings.eval_batch_size, ranks),
        )

    def evaluations(self, start: int, end: int) -> int:
        """How often validation is scored after step ``start``, up to step ``end`` and at it."""
        return end // self.eval_every - start // self.eval_every + (end == self.max_steps and end % self.eval_every > 0)

    def checkpoints(self, start: int, end: int) -> int:
        """How often the run saves its state after step ``start``, up to step ``end`` and at it; never at its last."""
        saved = end // self.checkpoint_every - start // self.checkpoint_every
        return saved - (end == self.max_steps and end % self.checkpoint_every == 0)


def evaluation_flops(cost: CostModel, lengths: np.ndarray, batch_size: int, num_ranks: int = 1) -> float:
    """FLOPs of the first rank, which has the longest examples, in scoring a split with these lengths ``(N,)`` once."""
    batches = evaluation_batches(lengths, batch_size, world_size=num_ranks)
    return sum(cost.forward_flops(len(batch), int(lengths[batch].max())) for batch in batches if len(batch))


def _mean_step_flops(config: ExperimentConfig, cost: CostModel, length: float) -> float:
    """FLOPs of an optimizer step, averaged over all steps of a run whose controller measures made-up scores."""
    settings, interval = config.training, config.selection.reselect_every
    micro_batch, tokens = {"input_ids": np.empty((settings.micro_batch_size, 1))}, round(length)
    total_steps = min(settings.max_steps, MAX_REFRESHES * interval) if interval else settings.max_steps
    num_blocks = len(cost.forward)
    blocks: Any = _NoModel(config.seed)
    signal: Any = _MadeUpScores(config.importance, num_blocks, config.seed)
    controller = LayerController(
        blocks,
        num_blocks,
        config.selection.policy,
        signal,
        reselect_every=interval,
        total_steps=total_steps,
        seed=config.seed,
        always_measure=config.selection.measure == "always",
        cost=cost.per_block(length),
    )

    def flops(active: Sequence[int]) -> float:
        micro = cost.step_flops(active, settings.micro_batch_size, tokens)
        return micro * settings.gradient_accumulation_steps

    step, total = 0, 0.0
    while step < total_steps:
        controller.before_step(step, micro_batch)
        total += flops(blocks.active) + cost.passes_flops(controller.passes, tokens)
        controller.after_backward(step)
        # Nothing is decided in between two refreshes.
        following = min(controller.next_refresh, total_steps)
        total += flops(controller.active) * (following - step - 1)
        step = following
    return total / total_steps


class _NoModel:
    """Stands for the trainer where only the controller's decisions are of interest."""

    skips_overflow = False
    trains_weights = False
    rank = 0

    def __init__(self, seed: int) -> None:
        self.active: tuple[int, ...] = ()
        self.generator = np.random.default_rng(seed)

    def set_active(self, active: Sequence[int]) -> None:
        self.active = tuple(active)

    def broadcast(self, value: Any) -> Any:
        return value

    def probing(self, batch: Any, *, gradients: bool) -> Any:
        return nullcontext()

    def suppressed_losses(self, probes: Sequence[Any], batch: Any) -> np.ndarray:
        return self.generator.random(len(probes))

    def trainable_parameters(self, active: Sequence[int]) -> int:
        return 0

    def __getattr__(self, name: str) -> Any:
        """What only changes the trainer's state changes nothing here."""
        return lambda *arguments: None


class _MadeUpScores:
    """A signal that draws random scores of one order of magnitude instead of measuring."""

    def __init__(self, signal: ImportanceSignal, num_blocks: int, seed: int) -> None:
        self.signal = signal
        self.num_blocks = num_blocks
        self.generator = np.random.default_rng([seed, 1])

    def prepare(self, blocks: Any) -> None:
        pass

    def measure(self, blocks: Any) -> np.ndarray:
        return self.generator.lognormal(sigma=0.5, size=self.num_blocks)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.signal, name)
