"""Scores of each class, by cell."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from irtune.analysis.ablation.cell_results import CellResult
from irtune.analysis.metrics import Metric
from irtune.analysis.trials import TrialRow


def per_class(results: Sequence[CellResult], class_names: Sequence[str]) -> dict[str, list[str]]:
    """F1 on test of every class, mean over seeds, by cell; nothing where a seed has no predictions."""
    found = {}
    for one in results:
        scores = [_f1_of_classes(row, class_names) for row in one.rows]
        kept = [each for each in scores if each is not None]
        if kept and len(kept) == len(one.rows):
            found[one.cell.configuration] = [f"{value:.3f}" for value in np.mean(kept, axis=0)]
    return found


def _f1_of_classes(row: TrialRow, class_names: Sequence[str]) -> NDArray[np.float64] | None:
    labels, predictions = row.test_labels, row.test_classes
    if labels is None or predictions is None:
        return None
    weights = np.ones((1, len(labels)))
    metrics = [Metric.named(f"f1/{name}", class_names) for name in class_names]
    return np.array([metric.scores(weights, labels, predictions)[0] for metric in metrics])
