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

    Classes may be guessed equally often (all of the task, which is what a model without knowledge does), by their
    shares, or always the same one. What a draw scores is up to luck, so each example counts as often as each class is
    guessed for it: a class that is a share p of the examples and guessed with probability q has an F1 of 2 p q / (p +
    q). Where probabilities are scored, every example is given the shares of the classes.

    Args:
        labels: Class indices ``(N,)`` of the test set.
        num_classes: Number of classes of the task.
        metric: What is measured.
    """
    held, counts = np.unique(np.asarray(labels), return_counts=True)
    shares = np.zeros(num_classes)
    shares[held] = counts / counts.sum()
    true, guessed = np.repeat(held, num_classes), np.tile(np.arange(num_classes), len(held))
    if not metric.reads_classes:
        read = metric.read(held, np.tile(shares, (len(held), 1)))
        score = metric.scores(counts[None, :].astype(float), held, read)
        return Guess("the shares of the classes for every example", float(score[0]))
    by_share = np.argsort(-shares, kind="stable")
    if metric.class_index is None:
        always = {"the largest": by_share[0], "the smallest": by_share[-1]}
    else:
        always, others = {"that": metric.class_index}, by_share[by_share != metric.class_index]
        if len(others):
            always["the largest other"] = others[0]
    ways = {f"always {which} class": np.eye(num_classes)[index] for which, index in always.items()}
    ways |= {"every class equally often": np.full(num_classes, 1 / num_classes), "classes by their shares": shares}
    guesses = []
    for how, chances in ways.items():
        score = metric.scores(np.outer(counts, chances).reshape(1, -1), true, guessed)
        guesses.append(Guess(how, float(score[0])))
    sign = 1 if metric.mode == "max" else -1
    return max(guesses, key=lambda guess: sign * round(guess.score, 9))


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


def against_guessing(row: TrialRow, repeats: Sequence[TrialRow], num_classes: int | None) -> AgainstGuessing | None:
    """Return what a trial has over guessing; None where its score or its test set is not known.

    Args:
        row: The trial, or its means over seeds.
        repeats: The trials of each seed that ``row`` is the mean of; empty where it is one trial.
        num_classes: Classes of the task; None: the highest class index met, plus one.
    """
    if row.test_score is None or row.test_labels is None or len(row.test_labels) == 0:
        return None
    predictions = [one.test_predictions for one in (repeats or [row]) if one.test_predictions is not None]
    classes = (row.test_labels, *(predictions if row.metric.reads_classes else ()))
    num_classes = num_classes or 1 + max(int(np.max(found)) for found in classes)
    guess = best_guess(row.test_labels, num_classes, row.metric)
    if len(predictions) < max(1, len(repeats)):
        return AgainstGuessing(guess, row.test_score, None, row.metric)
    interval = score_interval(row.test_labels, predictions, metric=row.metric, groups=row.test_groups)
    return AgainstGuessing(guess, interval.difference, interval, row.metric)
