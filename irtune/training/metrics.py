"""What a classifier is scored by."""

from collections.abc import Sequence

import numpy as np

OVERALL = ("loss", "accuracy", "precision_macro", "recall_macro", "f1_macro", "auprc_macro")
PER_CLASS = ("precision", "recall", "f1", "auprc")


def metric_names(class_names: Sequence[str]) -> list[str]:
    """Every metric that an evaluation may give."""
    return [*OVERALL, *(f"{measure}/{name}" for measure in PER_CLASS for name in class_names)]


def classification_metrics(
    labels: np.ndarray, probabilities: np.ndarray, class_names: Sequence[str]
) -> dict[str, float]:
    """Accuracy, macro and per-class precision, recall and F1, area under the precision-recall curve, and loss.

    Args:
        labels: ``(N,)`` class indices.
        probabilities: ``(N, C)``, rows adding up to 1.
        class_names: ``(C,)``.

    Returns:
        Metric name -> value; ``auprc`` is the average precision, macro-averaged over the classes that occur. A class
        that occurs nowhere has F1 0, and has no average precision.

    Source: the metrics of Liu & Litman (arXiv 2510.00268).
    """
    # It takes seconds to import, and much that imports this file scores nothing.
    from sklearn.metrics import accuracy_score, average_precision_score, log_loss, precision_recall_fscore_support

    classes = range(len(class_names))
    predicted = probabilities.argmax(axis=1)
    precision, recall, f1, _ = precision_recall_fscore_support(labels, predicted, labels=classes, zero_division=0)
    present = [index for index in classes if (labels == index).any()]
    auprc = {index: average_precision_score(labels == index, probabilities[:, index]) for index in present}
    metrics = {
        "loss": float(log_loss(labels, probabilities, labels=list(classes))),
        "accuracy": float(accuracy_score(labels, predicted)),
        "precision_macro": float(precision.mean()),
        "recall_macro": float(recall.mean()),
        "f1_macro": float(f1.mean()),
        "auprc_macro": float(np.mean(list(auprc.values()))),
    }
    for index, name in enumerate(class_names):
        metrics |= {
            f"precision/{name}": float(precision[index]),
            f"recall/{name}": float(recall[index]),
            f"f1/{name}": float(f1[index]),
        }
        if index in auprc:
            metrics[f"auprc/{name}"] = float(auprc[index])
    return metrics
