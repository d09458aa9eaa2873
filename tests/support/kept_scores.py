"""The scores of a run again, from the predictions that it kept."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from sklearn.metrics import f1_score


def assert_scores_are_those_of_the_predictions(metrics: Mapping[str, float], predictions: Path) -> None:
    """Compare accuracy and macro-F1 of both splits with those of ``predictions.npz``; labels that are absent score 0.

    Args:
        metrics: A finished run's, with ``final/…``.
        predictions: Its file.
    """
    with np.load(predictions, allow_pickle=False) as kept:
        for split in ("validation", "test"):
            labels, predicted = kept[f"{split}_labels"], kept[f"{split}_probabilities"].argmax(axis=1)
            f1 = f1_score(labels, predicted, labels=np.unique(labels), average="macro", zero_division=0)
            assert abs(metrics[f"final/{split}_f1_macro"] - f1) < 1e-9, (split, f1)
            accuracy = (labels == predicted).mean()
            assert abs(metrics[f"final/{split}_accuracy"] - accuracy) < 1e-9, (split, accuracy)
