"""Scores of each class, by cell."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from irtune.analysis.ablation.cell_results import CellResult
from irtune.analysis.metrics import Metric
from irtune.analysis.trials import TrialRow


def per_class(results: Sequence[CellResult], class_names: Sequence[str]) -> dict[str, list[str]]:
    """F1 on test of every class, mean over seeds, by cell; nothing where a seed has no predictions."""
    means = {one.cell.configuration: _mean_f1(one, class_names) for one in results}
    return {name: [f"{value:.3f}" for value in mean] for name, mean in means.items() if mean is not None}


def class_frame(results: Sequence[CellResult], class_names: Mapping[str | None, Sequence[str]]) -> pd.DataFrame:
    """The same without rounding, a line for each class of each cell.

    Args:
        results: All cells.
        class_names: Of the task, by corpus.
    """
    return pd.DataFrame(
        [
            {"cell": one.cell.name, "corpus": one.cell.corpus, "class": name, "f1": float(value)}
            for one in results
            if (mean := _mean_f1(one, class_names[one.cell.corpus])) is not None
            for name, value in zip(class_names[one.cell.corpus], mean, strict=True)
        ]
    )


def _mean_f1(one: CellResult, class_names: Sequence[str]) -> NDArray[np.float64] | None:
    scores = [_f1_of_classes(row, class_names) for row in one.rows]
    kept = [each for each in scores if each is not None]
    return np.mean(kept, axis=0) if kept and len(kept) == len(one.rows) else None


def _f1_of_classes(row: TrialRow, class_names: Sequence[str]) -> NDArray[np.float64] | None:
    labels, predictions = row.test_labels, row.test_classes
    if labels is None or predictions is None:
        return None
    weights = np.ones((1, len(labels)))
    metrics = [Metric.named(f"f1/{name}", class_names) for name in class_names]
    return np.array([metric.scores(weights, labels, predictions)[0] for metric in metrics])
