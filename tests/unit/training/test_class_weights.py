"""Weights of classes in the training loss, against scikit-learn's and PyTorch's."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight

from irtune.training.class_weights import check_class_weights, weighted_loss, weights_of_classes

LABELS = ("clarity", "fluency", "style")
CLASSES = np.array([0] * 6 + [1] * 3 + [2])


def test_none_weights_nothing():
    assert weights_of_classes("none", LABELS, CLASSES) is None


@given(st.lists(st.integers(0, 2), min_size=1, max_size=50))
def test_balanced_is_scikit_learn_s(classes):
    classes = np.array(classes)
    present = np.unique(classes)
    found = weights_of_classes("balanced", LABELS, classes)
    np.testing.assert_allclose(found[present], compute_class_weight("balanced", classes=present, y=classes))


def test_known_answers():
    assert weights_of_classes("balanced", LABELS, CLASSES) == pytest.approx([10 / 18, 10 / 9, 10 / 3])
    # Their mean over the examples is (6 · 1 + 3 · 1 + 1 · 3) / 10 = 1.2, and ratios are kept.
    assert weights_of_classes({"style": 3}, LABELS, CLASSES) == pytest.approx([1 / 1.2, 1 / 1.2, 3 / 1.2])
    same = [weights_of_classes({label: 7.0 * w for label, w in zip(LABELS, (1, 1, 3), strict=True)}, LABELS, CLASSES)]
    assert same[0] == pytest.approx([1 / 1.2, 1 / 1.2, 3 / 1.2])


@pytest.mark.parametrize("setting", ["balanced", {"clarity": 0.5, "style": 9.0}])
def test_over_the_training_split_the_loss_is_pytorch_s(setting):
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(10, 3, generator=generator), torch.from_numpy(CLASSES)
    weights = torch.tensor(weights_of_classes(setting, LABELS, CLASSES), dtype=torch.float32)
    expected = torch.nn.CrossEntropyLoss(weight=weights)(logits, labels)
    assert weighted_loss(logits, labels, weights) == pytest.approx(float(expected))
    # However the examples are dealt out over micro-batches and ranks, down to one each.
    for size in (5, 2, 1):
        parts = [weighted_loss(*part, weights) for part in zip(logits.split(size), labels.split(size), strict=True)]
        assert torch.stack(parts).mean() == pytest.approx(float(expected))


def test_a_loss_in_half_precision_is_computed_in_full():
    loss = weighted_loss(torch.zeros(2, 3, dtype=torch.bfloat16), torch.tensor([0, 2]), torch.ones(3))
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(np.log(3))


def test_labels_that_the_data_lacks_are_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"training\.class_weights\.fluencey.*did you mean 'fluency'") as error:
        check_class_weights({"fluencey": 2.0, "x": 1.0, "style": 1.0}, LABELS)
    assert "training.class_weights.x: unknown label 'x'" in str(error.value)
    with pytest.raises(ValueError, match=r"training\.class_weights\.x"):
        weights_of_classes({"x": 1.0}, LABELS, CLASSES)


def test_labels_without_a_weight_are_said():
    assert "clarity and fluency: 1.0" in "".join(check_class_weights({"style": 2.0}, LABELS))
    assert check_class_weights(dict.fromkeys(LABELS, 2.0), LABELS) == check_class_weights("balanced", LABELS) == ()


def test_a_class_without_training_examples_disturbs_nothing():
    found = weights_of_classes("balanced", LABELS, np.array([0, 0, 0, 2]))
    assert found[[0, 2]] == pytest.approx([4 / 6, 4 / 2])
    assert np.isfinite(found).all()
    assert Counter(np.isfinite(weights_of_classes({"fluency": 5.0}, LABELS, np.array([0, 2]))))[True] == 3
