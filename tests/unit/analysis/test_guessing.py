"""What guessing scores, by hand and by guessing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from irtune.analysis.guessing import best_guess


def test_known_answers() -> None:
    assert best_guess([0, 1, 2, 3], 4).score == pytest.approx(1 / 4)
    assert best_guess([0] * 9 + [1], 2).score == pytest.approx(1 / 2)
    # Of a class that is all there is, always guessing it is always right.
    assert best_guess([1] * 5, 3).score == 1.0
    # Classes that the test set lacks are none of the mean.
    assert best_guess([0, 0, 1, 1], 10).score == pytest.approx(1 / 2)


@given(st.lists(st.integers(1, 300), min_size=1, max_size=6), st.integers(0, 4))
def test_it_is_never_below_the_largest_class_or_an_even_guess(counts: list[int], num_absent: int) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    held = {"labels": np.unique(labels), "average": "macro", "zero_division": 0}
    majority = f1_score(labels, np.full(len(labels), int(np.argmax(counts))), **held)
    shares = np.array(counts) / len(labels)
    even = np.mean(2 * shares / ((len(counts) + num_absent) * shares + 1))
    assert best_guess(labels, len(counts) + num_absent).score >= max(majority, even) - 1e-9


def test_it_is_what_guesses_score_on_average() -> None:
    generator = np.random.default_rng(0)
    labels = generator.choice(4, 800, p=[0.7, 0.1, 0.1, 0.1])
    shares = np.bincount(labels) / len(labels)
    scores = [f1_score(labels, generator.choice(4, 800, p=shares), average="macro") for _ in range(100)]
    assert best_guess(labels, 4).score == pytest.approx(np.mean(scores), abs=0.005)
    even = [f1_score(labels, generator.integers(4, size=800), average="macro") for _ in range(100)]
    assert np.mean(even) == pytest.approx(np.mean(2 * shares / (4 * shares + 1)), abs=0.005)
    assert best_guess(labels, 4).how == "classes by their shares"
