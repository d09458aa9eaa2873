"""Metrics of a classifier: one entry of ``MEASURES`` each, which says all that is known of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Mode = Literal["max", "min"]
"""Direction in which a metric is better."""

_SMALLEST = float(np.finfo(np.float64).eps)
"""Probabilities below it count as it, so that one certain mistake does not make a loss infinite; scikit-learn's."""

Scores = Callable[[NDArray[np.float64], NDArray[Any], NDArray[Any]], NDArray[np.float64]]
"""From weights ``(R, N)``, what is true and what was predicted to scores."""


@dataclass(frozen=True)
class Measure:
    """A way to score predictions.

    Args:
        words: Name in a sentence.
        reads: What it takes of predictions: the class of each example, the probabilities of all classes, or the loss of
            each example.
        scores: Of a measure over all examples from class indices ``(N,)`` and what it reads ``(N,)`` to ``(R,)``; of
            one per class from whether examples are of each of K classes ``(N, K)``, and whether they were predicted
            to be, or how probable that was, ``(N, K)``, to ``(R, K)``.
        per_class: Whether it is one, of which ``…_macro`` is the mean over classes.
        mode: Direction in which it is better.
        most: The largest value that is possible; the smallest is 0.
    """

    words: str
    reads: Literal["classes", "probabilities", "losses"]
    scores: Scores
    per_class: bool = True
    mode: Mode = "max"
    most: float = 1.0


