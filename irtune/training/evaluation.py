"""Metrics by the labels of a data set, whose names are not all fit for a metric's name."""

from collections.abc import Collection, Sequence

from irtune.analysis import metrics
from irtune.data.dataset import LabelledDataset, Split
from irtune.data.label_names import metric_labels
from irtune.plugins import nearest


def metric_names(labels: Sequence[str], held: Collection[str] | None = None) -> list[str]:
    """Every metric that an evaluation gives.

    Args:
        labels: ``(C,)`` of the data set.
        held: Those that the split has, of which alone there are metrics; None: all.
    """
    names = zip(labels, metric_labels(labels), strict=True)
    return metrics.metric_names([name for label, name in names if held is None or label in held])


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
