"""Does a trial beat guessing? What a guess scores that has looked at the classes only, and what a trial has over it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from irtune.analysis.metrics import MACRO_F1, Metric
from irtune.analysis.statistics import Interval, score_interval
from irtune.analysis.trials import TrialRow


@dataclass(frozen=True)
class Guess:
    """A way of guessing and what it scores."""

    how: str
    score: float


def best_guess(labels: ArrayLike, num_classes: int, metric: Metric = MACRO_F1) -> Guess:
    """The best way of guessing that looks at how often classes are, and at no example.

    For macro-F1 there are three: always the largest class, every class equally often, by their shares. A class that is
    a share p of the examples and is guessed with probability q, whatever the example, has an F1 of 2 p q / (p + q), up
    to the luck of a draw. Macro metrics are over the classes that the examples have, so by their shares it is 1 over
    their number, equally often at most that, and always the largest class at most that too. Equally often is over all
    classes, which is what a model without knowledge does.

    Args:
        labels: Class indices ``(N,)`` of the test set.
        num_classes: Number of classes of the task.
        metric: What is measured.
    """
    held, counts = np.unique(np.asarray(labels), return_counts=True)
    shares = counts / counts.sum()
    largest, own = float(shares.max()), float(shares[held == metric.class_index].sum())
    of_class = {
        "f1": Guess("always that class", 2 * own / (1 + own)),
        "precision": Guess("always that class", own),
        "recall": Guess("always that class", float(own > 0)),
        "auprc": Guess("the same for every example", own),
    }
    if metric.class_index is not None:
        return of_class[metric.measure]
    if metric.name == "loss":
        return Guess("the shares of the classes for every example", float(-(shares * np.log(shares)).sum()))
    if metric.name == "accuracy":
        return Guess("always the largest class", largest)
    guesses = [Guess("classes by their shares", 1 / len(shares))]
    if metric.name == "f1_macro":
        guesses = [
            Guess("always the largest class", 2 * largest / (1 + largest) / len(shares)),
            Guess("every class equally often", float(np.mean(2 * shares / (num_classes * shares + 1)))),
            *guesses,
        ]
    return max(guesses, key=lambda guess: round(guess.score, 9))


@dataclass(frozen=True)
class AgainstGuessing:
    """A trial beside the best guess on its test set; ``score`` has no interval (None) without predictions."""

    guess: Guess
    score: float
    interval: Interval | None
    metric: Metric = MACRO_F1

    @property
    def deficit(self) -> float:
        """By how much the score is worse than the guess; negative where it is better."""
        return (self.guess.score - self.score) * (1 if self.metric.mode == "max" else -1)

    @property
    def beats(self) -> bool:
        """Return whether the whole interval is better than the guess; without one, whether the score is."""
        if self.interval is None:
            return self.deficit < 0
        low, high = self.interval.low, self.interval.high
        return low > self.guess.score if self.metric.mode == "max" else high < self.guess.score

    def __str__(self) -> str:
        low_high = (
            "" if self.interval is None else f", 95% interval {self.interval.low:.3f} to {self.interval.high:.3f}"
        )
        return f"test {self.metric.words} {self.score:.3f}{low_high}"


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
    if row.test_score is None or row.test_labels is None or len(row.test_labels) == 0:
        return None
    predictions = [one.test_predictions for one in (repeats or [row]) if one.test_predictions is not None]
    classes = (row.test_labels, *(predictions if row.metric.reads_classes else ()))
    num_classes = num_classes or 1 + max(int(np.max(found)) for found in classes)
    guess = best_guess(row.test_labels, num_classes, row.metric)
    if len(predictions) < max(1, len(repeats)):
        return AgainstGuessing(guess, row.test_score, None, row.metric)
    interval = score_interval(row.test_labels, predictions, num_classes, num_resamples, seed, row.metric)
    return AgainstGuessing(guess, interval.difference, interval, row.metric)
