"""The metrics of weighted examples are those of scikit-learn, and of an evaluation."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, average_precision_score, log_loss, precision_recall_fscore_support

from irtune.analysis.guessing import best_guess
from irtune.analysis.metrics import OVERALL, PER_CLASS, Metric, better, evaluation
from irtune.analysis.statistics import paired_over_seeds, score_interval

CLASSES = ("clarity", "fluency", "a/b", "style")
NAMES = [*OVERALL, *(f"{measure}/{label}" for measure in PER_CLASS for label in CLASSES)]


@pytest.fixture
def scored() -> tuple[np.ndarray, np.ndarray]:
    """Labels ``(N,)`` and probabilities ``(N, C)`` with ties among them."""
    generator = np.random.default_rng(3)
    labels = generator.integers(4, size=120)
    probabilities = generator.dirichlet(np.ones(4), 120).round(1) + 0.05
    return labels, probabilities / probabilities.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("name", NAMES)
def test_as_an_evaluation_gives_it(name: str, scored: tuple[np.ndarray, np.ndarray]) -> None:
    labels, probabilities = scored
    metric = Metric.named(name, CLASSES)
    expected = evaluation(labels, probabilities, CLASSES)[name]
    assert metric.score(labels, metric.read(labels, probabilities)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_weights_count_as_examples_that_come_again(name: str, scored: tuple[np.ndarray, np.ndarray]) -> None:
    labels, probabilities = scored
    metric = Metric.named(name, CLASSES)
    weights = np.random.default_rng(0).integers(0, 4, size=(3, len(labels)))
    found = metric.scores(weights.astype(float), labels, metric.read(labels, probabilities))
    for weight, value in zip(weights, found, strict=True):
        again = np.repeat(np.arange(len(labels)), weight)
        assert value == pytest.approx(evaluation(labels[again], probabilities[again], CLASSES)[name])


def test_with_the_weights_of_sklearn(scored: tuple[np.ndarray, np.ndarray]) -> None:
    labels, probabilities = scored
    weight = np.random.default_rng(1).random(len(labels)) + 0.1
    predicted = probabilities.argmax(axis=1)
    precision, recall, f1, _ = precision_recall_fscore_support(labels, predicted, sample_weight=weight)
    known = {
        "loss": log_loss(labels, probabilities, sample_weight=weight),
        "accuracy": accuracy_score(labels, predicted, sample_weight=weight),
        "f1/a/b": f1[2],
        "precision_macro": precision.mean(),
        "recall/style": recall[3],
        "auprc/fluency": average_precision_score(labels == 1, probabilities[:, 1], sample_weight=weight),
    }
    for name, expected in known.items():
        metric = Metric.named(name, CLASSES)
        value = metric.scores(weight[None, :], labels, metric.read(labels, probabilities))
        assert value == pytest.approx(np.array([expected]))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_better_than_itself(name: str, scored: tuple[np.ndarray, np.ndarray]) -> None:
    labels, probabilities = scored
    metric = Metric.named(name, CLASSES)
    read = metric.read(labels, probabilities)
    perfect = metric.read(labels, np.eye(4)[labels])
    with_itself = paired_over_seeds(labels, [read], [read], 50, metric=metric)
    assert (with_itself.difference, with_itself.low, with_itself.high) == (0, 0, 0)
    clear = paired_over_seeds(labels, [perfect] * 3, [read] * 3, 200, metric=metric)
    assert clear.favours_first(metric.mode)
    assert not paired_over_seeds(labels, [read] * 3, [perfect] * 3, 200, metric=metric).favours_first(metric.mode)
    interval = score_interval(labels, [read], 200, metric=metric)
    assert interval.low < metric.score(labels, read) < interval.high


@pytest.mark.parametrize("name", NAMES)
def test_no_guess_that_ignores_the_examples_is_better(name: str) -> None:
    labels = np.repeat(np.arange(4), [60, 20, 12, 28])
    metric, generator = Metric.named(name, CLASSES), np.random.default_rng(0)
    best = best_guess(labels, 4, metric).score
    shares = np.bincount(labels) / len(labels)
    guesses = [np.tile(constant, (len(labels), 1)) for constant in (*np.eye(4), np.full(4, 0.25), shares)]
    drawn = [[np.eye(4)[generator.choice(4, len(labels), p=p)] for _ in range(200)] for p in (np.full(4, 0.25), shares)]
    scores = [metric.score(labels, metric.read(labels, guess)) for guess in guesses]
    if metric.reads_classes:
        scores += [float(np.mean([metric.score(labels, metric.read(labels, one)) for one in each])) for each in drawn]
    worse = np.array(scores) - best if metric.mode == "max" else best - np.array(scores)
    assert worse.max() < 0.02
    assert worse.max() > -0.02


def test_names_and_words() -> None:
    assert Metric.named("f1/a/b", CLASSES) == Metric("f1/a/b", 2)
    assert [Metric.named(name, CLASSES).words for name in ("f1_macro", "auprc_macro", "loss", "f1/a/b")] == [
        "macro-F1",
        "macro-AU-PRC",
        "loss",
        "F1 of a/b",
    ]
    assert Metric("f1_macro").short == "F1"
    assert [better(name) for name in ("loss", "f1_macro", "f1/a/b", "accuracy")] == ["min", "max", "max", "max"]
    assert [better(name) for name in NAMES] == [Metric.named(name, CLASSES).mode for name in NAMES]
    for wrong in ("f2_macro", "f1/", "f1/other", "f1"):
        with pytest.raises(ValueError, match="unknown metric"):
            Metric.named(wrong, CLASSES)
