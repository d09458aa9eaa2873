"""What a selection policy is: a pure function from what is known at a refresh to the blocks that train next."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict

from irtune.importance import Importance

PolicyState = Mapping[str, Any]
"""What a policy remembers between refreshes; JSON-able, so that it travels in checkpoints."""


@dataclass(frozen=True)
class StepCost:
    """What one optimizer step costs, in any one unit, as a function of the blocks that train.

    The forward pass runs through everything. The backward pass runs from the head down to the lowest active block, and
    adds a weight gradient for each active one.

    Args:
        fixed: Cost of the forward pass and of the head.
        passed: ``(L,)`` cost of passing a block backwards.
        trained: ``(L,)`` further cost of training it.
        lowest: The lowest block that ever trains where what lies below it is not computed (``engine.prefix_cache``).
        kept: What a step then saves in which no block below that one trains.
    """

    fixed: float
    passed: np.ndarray
    trained: np.ndarray
    lowest: int = 0
    kept: float = 0.0

    @classmethod
    def uniform(cls, num_blocks: int) -> "StepCost":
        """Blocks that all cost alike, passed backwards at the price of a forward pass, trained at no further one."""
        return cls(float(num_blocks), np.ones(num_blocks), np.zeros(num_blocks))

    @classmethod
    def between(cls, indices: Sequence[int], num_blocks: int) -> "StepCost":
        """As ``uniform``, of the blocks at ``indices`` in a model of ``num_blocks``, of which the others never train.

        The backward pass runs through those that lie above the lowest active one.
        """
        return cls(float(num_blocks), np.diff([*indices, num_blocks]).astype(float), np.zeros(len(indices)))

    def of(self, active: Sequence[int]) -> float:
        """Cost of a step in which these blocks (at least one) train."""
        fixed = self.fixed - (self.kept if min(active) >= self.lowest else 0.0)
        return float(fixed + self.passed[min(active) :].sum() + self.trained[list(active)].sum())


@dataclass(frozen=True)
class Suppression:
    """A forward pass on a training batch with some blocks' adapters turned down.

    Args:
        blocks: Blocks whose adapters are scaled.
        scale: By how much; 0 removes them.
    """

    blocks: tuple[int, ...]
    scale: float


@dataclass(frozen=True)
class SelectionContext:
    """All that a policy may know.

    Args:
        num_blocks: L, the number of blocks that can train.
        step: Optimizer step of this refresh, from 0.
        total_steps: Optimizer steps of the whole run.
        importance: Scores ``(L,)`` and their age.
        generator: Seeded by run seed and step.
        state: What the policy returned last time; empty at first.
        cost: What a step costs with which blocks active; None where the trainer does not know.
        probes: The forward passes that the policy asked for at this refresh.
        probe_losses: ``(len(probes),)`` loss of each, averaged over ranks.

    Example:
        >>> from irtune import Importance, SelectionContext
        >>> from irtune.selection import TopK
        >>> importance = Importance(np.array([3.0, 1.0, 2.0]), np.array([0, 0, 0]), np.array([1, 1, 1]))
        >>> context = SelectionContext(3, 0, 100, importance, np.random.default_rng(0))
        >>> TopK(k=2).select(context)
        ((0, 2), {})
    """

    num_blocks: int
    step: int
    total_steps: int
    importance: Importance
    generator: np.random.Generator
    state: PolicyState = field(default_factory=dict)
    cost: StepCost | None = None
    probes: tuple[Suppression, ...] = ()
    probe_losses: np.ndarray = field(default_factory=lambda: np.empty(0))


class SelectionPolicy(BaseModel):
    """Base of every policy: its options are its fields, ``select`` decides.

    Example:
        >>> from irtune import Importance, SelectionContext, SelectionPolicy
        >>> class EveryOther(SelectionPolicy):
        ...     name: str = "every_other"
        ...     uses_importance: ClassVar[bool] = False
        ...
        ...     def select(self, context):
        ...         return tuple(range(0, context.num_blocks, 2)), {}
        >>> context = SelectionContext(5, 0, 100, Importance.unseen(5), np.random.default_rng(0))
        >>> EveryOther().select(context)
        ((0, 2, 4), {})
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    name: str

    uses_importance: ClassVar[bool] = True
    """Whether the choice depends on scores, so that a refresh has to probe all blocks."""

    uses_probes: ClassVar[bool] = False
    """Whether the choice depends on forward passes with suppressed blocks, which ``probes`` asks for."""

    def probes(self, context: SelectionContext) -> tuple[Suppression, ...]:
        """The forward passes whose losses this refresh needs. Rank 0 decides, every rank runs them before ``select``.

        The context is the one of ``select`` but for the generator, which is another, and the losses.
        """
        return ()

    def select(self, context: SelectionContext) -> tuple[tuple[int, ...], PolicyState]:
        """The blocks that train until the next refresh (sorted, not empty) and the state to hand back then."""
        raise TypeError(f"policy {self.name!r} does not say how it selects")

    def lowest_ever(self, num_blocks: int, cost: StepCost | None = None) -> int:
        """The lowest block that it can ever choose, as far as that is known in advance; 0 where it is not.

        Args:
            num_blocks: L.
            cost: As in the context.
        """
        return 0

    def among(self, indices: Sequence[int]) -> "SelectionPolicy":
        """The same policy where only the blocks at these ``indices`` of a model can train.

        All that a policy knows of blocks counts those that can train, in model order; one that names blocks of the
        model translates them here.

        Raises:
            ValueError: If it names a block that cannot train.
        """
        return self

    def check(self, num_blocks: int) -> None:
        """Raise ValueError if the policy cannot work on ``num_blocks`` blocks, such as for a ``k`` above that."""
        k = getattr(self, "k", None)
        if isinstance(k, int | float):
            resolve_count(k, num_blocks)


def _valid_count(k: Any) -> int | float:
    if isinstance(k, float) and 0 < k <= 1:
        return k
    if isinstance(k, int) and not isinstance(k, bool) and k >= 1:
        return k
    kind = "a fraction" if isinstance(k, float) else "a number of blocks"
    raise ValueError(f"{k!r} is not {kind}: give a count from 1, or a fraction of all blocks in (0, 1]")


BlockCount = Annotated[int | float, BeforeValidator(_valid_count)]
"""How many blocks train: an int is a count, a float a fraction of all blocks."""


def resolve_count(k: int | float, num_blocks: int, option: str = "k") -> int:
    """The number of blocks that ``k`` means on a model of ``num_blocks``.

    Raises:
        ValueError: If it is a count above ``num_blocks``; the message names the policy's ``option``.
    """
    if isinstance(k, float):
        return max(1, round(k * num_blocks))
    if k > num_blocks:
        raise ValueError(f"selection.policy.{option}: {k} blocks asked for, the model has {num_blocks}")
    return k
