"""Scores as policies need them: ranked, finite, compared with those of the refresh before, and blocks drawn by them."""

import numpy as np

from irtune.importance import Importance


def ranked_scores(scores: np.ndarray) -> np.ndarray:
    """Scores ``(L,)`` that sort without surprises: never-seen (NaN) blocks below all others."""
    return np.where(np.isnan(scores), -np.inf, scores)


def top_blocks(scores: np.ndarray, k: int) -> tuple[int, ...]:
    """The ``k`` blocks of largest score ``(L,)``; ties go to the block nearer to the output."""
    ascending = np.argsort(ranked_scores(scores), kind="stable")
    return tuple(sorted(int(block) for block in ascending[-k:]))


def finite_scores(ranked: np.ndarray) -> np.ndarray:
    """Scores ``(L,)`` of at most 1 in magnitude, infinite ones at the ends of the finite range.

    The scale is a power of two, so nothing is rounded, and what was equal stays equal.

    Args:
        ranked: ``(L,)`` scores, none of them NaN.
    """
    known = ranked[np.isfinite(ranked)]
    low, high = (known.min(), known.max()) if known.size else (0.0, 1.0)
    finite = np.clip(ranked, low, high)
    # Scores near the largest float would overflow when squared or summed.
    _, exponent = np.frexp(np.abs(finite).max())
    scaled: np.ndarray = np.ldexp(finite, -exponent)
    return scaled


def relative_change(before: Importance, after: Importance) -> np.ndarray:
    """``|after - before| / |before|`` of each block's score, ``(L,)``.

    NaN where it says nothing: a score that was not measured anew, is not finite, or grew from zero.
    """
    with np.errstate(all="ignore"):
        change = np.abs(after.scores - before.scores) / np.abs(before.scores)
    return np.where(np.isfinite(change) & (after.measured_at > before.measured_at), change, np.nan)


def draw_blocks(generator: np.random.Generator, log_weights: np.ndarray, k: int) -> tuple[int, ...]:
    """``k`` distinct blocks, drawn one by one with probability proportional to the weights of those that are left.

    Args:
        generator: Source of randomness.
        log_weights: ``(L,)`` logarithms of the weights, so that none is too small or too large. Blocks of weight zero
            (-inf) come when no other is left, those of infinite weight first; among equals chance decides.
        k: From 1 to L.

    Source: Efraimidis & Spirakis, "Weighted random sampling with a reservoir", 2006; their keys in Gumbel form.
    """
    keys = log_weights + generator.gumbel(size=len(log_weights))
    ascending = np.lexsort((generator.random(len(keys)), keys))
    return tuple(sorted(int(block) for block in ascending[-k:]))
