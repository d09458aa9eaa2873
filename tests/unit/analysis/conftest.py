from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from irtune.analysis.trials import TrialRow

Trial = Callable[..., TrialRow]

LABELS = np.tile(np.arange(4), 100)


def predictions(num_wrong: int) -> np.ndarray:
    """The labels with the first ``num_wrong`` of them confused with the next class."""
    found = LABELS.copy()
    found[:num_wrong] = (found[:num_wrong] + 1) % 4
    return found


@pytest.fixture
def trial() -> Trial:
    """A finished trial with every measurement, of which any can be replaced; accuracy is 1 - num_wrong / 400."""

    def build(strategy: str = "top_k", num_wrong: int = 100, **replaced: Any) -> TrialRow:
        active = 12.0 if strategy == "all" else 3.0
        # Errors are spread evenly over the classes, so macro-F1 equals accuracy where num_wrong is a multiple of 4.
        accuracy = 1 - num_wrong / len(LABELS)
        values: dict[str, Any] = {
            "trial_id": f"id-{strategy}",
            "name": f"trial-{strategy}",
            "strategy": strategy,
            "status": "finished",
            "num_blocks": 12,
            "mean_active": active,
            "k": None if strategy == "all" else 3,
            "reselect_every": 20,
            "within_block": None if strategy == "all" else "l2",
            "validation_score": accuracy,
            "test_score": accuracy,
            "train_loss": 0.4567,
            "seconds": 1000.0 if strategy == "all" else 700.0,
            "flops": 4.0e15 if strategy == "all" else 2.5e15,
            "trainable_share": active / 12,
            "mean_lowest_active": 0.0 if strategy == "all" else 4.5,
            "peak_memory_bytes": 12.5 * 2**30,
            "seed": 171,
            "test_labels": LABELS,
            "test_predictions": predictions(num_wrong),
            "test_classes": predictions(num_wrong),
        }
        return TrialRow(**{**values, **replaced})

    return build
