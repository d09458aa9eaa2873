"""The scores of a classifier, against numbers worked out by hand."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score, precision_score, recall_score

from irtune.analysis.metrics import better, evaluation
from irtune.data.label_names import metric_labels
from irtune.training.evaluation import metric_names

CLASSES = ("clarity", "fluency", "style")
LABELS = np.array([0, 0, 1, 1, 1])
# Predicted: 0, 1, 1, 2, 1. Nothing is of class style, which is predicted once.
PROBABILITIES = np.array([[0.7, 0.2, 0.1], [0.4, 0.5, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4], [0.2, 0.7, 0.1]])

KNOWN = {
    "loss": -sum(map(math.log, (0.7, 0.4, 0.8, 0.3, 0.7))) / 5,
    "accuracy": 3 / 5,
    "precision/clarity": 1,
    "recall/clarity": 1 / 2,
    "f1/clarity": 2 / 3,
    "precision/fluency": 2 / 3,
    "recall/fluency": 2 / 3,
    "f1/fluency": 2 / 3,
    # Over the two classes that occur.
    "precision_macro": 5 / 6,
    "recall_macro": 7 / 12,
    "f1_macro": 2 / 3,
    # Ranked by the probability of clarity, its two examples come first; by that of fluency, its three examples
    # come first, second and fourth: (1/1 + 2/2 + 3/4) / 3.
    "auprc/clarity": 1,
    "auprc/fluency": 11 / 12,
    "auprc_macro": 23 / 24,
}


def test_known_answer_with_a_class_that_occurs_nowhere():
    metrics = evaluation(LABELS, PROBABILITIES, CLASSES)
    assert {name: metrics[name] for name in KNOWN} == pytest.approx(KNOWN)
    assert not [name for name in metrics if name.endswith("/style")]


def test_a_class_that_is_never_predicted_scores_nothing_and_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metrics = evaluation(np.array([0, 1]), np.array([[0.9, 0.1], [0.6, 0.4]]), ("a", "b"))
    assert metrics["f1/b"] == metrics["precision/b"] == 0
    assert metrics["f1_macro"] == pytest.approx((2 / 3) / 2)
    assert metrics["auprc/b"] == 1


def test_certain_and_right_is_a_score_of_one():
    metrics = evaluation(np.array([0, 1, 2]), np.eye(3), CLASSES)
    assert metrics.pop("loss") == pytest.approx(0, abs=1e-9)
    assert {value for name, value in metrics.items() if better(name) == "max"} == {1.0}


def test_certain_and_wrong_still_has_a_finite_loss():
    metrics = evaluation(np.array([0, 1]), np.array([[0.0, 1.0], [0.0, 1.0]]), ("a", "b"))
    assert math.isfinite(metrics["loss"])
    assert metrics["loss"] > 10


def test_the_names_of_metrics_are_known_before_there_are_any():
    assert set(evaluation(np.array([0, 1, 2]), np.eye(3), CLASSES)) == set(metric_names(CLASSES))
    found = set(evaluation(LABELS, PROBABILITIES, CLASSES))
    assert found == set(metric_names(CLASSES, {"clarity", "fluency"}))
    missing = set(metric_names(CLASSES)) - found
    assert {"precision/style", "recall/style", "f1/style", "auprc/style"} <= missing
    assert all(name.endswith("/style") for name in missing)


@st.composite
def scored(draw):
    """Labels of some of five classes, and predictions of any of them."""
    size = draw(st.integers(1, 30))
    labels = draw(
        st.lists(st.sampled_from(sorted(draw(st.sets(st.integers(0, 4), min_size=1)))), min_size=size, max_size=size)
    )
    predicted = draw(st.lists(st.integers(0, 4), min_size=size, max_size=size))
    return np.array(labels), np.array(predicted)


@given(scored())
def test_macro_scores_are_scikit_learn_s_over_the_classes_that_occur(arrays):
    labels, predicted = arrays
    metrics = evaluation(labels, np.eye(5)[predicted], tuple("abcde"))
    for measure, score in {"f1": f1_score, "precision": precision_score, "recall": recall_score}.items():
        arguments = {"average": "macro", "zero_division": 0}
        assert metrics[f"{measure}_macro"] == pytest.approx(
            score(labels, predicted, labels=np.unique(labels), **arguments)
        )
        if set(predicted) <= set(labels):
            assert metrics[f"{measure}_macro"] == pytest.approx(score(labels, predicted, **arguments))


def test_a_class_that_occurs_nowhere_caps_nothing():
    metrics = evaluation(np.array([0, 1, 0]), np.eye(4)[[0, 1, 0]], tuple("abcd"))
    assert metrics["f1_macro"] == metrics["auprc_macro"] == 1.0


def test_labels_that_would_share_a_metric_have_one_each():
    metrics = evaluation(np.array([0, 1, 1]), np.eye(2)[[0, 1, 0]], metric_labels(("style?", "style!")))
    assert metrics["recall/0 style_"] == 1.0
    assert metrics["recall/1 style_"] == 0.5
