"""IR-Tuning's rule: cut the sorted scores where the two sides vary least."""

from typing import Literal

import numpy as np
from pydantic import Field, field_validator

from irtune.selection.policy import PolicyState, SelectionContext, SelectionPolicy
from irtune.selection.scores import finite_scores


def best_cut(ascending: np.ndarray, window: tuple[float, float]) -> int:
    """Size of the low side at the cut where ``var(low) + var(high)`` is smallest.

    Args:
        ascending: ``(n,)`` finite scores, sorted, n >= 2.
        window: Cuts from ``floor(window[0] * n)`` to ``floor(window[1] * n)`` are considered, both included.

    Returns:
        The number of scores on the low side, from 1 to n - 1; of equally good cuts the lowest.
    """
    num_scores = len(ascending)
    first = min(max(1, int(window[0] * num_scores)), num_scores - 1)
    last = min(max(first, int(window[1] * num_scores)), num_scores - 1)
    cuts = range(first, last + 1)
    costs = [_cost(ascending, cut) for cut in cuts]
    return cuts[int(np.argmin(costs))]


def authors_cut(ascending: np.ndarray, window: tuple[float, float], *, end_included: bool = True) -> int:
    """Size of the low side in the code of IR-Tuning's authors.

    Their list of costs starts at "one score on the low side", the window is a slice of that list, and the position of
    the cheapest cost serves as the cut itself: the low side has one score fewer than the cheapest cut gives it. The
    position is looked up by value in the whole list, so an equal cost below the window moves the cut out of it, down to
    an empty low side.

    Args:
        ascending: ``(n,)`` finite scores, sorted, n >= 2.
        window: The slice goes from ``floor(window[0] * n)`` to ``floor(window[1] * n)``.
        end_included: Whether the slice includes its end.

    Returns:
        The number of scores on the low side, from 0 to n - 2.
    """
    num_scores = len(ascending)
    costs = [_cost(ascending, cut) for cut in range(1, num_scores)]
    first = min(int(window[0] * num_scores), len(costs) - 1)
    end = max(first + 1, int(window[1] * num_scores) + end_included)
    return costs.index(min(costs[first:end]))


def _cost(ascending: np.ndarray, cut: int) -> float:
    return float(np.var(ascending[:cut]) + np.var(ascending[cut:]))


class VarianceSplit(SelectionPolicy):
    """Sorts the scores, cuts them where the plain variances of both sides add up to least, and trains the high side.

    The rule decides how many blocks train, so it takes no k; its knobs are ``window`` and ``splits``. The variances are
    not weighted by the number of scores (neither Otsu nor Jenks): without a window they would choose one or two blocks
    on skewed scores.

    Source: Liu & Litman, Findings of EMNLP 2025 (arXiv 2510.00268), and their code. Deviations, each with the setting
    that undoes it: a cut is placed exactly where its cost was computed, theirs one block lower (``cut: authors``); a
    block that was never measured is the last to train, theirs starts at a score of 1000 (``initial_score: 1000``). With
    ``cut: authors`` and ``keep: low`` the window excludes its end, as in their selection by cosine similarity. Where
    they would then train nothing, one block trains.
    """

    name: Literal["variance_split"] = "variance_split"
    window: tuple[float, float] = Field((0.35, 0.65), description="cuts to consider, as fractions of the sorted list")
    splits: Literal[1, 2] = Field(1, description="2 cuts the side that trains once more")
    keep: Literal["high", "low"] = Field(
        "high", description="side that trains: low for signals that are low where it matters, such as cosine similarity"
    )
    cut: Literal["exact", "authors"] = Field(
        "exact",
        description="authors: one block below the cheapest cut, ties looked up by value, as in the paper's code",
    )
    initial_score: float | None = Field(
        None,
        description="what a never measured block counts as, and while none is measured chance decides (the paper's "
        "code: 1000); null: never measured blocks train last",
    )

    @field_validator("window")
    @classmethod
    def _window_is_ordered(cls, window: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= window[0] <= window[1] <= 1:
            raise ValueError(f"must be two fractions with 0 <= low <= high <= 1, not {list(window)}")
        return window

    def select(self, context: SelectionContext) -> tuple[tuple[int, ...], PolicyState]:
        """The blocks on the side of the cut that trains."""
        ranked = self._ranked(context)
        finite = finite_scores(ranked)
        order = np.argsort(ranked, kind="stable")
        for _ in range(self.splits):
            if len(order) > 1:
                cut = self._cut(finite[order])
                order = order[cut:] if self.keep == "high" else order[: max(1, cut)]
        return tuple(sorted(int(block) for block in order)), {}

    def _cut(self, ascending: np.ndarray) -> int:
        if self.cut == "exact":
            return best_cut(ascending, self.window)
        return authors_cut(ascending, self.window, end_included=self.keep == "high")

    def _ranked(self, context: SelectionContext) -> np.ndarray:
        """Scores ``(L,)`` with something sensible in place of NaN."""
        scores = context.importance.scores
        unseen = np.isnan(scores)
        if self.initial_score is None:
            return np.where(unseen, -np.inf if self.keep == "high" else np.inf, scores)
        if unseen.all():
            return context.generator.random(len(scores))
        return np.where(unseen, self.initial_score, scores)
