"""What an importance signal is: something that gives every block one score, as fresh as it can."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from irtune.importance.aggregations import OverTime, fold_probe

NEVER = -1
"""``measured_at`` of a block that no probe has seen."""


@dataclass(frozen=True)
class Importance:
    """One score a block, with its age.

    Args:
        scores: ``(L,)`` float; larger is more important; NaN = never seen.
        measured_at: ``(L,)`` int; the optimizer step of each score's latest measurement, -1 = never.
        num_probes: ``(L,)`` int; how many measurements each score folds together.

    Example:
        >>> from irtune import Importance
        >>> Importance.unseen(3).scores
        array([nan, nan, nan])
    """

    scores: np.ndarray
    measured_at: np.ndarray
    num_probes: np.ndarray

    @classmethod
    def unseen(cls, num_blocks: int) -> "Importance":
        """The importance of blocks before any measurement."""
        return cls(np.full(num_blocks, np.nan), np.full(num_blocks, NEVER), np.zeros(num_blocks, dtype=int))

    def among(self, num_blocks: int, indices: Sequence[int]) -> "Importance":
        """The same scores in a model of ``num_blocks``, at ``indices`` ``(L,)``; its other blocks are unseen."""
        wider, at = Importance.unseen(num_blocks), list(indices)
        wider.scores[at], wider.measured_at[at], wider.num_probes[at] = self.scores, self.measured_at, self.num_probes
        return wider

    def to_json(self) -> dict[str, list[Any]]:
        """A form for checkpoints without NaN and infinities, which strict JSON lacks."""
        return {
            "scores": [_to_json(float(score)) for score in self.scores],
            "measured_at": self.measured_at.tolist(),
            "num_probes": self.num_probes.tolist(),
        }

    @classmethod
    def from_json(cls, state: Mapping[str, list[Any]]) -> "Importance":
        """The inverse of ``to_json``."""
        scores = [np.nan if score is None else float(score) for score in state["scores"]]
        return cls(np.array(scores, dtype=float), np.array(state["measured_at"]), np.array(state["num_probes"]))


def _to_json(score: float) -> float | str | None:
    if math.isnan(score):
        return None
    return score if math.isfinite(score) else str(score)


Source = Literal["gradients", "forward", "weights"]
"""What a probe reads: gradients of a backward pass, activations of a forward pass, or the weights as they lie there."""

Gradient = Literal["averaged", "local"]
"""``averaged`` over ranks and accumulation, as the optimizer sees it; ``local`` to a micro-batch of one rank."""

Token = Literal["first", "last"]
"""The real token of an example that stands for it."""

ClipQuantile = Annotated[
    float, Field(gt=0, lt=1, description="where the _clipped aggregations clip: a quantile of the blocks' scores")
]
"""Option of the signals that aggregate."""


class MeasuredBlocks(Protocol):
    """What a signal may ask of whoever trains. Every method is collective: all ranks call it, all get the same.

    Gradients are those of the step's backward pass, or of a probe of its own; ``tensors`` is ``all``, a component of
    dotted parameter names such as ``lora_B``, or ``effective_update``: one matrix for each pair of ``lora_A`` and
    ``lora_B``, the change of their product along the gradient.
    """

    def gradient_norms(self, tensors: str, gradient: Gradient = "averaged") -> list[np.ndarray]:
        """Per block the L2 norm ``(P,)`` of each tensor's gradient; ``local`` ones summed over micro-batches."""
        ...

    def tensor_sizes(self, tensors: str) -> list[np.ndarray]:
        """Per block the number of elements ``(P,)`` of each of those tensors."""
        ...

    def record_local_norms(self) -> None:
        """From now on keep what ``gradient_norms(..., "local")`` needs."""
        ...

    def weight_matrices(self, block: int) -> Iterator[tuple[str, Any]]:
        """The pretrained matrices of a block, whole, one after the other: name in the block, tensor ``(out, in)``."""
        ...

    def similarities(self) -> np.ndarray:
        """``(L,)`` mean over real tokens of the cosine between hidden states before and after each block."""
        ...

    def token_states(self, token: Token) -> list[tuple[np.ndarray, np.ndarray]]:
        """Per block the hidden states ``(n, d)`` before and after it, at one token of each of the probe's examples."""
        ...

    def activation_energies(self) -> list[np.ndarray]:
        """Per block ``(P,)`` mean over real tokens of the squared norm of what enters each adapted layer."""
        ...

    def record_features(self) -> None:
        """From now on read in gradient probes apart what ``low_rank_moments`` needs."""
        ...

    def low_rank_moments(self) -> list[list[tuple[np.ndarray, np.ndarray]]]:
        """Per block, for each ``lora_B`` that sees tokens, two matrices ``(r, r)``: the Gram matrix of its gradient,
        and the second moments over real tokens of the features that it multiplies."""
        ...


class ImportanceSignal(BaseModel):
    """Base of every signal: its options are its fields, ``measure`` gives the scores of one probe.

    Example:
        >>> from irtune import ImportanceSignal
        >>> from irtune.importance.signal_contract import FakeBlocks
        >>> class LargestNorm(ImportanceSignal):
        ...     name: str = "largest_norm"
        ...
        ...     def measure(self, blocks):
        ...         return np.array([norms.max() for norms in blocks.gradient_norms("lora_B")])
        >>> LargestNorm().measure(FakeBlocks.ordinary(3)).shape
        (3,)
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    name: str
    over_time: OverTime = Field("last", description="how the scores of successive probes are folded together")
    ema_decay: float = Field(0.9, ge=0, lt=1, description="weight of the past under over_time: ema")
    probe_fraction: float = Field(
        1.0,
        gt=0,
        le=1,
        description="share of a micro-batch that a probe uses; below 1 a gradient probe is a pass apart",
    )

    source: ClassVar[Source] = "gradients"
    """What a probe reads."""

    apart: ClassVar[bool] = False
    """Whether a probe of gradients has to be a pass of its own, since it also reads what passes forward."""

    needs_low_rank: ClassVar[bool] = False
    """Whether every block has to have a pair of ``lora_A`` and ``lora_B``."""

    @property
    def stale(self) -> bool:
        """Whether frozen blocks keep the score that they last had instead of being probed."""
        return False

    def rows(self, micro_batch_size: int) -> int:
        """Examples of a rank's micro-batch that a probe uses."""
        return max(1, math.ceil(self.probe_fraction * micro_batch_size))

    def check(self, num_examples: int) -> None:
        """Raise ValueError if the signal cannot work with probes of ``num_examples``, of all ranks together."""

    def prepare(self, blocks: MeasuredBlocks) -> None:
        """Called once, on all ranks, before the first step."""

    def measure(self, blocks: MeasuredBlocks) -> np.ndarray:
        """Scores ``(L,)`` of one probe. Runs on all ranks."""
        raise TypeError(f"signal {self.name!r} does not say how it measures")

    def update(self, importance: Importance, scores: np.ndarray, step: int) -> Importance:
        """The importance after a probe at ``step`` that found ``scores`` ``(L,)``; NaN leaves a block as it was."""
        seen = ~np.isnan(scores)
        folded = fold_probe(self.over_time, importance.scores, importance.num_probes, scores, self.ema_decay)
        return Importance(
            np.where(seen, folded, importance.scores),
            np.where(seen, step, importance.measured_at),
            importance.num_probes + seen,
        )
