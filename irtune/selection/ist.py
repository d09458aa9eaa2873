"""IST: train the blocks whose suppression hurts."""

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field
from scipy.special import expit, log_expit

from irtune.selection.policy import (
    BlockCount,
    PolicyState,
    SelectionContext,
    SelectionPolicy,
    Suppression,
    resolve_count,
)
from irtune.selection.scores import draw_blocks


def updated_scores(
    scores: np.ndarray, probes: tuple[Suppression, ...], losses: np.ndarray, learning_rate: float
) -> np.ndarray:
    """The scores after a round of probes: who was suppressed while the loss stayed low goes up.

    Args:
        scores: ``(L,)`` high means that a block is not needed.
        probes: What was suppressed, P times.
        losses: ``(P,)`` the loss under each; NaN counts as infinite.
        learning_rate: Factor of the change.
    """
    # A cross entropy is not negative, so rewards lie between 0 and 1.
    rewards = np.exp(-np.where(np.isnan(losses), np.inf, np.maximum(losses, 0)))
    p = expit(scores)
    updated = scores.copy()
    for probe, reward in zip(probes, rewards - rewards.mean(), strict=True):
        blocks = list(probe.blocks)
        updated[blocks] += learning_rate * reward * p[blocks] * (1 - p[blocks])
    return updated


class IST(SelectionPolicy):
    """Draws k blocks at each refresh, likelier those whose suppression raised the loss.

    Every block has a score s, at first 0, kept between refreshes. Every ``probe_every`` steps, ``num_probes`` forward
    passes each turn the adapters of ``suppressed_fraction`` of the blocks down to ``scale``, blocks drawn in proportion
    to sigmoid(s). The reward of a probe is exp(-loss) minus the mean of the round; each block that it suppressed moves
    by reward * ``score_learning_rate`` * p * (1 - p), where p = sigmoid(s) before the round. The blocks that train are
    drawn in proportion to sigmoid(-s). The paper redraws them at every step: ``selection.reselect_every: 1``. With a
    larger interval, a round runs at the first refresh at least ``probe_every`` steps after the last round.

    Source: Yao et al., Findings of EMNLP 2024 (2024.findings-emnlp.109), and their code. Deviations: the probes of a
    round are drawn independently, theirs until all differ; they run on rows of the step's batch, theirs on a batch of
    their own; fractions of blocks are rounded, theirs rounded down.
    """

    name: Literal["ist"] = "ist"
    k: BlockCount = Field(0.25, description="blocks that train: a count, or a fraction of all")
    probe_every: int = Field(10, gt=0, description="optimizer steps between two rounds of probes")
    num_probes: int = Field(3, ge=2, description="forward passes a round, whose rewards are compared with their mean")
    suppressed_fraction: float = Field(0.5, gt=0, le=1, description="share of the blocks that a probe suppresses")
    scale: float = Field(0.25, ge=0, lt=1, description="what is left of a suppressed adapter")
    score_learning_rate: float = Field(10.0, gt=0, description="how far a round of probes moves the scores")
    uses_importance: ClassVar[bool] = False
    uses_probes: ClassVar[bool] = True

    def probes(self, context: SelectionContext) -> tuple[Suppression, ...]:
        """A round of probes if one is due."""
        if context.step - context.state.get("probed_at", 0) < self.probe_every:
            return ()
        count = resolve_count(self.suppressed_fraction, context.num_blocks)
        log_weights = log_expit(_scores(context))
        return tuple(
            Suppression(draw_blocks(context.generator, log_weights, count), self.scale) for _ in range(self.num_probes)
        )

    def select(self, context: SelectionContext) -> tuple[tuple[int, ...], PolicyState]:
        """K blocks by the scores that this refresh's probes lead to."""
        scores, state = _scores(context), context.state
        if context.probes:
            scores = updated_scores(scores, context.probes, context.probe_losses, self.score_learning_rate)
            state = {"scores": scores.tolist(), "probed_at": context.step}
        k = resolve_count(self.k, context.num_blocks)
        return draw_blocks(context.generator, log_expit(-scores), k), state


def _scores(context: SelectionContext) -> np.ndarray:
    return np.array(context.state.get("scores", [0.0] * context.num_blocks))
