"""Agreement of seeds and corpora on blocks: rank correlation of importance and overlap of choices, beside chance."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats


@dataclass(frozen=True)
class Choices:
    """The choices of one trial, weighted by the steps for which each choice held.

    Args:
        seed: Of the trial.
        frequency: Share of its steps in which each block trained ``(L,)``.
        importance: Mean score of each block over its measurements ``(L,)``; NaN where it was never measured.
        last: Which blocks trained at the end ``(L,)``.
    """

    seed: int
    frequency: NDArray[np.float64]
    importance: NDArray[np.float64]
    last: NDArray[np.bool_]

    @classmethod
    def of(
        cls, seed: int, step: NDArray[np.int_], active: NDArray[np.bool_], scores: NDArray[np.float64], steps: int
    ) -> "Choices":
        """From a trace.

        Args:
            seed: Of the trial.
            step: The optimizer step from which each choice held ``(R,)``.
            active: The blocks that trained ``(R, L)``.
            scores: Importance at each choice ``(R, L)``; NaN where it was not measured.
            steps: Optimizer steps of the trial.
        """
        held = np.diff(np.append(step, max(steps, int(step[-1]) + 1))).astype(np.float64)
        known = ~np.isnan(scores)
        total = np.where(known, scores, 0.0).sum(axis=0)
        count = known.sum(axis=0)
        importance = np.where(count > 0, total / np.maximum(count, 1), np.nan)
        return cls(seed, held @ active / held.sum(), importance, active[-1])


@dataclass(frozen=True)
class Agreement:
    """Agreement of pairs of trials.

    Args:
        num_pairs: Of trials with a trace.
        tau: Kendall's tau-b of blocks' mean importance, mean over pairs; chance gives 0. None without scores.
        jaccard: Blocks that both train at the end over those that any does, mean over pairs; None without a pair.
        jaccard_of_chance: What choosing as many blocks at random gives.
    """

    num_pairs: int
    tau: float | None
    jaccard: float | None
    jaccard_of_chance: float | None

    @classmethod
    def of(cls, pairs: Iterable[tuple[Choices, Choices]]) -> "Agreement":
        """The agreement of pairs.

        Source: Kendall, "A new measure of rank correlation", Biometrika 30, 1938; Jaccard, New Phytologist 11, 1912.
        """
        known = list(pairs)
        taus = [tau for a, b in known if (tau := _tau(a.importance, b.importance)) is not None]
        overlaps = [_jaccard(a.last, b.last) for a, b in known]
        chances = [jaccard_of_chance(int(a.last.sum()), int(b.last.sum()), len(a.last)) for a, b in known]
        tau, overlap, chance = (float(np.mean(each)) if each else None for each in (taus, overlaps, chances))
        return cls(len(known), tau, overlap, chance)


@dataclass(frozen=True)
class Stability:
    """The agreement between the seeds of one cell.

    Args:
        num_seeds: Trials with a trace.
        between_seeds: Of all pairs of them.
        entropy: Of the mean selection frequency over blocks, over that of choosing all alike, in 0..1.
    """

    num_seeds: int
    between_seeds: Agreement
    entropy: float


def stability(choices: Sequence[Choices]) -> Stability | None:
    """The agreement of the trials of one cell; None without any.

    Example:
        >>> import numpy as np
        >>> one = Choices(0, np.array([1.0, 0.0]), np.array([2.0, 1.0]), np.array([True, False]))
        >>> found = stability([one, one]).between_seeds
        >>> round(found.tau, 6), found.jaccard, round(found.jaccard_of_chance, 2)
        (1.0, 1.0, 0.5)
    """
    if not choices:
        return None
    frequency = np.mean([one.frequency for one in choices], axis=0)
    share = frequency / frequency.sum()
    entropy = float(stats.entropy(share) / np.log(len(share))) if len(share) > 1 else 1.0
    return Stability(len(choices), Agreement.of(itertools.combinations(choices, 2)), entropy)


def between_corpora(first: Sequence[Choices], second: Sequence[Choices]) -> Agreement:
    """The agreement of one configuration on two corpora, of trials of different seeds: no seed explains any of it.

    A policy that draws at random draws the same blocks with the same seed, whatever the data, and heads and adapters
    begin alike. Beside the agreement between seeds on one corpus this one says what the corpus adds.

    Args:
        first: Trials on one corpus, of a model with as many blocks as in ``second``.
        second: Trials on the other.
    """
    return Agreement.of((a, b) for a in first for b in second if a.seed != b.seed)


def jaccard_of_chance(a: int, b: int, num_blocks: int) -> float:
    """The expected overlap of two sets of ``a`` and of ``b`` blocks that are drawn at random.

    The number of common blocks has a hypergeometric distribution.

    Example:
        >>> round(jaccard_of_chance(10, 10, 30), 3)
        0.206
    """
    common = np.arange(max(0, a + b - num_blocks), min(a, b) + 1)
    chance = stats.hypergeom(num_blocks, a, b).pmf(common)
    return float((chance * common / np.maximum(a + b - common, 1)).sum())


def _tau(a: NDArray[np.float64], b: NDArray[np.float64]) -> float | None:
    both = ~np.isnan(a) & ~np.isnan(b)
    if both.sum() < 2:
        return None
    tau = float(stats.kendalltau(a[both], b[both]).statistic)
    return None if np.isnan(tau) else tau


def _jaccard(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    either = int((a | b).sum())
    return 1.0 if either == 0 else int((a & b).sum()) / either
