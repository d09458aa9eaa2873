"""How much the examples of each class count in the training loss."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from irtune.data.label_names import some
from irtune.plugins import nearest

if TYPE_CHECKING:
    import torch

ClassWeights = str | Mapping[str, float]
"""``none``, ``balanced``, or a weight by label."""


def check_class_weights(setting: ClassWeights, labels: Sequence[str]) -> tuple[str, ...]:
    """Check that weights are of labels that the data has; returns what to know of the others.

    Raises:
        ValueError: With every unknown label, by dotted key.
    """
    if isinstance(setting, str):
        return ()
    unknown = [name for name in setting if name not in labels]
    if unknown:
        raise ValueError(
            "\n".join(
                f"training.class_weights.{name}: unknown label {name!r}: {nearest(name, labels)}" for name in unknown
            )
        )
    without = [label for label in labels if label not in setting]
    return (f"training.class_weights says nothing of {some(without)}: 1.0 is taken",) if without else ()


def weights_of_classes(setting: ClassWeights, labels: Sequence[str], classes: np.ndarray) -> np.ndarray | None:
    """Weights ``(C,)`` whose mean over the training examples is 1; None where all count alike.

    ``balanced`` is N / (C n_c), with C the number of classes that the training split has, which is scikit-learn's
    ``compute_class_weight("balanced")``. Of a mapping the ratios count; a label that it leaves out has 1.0 in it.

    Args:
        setting: What is asked for.
        labels: All labels, in the order of their class indices.
        classes: Class index of each training example ``(N,)``.

    Raises:
        ValueError: If a label is unknown.
    """
    check_class_weights(setting, labels)
    if setting == "none":
        return None
    counts = np.bincount(classes, minlength=len(labels))
    if isinstance(setting, str):
        weights = np.where(counts > 0, 1.0 / np.maximum(counts, 1), 1.0)
    else:
        weights = np.array([float(setting.get(label, 1.0)) for label in labels])
    return np.asarray(weights * counts.sum() / (weights * counts).sum())


def weighted_loss(logits: "torch.Tensor", labels: "torch.Tensor", weights: "torch.Tensor") -> "torch.Tensor":
    """Mean ``()`` over a batch of each example's cross-entropy times its class's weight, in fp32.

    PyTorch's ``CrossEntropyLoss(weight=…)`` divides by the sum of the weights in the batch instead of by its size, so
    that one example's share depends on those beside it, and a micro-batch of one example is not weighted at all. Here
    the gradient of a step is the same however its examples are dealt out over micro-batches and ranks. As the weights
    have mean 1 over the training split, both are the same over the whole of it.

    Args:
        logits: ``(B, C)``.
        labels: Class indices ``(B,)``.
        weights: ``(C,)``.
    """
    # Weights are checked where nothing else needs torch.
    import torch

    losses = torch.nn.functional.cross_entropy(logits.float(), labels, reduction="none")
    return (losses * weights[labels]).mean()
