"""What a worker's work takes: seconds and bytes as measured, or where that cannot be, bytes by a closed form."""

from dataclasses import dataclass
from typing import Any, Literal

from irtune.config.schema import ExperimentConfig
from irtune.training.workload import Workload

BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
"""Of a number, by ``engine.precision``."""


@dataclass(frozen=True)
class Times:
    """Seconds that a worker's work takes, with the FLOPs that they were measured for.

    Args:
        process_s: From the start of a process to where it can train: its imports.
        start_s: From there to the first step: loading the model, making the engine, self-check.
        step_s: Of an optimizer step with ``step_flops``.
        evaluation_s: Of scoring a split with ``evaluation_flops``.
        checkpoint_s: Of saving the state once.
        finish_s: Of what comes after the last evaluation on validation, but for scoring test.
    """

    process_s: float
    start_s: float
    step_s: float
    step_flops: float
    evaluation_s: float
    evaluation_flops: float
    checkpoint_s: float
    finish_s: float

    def between(self, work: Workload, start: int, end: int) -> float:
        """Seconds from the end of step ``start`` to that of step ``end``, with what is evaluated and saved after it."""
        return (
            (end - start) * self.step(work)
            + work.evaluations(start, end) * self.evaluating(work.evaluation_flops)
            + work.checkpoints(start, end) * self.checkpoint_s
        )

    def step(self, work: Workload) -> float:
        """Seconds of an optimizer step, taken to go with its FLOPs."""
        return self.step_s * work.step_flops / self.step_flops

    def evaluating(self, flops: float) -> float:
        """Seconds of a forward pass over examples, without gradients."""
        return self.evaluation_s * flops / self.evaluation_flops

    def finishing(self, work: Workload) -> float:
        """Seconds of scoring test, and of keeping adapter and predictions."""
        return self.finish_s + self.evaluating(work.test_flops)

    def whole(self, work: Workload) -> float:
        """Seconds of a run in a process that is there already."""
        return self.start_s + self.between(work, 0, work.max_steps) + self.finishing(work)


IN_FLOPS = Times(0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0)
"""A clock that counts FLOPs instead of seconds."""


@dataclass(frozen=True)
class StepEstimate:
    """What is known of a worker's work before it is done, from the baseline, which needs the most of all trials.

    Args:
        source: Whether it was measured here.
        how: In words: what was measured, or why nothing was.
        memory_bytes: The most that a worker holds.
        times: None unless measured: how fast a device is cannot be known without trying it.
    """

    source: Literal["measured", "closed form"]
    how: str
    memory_bytes: float
    times: Times | None = None


def closed_form(config: ExperimentConfig, model: Any, longest: int, reason: str) -> StepEstimate:
    """An estimate without a measurement.

    Memory is that of weights, gradients, Adam's moments and master weights, and roughly of activations: without
    recomputation ``17 h + 2.5 a s`` numbers a token and block for hidden size h, a attention heads and s tokens. What
    Python and its libraries take (about 0.6 GB) and what kernels work with is not in it.

    Args:
        config: The baseline.
        model: The classifier with its adapter, of which only shapes are looked at.
        longest: Tokens of the longest example.
        reason: Why nothing was measured.

    Source: Korthikanti et al., Reducing Activation Recomputation in Large Transformer Models (arXiv 2205.05198). Their
        numbers are those of GPT; here they stand for all models, and what adapters keep is left out.
    """
    engine, text = config.engine, model.get_base_model().config.get_text_config()
    number, stage, ranks = BYTES[engine.precision], engine.zero_stage, engine.num_workers
    weights = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    states = 8 + (4 if number < 4 else 0)
    held = number * weights / (ranks if stage >= 3 else 1)
    held += 4 * trained / (ranks if stage >= 2 else 1) + states * trained / (ranks if stage >= 1 else 1)
    hidden, heads, blocks = text.hidden_size, text.num_attention_heads, text.num_hidden_layers
    block = 17 * hidden + 2.5 * heads * longest
    numbers_a_token = hidden * blocks + block if config.model.gradient_checkpointing else block * blocks
    held += number * numbers_a_token * longest * config.training.micro_batch_size
    return StepEstimate("closed form", reason, float(held))
