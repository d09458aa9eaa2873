"""What a classifier is scored by."""

from collections.abc import Collection, Sequence

import numpy as np

from irtune.analysis.metrics import OVERALL, PER_CLASS
from irtune.data.dataset import LabelledDataset, Split
from irtune.data.label_names import metric_labels
from irtune.plugins import nearest


def metric_names(class_names: Sequence[str], held: Collection[str] | None = None) -> list[str]:
    """Every metric that an evaluation gives.

    Args:
        class_names: ``(C,)``.
        held: The classes that the split has, of which alone there are metrics; None: all.
    """
    names = zip(class_names, metric_labels(class_names), strict=True)
    shown = [name for label, name in names if held is None or label in held]
    return [*OVERALL, *(f"{measure}/{name}" for measure in PER_CLASS for name in shown)]


def check_metric(name: str, dataset: LabelledDataset) -> None:
    """Refuse a metric that a data set has not, or has not in the splits that it decides by.

    Raises:
        ValueError: If so, by the setting's key.
    """
    known = metric_names(dataset.labels)
    if name not in known:
        raise ValueError(f"metric: unknown metric {name!r}: {nearest(name, known)}")
    splits: tuple[Split, ...] = ("validation", "test")
    for split in splits:
        held = {example.label for example in dataset.splits[split]}
        if name not in metric_names(dataset.labels, held):
            raise ValueError(
                f"metric: {name} is of a class that the {split} split has no example of; choose another metric, or "
                f"give {split} examples of that class"
            )


def classification_metrics(
    labels: np.ndarray, probabilities: np.ndarray, class_names: Sequence[str]
) -> dict[str, float]:
    """Accuracy, macro and per-class precision, recall and F1, area under the precision-recall curve, and loss.

    Macro scores are means over the classes that ``labels`` has, for every model the same. That is scikit-learn's
    ``average="macro"`` as long as only such classes are predicted. Where another one is, scikit-learn also counts that
    class, with a score of 0; here it costs what its examples were.

    Args:
        labels: ``(N,)`` class indices.
        probabilities: ``(N, C)``, rows adding up to 1.
        class_names: ``(C,)``.

    Returns:
        Metric name -> value; ``auprc`` is the average precision. A class that ``labels`` lacks has none of its own.

    Source: the metrics of Liu & Litman (arXiv 2510.00268).
    """
    # It takes seconds to import, and much that imports this file scores nothing.
    from sklearn.metrics import accuracy_score, average_precision_score, log_loss, precision_recall_fscore_support

    held, predicted = np.unique(labels), probabilities.argmax(axis=1)
    precision, recall, f1, _ = precision_recall_fscore_support(labels, predicted, labels=held, zero_division=0)
    auprc = [average_precision_score(labels == index, probabilities[:, index]) for index in held]
    scores = dict(zip(PER_CLASS, (precision, recall, f1, auprc), strict=True))
    names = metric_labels(class_names)
    return {
        "loss": float(log_loss(labels, probabilities, labels=range(len(names)))),
        "accuracy": float(accuracy_score(labels, predicted)),
        **{f"{measure}_macro": float(np.mean(scores[measure])) for measure in PER_CLASS},
        **{
            f"{measure}/{names[index]}": float(value)
            for measure in PER_CLASS
            for index, value in zip(held, scores[measure], strict=True)
        },
    }
