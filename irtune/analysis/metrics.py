"""Metrics of a classifier: their names, the direction that is better, and scores of weighted examples."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Mode = Literal["max", "min"]
"""Direction in which a metric is better."""

OVERALL = ("loss", "accuracy", "precision_macro", "recall_macro", "f1_macro", "auprc_macro")
PER_CLASS = ("precision", "recall", "f1", "auprc")

_WORDS = {"precision": "precision", "recall": "recall", "f1": "F1", "auprc": "AU-PRC"}
_SMALLEST = 1e-12
"""Probabilities below it count as it, so that one certain mistake does not make a loss infinite."""


def better(metric: str) -> Mode:
    """Return whether more or less of a metric is better: less of the loss, and of all costs but two.

    Args:
        metric: Of an evaluation (``loss``, ``eval/loss``) or of a run (``cost/…``).
    """
    is_speed = metric.rpartition("/")[2].removeprefix("mean_") in ("tokens_per_s", "lowest_active_block")
    return "min" if metric in ("loss", "eval/loss") or (metric.startswith("cost/") and not is_speed) else "max"


@dataclass(frozen=True)
class Metric:
    """One of the metrics of an evaluation.

    Args:
        name: ``f1_macro``, ``accuracy``, ``loss``, …, or of one class ``f1/clarity``.
        class_index: The index of that class; None for what is over all classes.
    """

    name: str = "f1_macro"
    class_index: int | None = None

    @classmethod
    def named(cls, name: str, class_names: Sequence[str]) -> "Metric":
        """Return the metric of this name.

        Args:
            name: Of an evaluation's metric.
            class_names: ``(C,)``, as metrics call the classes.

        Raises:
            ValueError: If there is none of this name.
        """
        measure, _, label = name.partition("/")
        if name in OVERALL:
            return cls(name)
        if measure in PER_CLASS and label in class_names:
            return cls(name, list(class_names).index(label))
        raise ValueError(f"unknown metric {name!r}: one of {', '.join(OVERALL)}, or one of a class, such as f1/CLASS")

    @property
    def mode(self) -> Mode:
        """Direction in which it is better."""
        return better(self.name)

    @property
    def is_macro(self) -> bool:
        """True for means over the classes that a split has."""
        return self.name.endswith("_macro")

    @property
    def measure(self) -> str:
        """Measure without its classes: ``f1``, ``loss``, …."""
        return self.name.partition("/")[0].removesuffix("_macro")

    @property
    def words(self) -> str:
        """Name for a sentence: ``macro-F1``, ``accuracy``, ``F1 of clarity``."""
        word = _WORDS.get(self.measure, self.measure)
        if self.is_macro:
            return f"macro-{word}"
        return word if self.class_index is None else f"{word} of {self.name.partition('/')[2]}"

    @property
    def short(self) -> str:
        """Name for the head of a column: ``F1``, ``accuracy``, ``F1 clarity``."""
        word = _WORDS.get(self.measure, self.measure)
        return word if self.class_index is None else f"{word} {self.name.partition('/')[2]}"

    @property
    def most(self) -> float:
        """The largest value that is possible; the smallest is 0."""
        return np.inf if self.name == "loss" else 1.0

    def read(self, labels: NDArray[Any], probabilities: NDArray[Any]) -> NDArray[Any]:
        """Return what of a model's predictions the metric is computed from, which is all that need be kept.

        Args:
            labels: Class indices ``(N,)``.
            probabilities: ``(N, C)``.

        Returns:
            The loss of each example ``(N,)``; for AU-PRC the probabilities ``(N, C)``, or of one class ``(N,)``; else
            the class index predicted for each example ``(N,)``.
        """
        if self.measure == "loss":
            losses: NDArray[Any] = -np.log(np.maximum(probabilities[np.arange(len(labels)), labels], _SMALLEST))
            return losses
        if self.measure == "auprc":
            return probabilities if self.class_index is None else probabilities[:, self.class_index]
        return np.asarray(probabilities.argmax(axis=1))

    @property
    def reads_classes(self) -> bool:
        """True where ``read`` gives predicted classes."""
        return self.measure not in ("loss", "auprc")

    def scores(self, weights: NDArray[np.float64], labels: NDArray[Any], read: NDArray[Any]) -> NDArray[np.float64]:
        """Return the metric ``(R,)`` of examples that count ``weights`` times.

        Macro metrics are over the classes of ``labels``, also where a resample lacks one, which then scores 0.

        Args:
            weights: ``(R, N)``, a line for each resample.
            labels: Class indices ``(N,)``.
            read: What ``read`` gives.
        """
        if self.measure == "loss":
            return np.asarray(weights @ read / weights.sum(axis=1))
        if self.measure == "accuracy":
            return np.asarray(weights @ (labels == read).astype(np.float64) / weights.sum(axis=1))
        classes = np.unique(labels) if self.class_index is None else np.array([self.class_index])
        if self.measure == "auprc":
            columns = read[:, None] if read.ndim == 1 else read[:, classes]
            found = [average_precision(weights, labels == c, columns[:, i]) for i, c in enumerate(classes)]
            return np.asarray(np.mean(found, axis=0))
        labelled, predicted = labels[:, None] == classes, read[:, None] == classes
        hits = weights @ (labelled & predicted).astype(np.float64)
        denominators: dict[str, Callable[[], NDArray[Any]]] = {
            "f1": lambda: weights @ (labelled.astype(np.float64) + predicted) / 2,
            "precision": lambda: weights @ predicted.astype(np.float64),
            "recall": lambda: weights @ labelled.astype(np.float64),
        }
        # Where there is nothing to divide by there are no hits either, and the score is 0.
        below = denominators[self.measure]()
        return np.asarray((hits / np.where(below > 0, below, 1.0)).mean(axis=1), dtype=np.float64)

    def score(self, labels: NDArray[Any], read: NDArray[Any]) -> float:
        """Return the metric of examples that count once each."""
        return float(self.scores(np.ones((1, len(labels))), labels, read)[0])


MACRO_F1 = Metric()
"""What decides unless the user says otherwise."""


def average_precision(
    weights: NDArray[np.float64], is_class: NDArray[np.bool_], scores: NDArray[Any]
) -> NDArray[np.float64]:
    """Return the area under the precision-recall curve ``(R,)``, as scikit-learn's ``average_precision_score``.

    Args:
        weights: ``(R, N)``, how often each example counts.
        is_class: ``(N,)``.
        scores: ``(N,)``, the higher the more like the class.
    """
    order = np.argsort(-scores, kind="stable")
    # Examples of one score are told apart by no threshold.
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    counted = np.cumsum(weights[:, order], axis=1)[:, last]
    hits = np.cumsum(weights[:, order] * is_class[order], axis=1)[:, last]
    gained = np.diff(hits, axis=1, prepend=0.0)
    precision = hits / np.where(counted > 0, counted, 1.0)
    of_class = hits[:, -1]
    return np.asarray((precision * gained).sum(axis=1) / np.where(of_class > 0, of_class, 1.0))
