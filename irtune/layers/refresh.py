"""When blocks are chosen anew, and which passes that costs: the one rule of training and of forecasts."""

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from irtune.importance import ImportanceSignal
from irtune.selection import SelectionPolicy

ProbeMemory = Literal["low", "fast"]
"""Choice of a refresh between memory, by recomputing blocks that do not train, and the time of that."""


@dataclass(frozen=True)
class ProbePasses:
    """Passes over ``rows`` examples that a refresh runs apart from the training step.

    Args:
        forward: How many.
        backward: How many of them also go backwards, through every block.
        rows: Examples in each; 0 where it runs none.
        recomputed: Blocks whose forward pass is repeated in these backward passes, or if there are none in those of the
            training step.
    """

    forward: int = 0
    backward: int = 0
    rows: int = 0
    recomputed: tuple[int, ...] = ()


@dataclass(frozen=True)
class RefreshRule:
    """What a refresh reads, from what policy and signal ask for.

    Args:
        policy: Decides.
        signal: Measures.
        reselect_every: Refresh interval in optimizer steps; 0 chooses once.
        total_steps: Optimizer steps of the run.
        always_measure: Probe also for a policy that does not look at scores.
        probe_memory: Whether a refresh recomputes blocks that do not train in other steps.
    """

    policy: SelectionPolicy
    signal: ImportanceSignal
    reselect_every: int
    total_steps: int
    always_measure: bool = False
    probe_memory: ProbeMemory = "low"

    @property
    def interval(self) -> int:
        """Optimizer steps from a refresh to the next."""
        return self.reselect_every or self.total_steps

    @property
    def steps(self) -> range:
        """The optimizer steps of all refreshes, as long as no score overflows."""
        return range(0, self.total_steps, self.interval)

    @property
    def wants_scores(self) -> bool:
        """Whether anybody looks at scores."""
        return self.policy.uses_importance or self.always_measure

    @property
    def step_has_scores(self) -> bool:
        """Whether a training step in which all blocks are trainable gives every score by itself."""
        by_itself = self.signal.probe_fraction == 1 and not self.signal.apart
        return self.signal.source == "gradients" and not self.signal.stale and by_itself

    @property
    def probes_in_step(self) -> bool:
        """Whether a refresh makes all blocks trainable for its step's backward pass, to read their scores from it."""
        return self.wants_scores and self.step_has_scores

    @property
    def probes_apart(self) -> bool:
        """Whether a refresh measures before its step: in a pass of its own, or by reading weights, in none."""
        return self.wants_scores and not self.step_has_scores and not self.signal.stale

    def recomputed(self, num_blocks: int, active: Collection[int]) -> tuple[int, ...]:
        """The blocks whose forward pass a refresh repeats, so as to keep no more than the steps before it did.

        These kept nothing below the lowest block that trained, and between those that did less than in a probe, since
        gradients of weights need more than those of activations: of frozen blocks there, the lower half.

        Args:
            num_blocks: L.
            active: Those that train up to this refresh; none before the first, when it is not known.
        """
        through_all = self.probes_in_step or (self.probes_apart and self.signal.source == "gradients")
        if self.probe_memory == "fast" or not through_all:
            return ()
        frozen = [index for index in range(num_blocks) if index not in active]
        num_below = min(active, default=num_blocks)
        return tuple(frozen[: num_below + math.ceil((len(frozen) - num_below) / 2)])

    def passes(self, micro_batch_size: int, num_suppressed: int = 0, recomputed: tuple[int, ...] = ()) -> ProbePasses:
        """Passes apart of one refresh, and what it repeats.

        Args:
            micro_batch_size: Examples of a rank's micro-batch.
            num_suppressed: Forward passes with suppressed blocks that the policy asks for.
            recomputed: Blocks whose forward pass is repeated.
        """
        measured = self.probes_apart and self.signal.source != "weights"
        through_all = measured and self.signal.source == "gradients"
        rows = self.signal.rows(micro_batch_size)
        return ProbePasses(measured + num_suppressed, int(through_all), rows, recomputed)