def _mean_loss(weights: NDArray[np.float64], labels: NDArray[Any], losses: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(weights @ losses / weights.sum(axis=1))


def _accuracy(weights: NDArray[np.float64], labels: NDArray[Any], predicted: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(weights @ (labels == predicted).astype(np.float64) / weights.sum(axis=1))


def _precision(weights: NDArray[np.float64], labelled: NDArray[Any], predicted: NDArray[Any]) -> NDArray[np.float64]:
    return _share(_hits(weights, labelled, predicted), weights @ predicted.astype(np.float64))


def _recall(weights: NDArray[np.float64], labelled: NDArray[Any], predicted: NDArray[Any]) -> NDArray[np.float64]:
    return _share(_hits(weights, labelled, predicted), weights @ labelled.astype(np.float64))


def _f1(weights: NDArray[np.float64], labelled: NDArray[Any], predicted: NDArray[Any]) -> NDArray[np.float64]:
    return _share(_hits(weights, labelled, predicted), weights @ (labelled.astype(np.float64) + predicted) / 2)


def _hits(weights: NDArray[np.float64], labelled: NDArray[Any], predicted: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(weights @ (labelled & predicted).astype(np.float64))


def _share(hits: NDArray[np.float64], of: NDArray[np.float64]) -> NDArray[np.float64]:
    """``hits / of``; 0 where there is nothing to divide by, where there are no hits either."""
    return np.asarray(hits / np.where(of > 0, of, 1.0))


def _average_precisions(
    weights: NDArray[np.float64], labelled: NDArray[Any], probabilities: NDArray[Any]
) -> NDArray[np.float64]:
    """The area under the precision-recall curve of each class, as scikit-learn's ``average_precision_score``."""
    areas = []
    for is_class, scores in zip(labelled.T, probabilities.T, strict=True):
        order = np.argsort(-scores, kind="stable")
        # Examples of one score are told apart by no threshold.
        last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
        counted = np.cumsum(weights[:, order], axis=1)[:, last]
        hits = np.cumsum(weights[:, order] * is_class[order], axis=1)[:, last]
        gained = np.diff(hits, axis=1, prepend=0.0)
        areas.append(_share((_share(hits, counted) * gained).sum(axis=1), hits[:, -1]))
    return np.stack(areas, axis=1)


MEASURES: Mapping[str, Measure] = {
    "loss": Measure("loss", "losses", _mean_loss, per_class=False, mode="min", most=np.inf),
    "accuracy": Measure("accuracy", "classes", _accuracy, per_class=False),
    "precision": Measure("precision", "classes", _precision),
    "recall": Measure("recall", "classes", _recall),
    "f1": Measure("F1", "classes", _f1),
    "auprc": Measure("AU-PRC", "probabilities", _average_precisions),
}
"""Name -> measure; one per class is a metric ``…_macro``, and one of each class, such as ``f1/clarity``."""

OVERALL = tuple(f"{name}_macro" if measure.per_class else name for name, measure in MEASURES.items())
PER_CLASS = tuple(name for name, measure in MEASURES.items() if measure.per_class)


_SPEEDS = ("tokens_per_s", "mfu", "lowest_active_block")
"""Costs of which more is better."""


def better(metric: str) -> Mode:
    """Return whether more or less of a metric is better: less of the loss, and of all costs but a few.

    Args:
        metric: Of an evaluation (``loss``, ``eval/loss``) or of a run (``cost/…``).
    """
    if metric.startswith("cost/"):
        return "max" if metric.removeprefix("cost/").removeprefix("mean_") in _SPEEDS else "min"
    measure = MEASURES.get(_measure_name(metric.removeprefix("eval/")))
    return "max" if measure is None else measure.mode


def _measure_name(metric: str) -> str:
    return metric.partition("/")[0].removesuffix("_macro")


@dataclass(frozen=True)
class Metric:
    """One of the metrics of an evaluation.

    Args:
        name: ``f1_macro``, ``accuracy``, ``loss``, …, or of one class ``f1/clarity``.
        class_index: The index of that class; None for what is over all classes.

    Example:
        >>> from irtune.analysis.metrics import Metric
        >>> accuracy = Metric.named("accuracy", ["clarity", "style"])
        >>> labels, probabilities = np.array([0, 1]), np.array([[0.9, 0.1], [0.6, 0.4]])
        >>> accuracy.score(labels, accuracy.read(labels, probabilities))
        0.5
        >>> Metric.named("f1/style", ["clarity", "style"]).words
        'F1 of style'
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
    def measure(self) -> Measure:
        """The entry of ``MEASURES`` that scores it."""
        return MEASURES[_measure_name(self.name)]

    @property
    def mode(self) -> Mode:
        """Direction in which it is better."""
        return self.measure.mode

    @property
    def is_macro(self) -> bool:
        """True for means over the classes that a split has."""
        return self.measure.per_class and self.class_index is None

    @property
    def words(self) -> str:
        """Name for a sentence: ``macro-F1``, ``accuracy``, ``F1 of clarity``."""
        if self.is_macro:
            return f"macro-{self.measure.words}"
        return self.measure.words if self.class_index is None else f"{self.measure.words} of {self._class}"

    @property
    def short(self) -> str:
        """Name for the head of a column: ``F1``, ``accuracy``, ``F1 clarity``."""
        return self.measure.words if self.class_index is None else f"{self.measure.words} {self._class}"

    @property
    def reads_classes(self) -> bool:
        """True where ``read`` gives predicted classes."""
        return self.measure.reads == "classes"

    def read(self, labels: NDArray[Any], probabilities: NDArray[Any]) -> NDArray[Any]:
        """Return what of a model's predictions the metric is computed from, which is all that need be kept.

        Args:
            labels: Class indices ``(N,)``.
            probabilities: ``(N, C)``.

        Returns:
            The loss of each example ``(N,)``; for AU-PRC the probabilities ``(N, C)``, or of one class ``(N,)``; else
            the class index predicted for each example ``(N,)``.
        """
        found = _read(self.measure, labels, probabilities)
        return found if found.ndim == 1 or self.class_index is None else found[:, self.class_index]

    def scores(self, weights: NDArray[np.float64], labels: NDArray[Any], read: NDArray[Any]) -> NDArray[np.float64]:
        """Return the metric ``(R,)`` of examples that count ``weights`` times.

        Macro metrics are over the classes of ``labels``, also where a resample lacks one, which then scores 0.

        Args:
            weights: ``(R, N)``, a line for each resample.
            labels: Class indices ``(N,)``.
            read: What ``read`` gives.
        """
        if not self.measure.per_class:
            return self.measure.scores(weights, labels, read)
        classes = np.unique(labels) if self.class_index is None else np.array([self.class_index])
        return np.asarray(_of_classes(self.measure, weights, labels, read, classes).mean(axis=1))

    def score(self, labels: NDArray[Any], read: NDArray[Any]) -> float:
        """Return the metric of examples that count once each."""
        return float(self.scores(np.ones((1, len(labels))), labels, read)[0])

    @property
    def _class(self) -> str:
        return self.name.partition("/")[2]


MACRO_F1 = Metric()
"""What decides unless the user says otherwise."""


def metric_names(class_names: Sequence[str]) -> list[str]:
    """Every metric that an evaluation gives.

    Args:
        class_names: Of the classes that the split has, as metrics call them.
    """
    return [*OVERALL, *(f"{measure}/{name}" for measure in PER_CLASS for name in class_names)]


def evaluation(labels: NDArray[Any], probabilities: NDArray[Any], class_names: Sequence[str]) -> dict[str, float]:
    """Every metric of a model's predictions, by name.

    Macro scores are means over the classes that ``labels`` has, for every model the same. That is scikit-learn's
    ``average="macro"`` as long as only such classes are predicted. Where another one is, scikit-learn also counts that
    class, with a score of 0; here it costs what its examples were.

    Args:
        labels: ``(N,)`` class indices.
        probabilities: ``(N, C)``, rows adding up to 1.
        class_names: ``(C,)``, as metrics call the classes.

    Returns:
        Metric name -> value; ``auprc`` is the average precision. A class that ``labels`` lacks has none of its own.

    Source: the metrics of Liu & Litman (arXiv 2510.00268).
    """
    held, once = np.unique(labels), np.ones((1, len(labels)))
    found: dict[str, float] = {}
    for name, measure in MEASURES.items():
        read = _read(measure, labels, probabilities)
        if not measure.per_class:
            found[name] = float(measure.scores(once, labels, read)[0])
            continue
        scores = _of_classes(measure, once, labels, read, held)[0]
        found[f"{name}_macro"] = float(scores.mean())
        found |= {f"{name}/{class_names[index]}": float(score) for index, score in zip(held, scores, strict=True)}
    return found


def _read(measure: Measure, labels: NDArray[Any], probabilities: NDArray[Any]) -> NDArray[Any]:
    if measure.reads == "probabilities":
        return probabilities
    if measure.reads == "classes":
        return np.asarray(probabilities.argmax(axis=1))
    return np.asarray(-np.log(np.maximum(probabilities[np.arange(len(labels)), labels], _SMALLEST)))


def _of_classes(
    measure: Measure, weights: NDArray[np.float64], labels: NDArray[Any], read: NDArray[Any], classes: NDArray[Any]
) -> NDArray[np.float64]:
    """Scores ``(R, K)`` of each of ``classes`` ``(K,)``."""
    if measure.reads == "classes":
        found = read[:, None] == classes
    else:
        found = read[:, None] if read.ndim == 1 else read[:, classes]
    return measure.scores(weights, labels[:, None] == classes, found)
