"""Does a trial beat guessing? What a guess scores that has looked at the classes only, and what a trial has over it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from irtune.analysis.statistics import Interval, score_interval
from irtune.analysis.trials import TrialRow


@dataclass(frozen=True)
class Guess:
    """A way of guessing and its macro-F1."""

    how: str
    score: float


def best_guess(labels: ArrayLike, num_classes: int) -> Guess:
    """The best of three ways of guessing: always the largest class, every class equally often, by their shares.

    A class that is a share p of the examples and is guessed with probability q, whatever the example, has an F1 of
    2 p q / (p + q), up to the luck of a draw. Macro-F1 is over the classes that the examples have, so by their shares
    it is 1 over their number, equally often at most that, and always the largest class at most that too. Equally
    often is over all classes, which is what a model without knowledge does.

    Args:
        labels: Class indices ``(N,)`` of the test set.
        num_classes: Number of classes of the task.
    """
    counts = np.unique(np.asarray(labels), return_counts=True)[1]
    shares = counts / counts.sum()
    largest = float(shares.max())
    guesses = [
        Guess("always the largest class", 2 * largest / (1 + largest) / len(shares)),
        Guess("every class equally often", float(np.mean(2 * shares / (num_classes * shares + 1)))),
        Guess("classes by their shares", 1 / len(shares)),
    ]
    return max(guesses, key=lambda guess: round(guess.score, 9))


@dataclass(frozen=True)
class AgainstGuessing:
    """A trial beside the best guess on its test set; ``score`` has no interval (None) without predictions."""

    guess: Guess
    score: float
    interval: Interval | None

    @property
    def beats(self) -> bool:
        """Return whether the interval lies above the guess; without one, whether the score does."""
        return (self.score if self.interval is None else self.interval.low) > self.guess.score

    def __str__(self) -> str:
        low_high = (
            "" if self.interval is None else f", 95% interval {self.interval.low:.3f} to {self.interval.high:.3f}"
        )
        return f"test macro-F1 {self.score:.3f}{low_high}"


def against_guessing(
    row: TrialRow, repeats: Sequence[TrialRow], num_classes: int | None, num_resamples: int, seed: int
) -> AgainstGuessing | None:
    """Return what a trial has over guessing; None where its score or its test set is not known.

    Args:
        row: The trial, or its means over seeds.
        repeats: The trials of each seed that ``row`` is the mean of; empty where it is one trial.
        num_classes: Classes of the task; None: the highest class index met, plus one.
        num_resamples: Resamples of the bootstrap.
        seed: Seed of the bootstrap.
    """
    if row.test_f1 is None or row.test_labels is None or len(row.test_labels) == 0:
        return None
    predictions = [one.test_predictions for one in (repeats or [row]) if one.test_predictions is not None]
    num_classes = num_classes or 1 + max(int(np.max(found)) for found in (row.test_labels, *predictions))
    guess = best_guess(row.test_labels, num_classes)
    if len(predictions) < max(1, len(repeats)):
        return AgainstGuessing(guess, row.test_f1, None)
    interval = score_interval(row.test_labels, predictions, num_classes, num_resamples, seed)
    return AgainstGuessing(guess, interval.difference, interval)
