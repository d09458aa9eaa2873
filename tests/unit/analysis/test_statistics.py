import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from saying import refused
from sklearn.metrics import f1_score

from irtune.analysis import statistics
from irtune.analysis.metrics import MACRO_F1, evaluation
from irtune.analysis.statistics import Interval, paired_over_seeds, score_interval

NUM_CLASSES = 4


@st.composite
def label_sets(draw: st.DrawFn, count: int) -> list[np.ndarray]:
    size = draw(st.integers(1, 40))
    values = st.lists(st.integers(0, NUM_CLASSES - 1), min_size=size, max_size=size)
    return [np.array(draw(values)) for _ in range(count)]


def test_known_answer() -> None:
    labels = np.array([0, 0, 1, 1, 2, 2])
    never_two = np.array([0, 0, 1, 1, 1, 1])
    # Class 0 is perfect; class 1 has 2 true positives of 4 predicted and 2 labelled; class 2 is never predicted.
    assert MACRO_F1.score(labels, never_two) == pytest.approx((1 + 4 / 6 + 0) / 3)
    # A fourth class that occurs nowhere counts for nothing, and costs what is wrongly taken for it.
    assert MACRO_F1.score(labels, labels) == 1.0
    assert MACRO_F1.score(labels, np.array([0, 0, 1, 1, 2, 3])) == pytest.approx((1 + 1 + 2 / 3) / 3)
    assert paired_over_seeds(labels, [labels], [never_two]).difference == pytest.approx(4 / 9)


@settings(max_examples=40, deadline=None)
@given(label_sets(2))
def test_macro_f1_is_that_of_sklearn(arrays: list[np.ndarray]) -> None:
    labels, predictions = arrays
    arguments = {"average": "macro", "zero_division": 0}
    found = MACRO_F1.score(labels, predictions)
    assert found == pytest.approx(f1_score(labels, predictions, labels=np.unique(labels), **arguments), abs=1e-12)
    if set(predictions) <= set(labels):
        assert found == pytest.approx(f1_score(labels, predictions, **arguments), abs=1e-12)
    trained = evaluation(labels, np.eye(NUM_CLASSES)[predictions], tuple("abcd"))
    assert found == pytest.approx(trained["f1_macro"], abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(label_sets(2))
def test_identical_predictions_differ_by_exactly_nothing(arrays: list[np.ndarray]) -> None:
    labels, predictions = arrays
    interval = paired_over_seeds(labels, [predictions], [predictions.copy()], num_resamples=50)
    assert interval == Interval(0.0, 0.0, 0.0)
    assert interval.contains_zero


@settings(max_examples=30, deadline=None)
@given(label_sets(3))
def test_swapping_the_models_flips_the_sign(arrays: list[np.ndarray]) -> None:
    labels, first, second = arrays
    one = paired_over_seeds(labels, [first], [second], num_resamples=50)
    other = paired_over_seeds(labels, [second], [first], num_resamples=50)
    assert one.difference == -other.difference
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low), abs=1e-12)


def test_every_resample_scores_both_models_on_the_same_examples() -> None:
    generator = np.random.default_rng(5)
    labels, first, second = generator.integers(NUM_CLASSES, size=(3, 30))
    # The last class is absent from the labels, and the one before it from many resamples.
    labels[labels >= NUM_CLASSES - 2] = 0
    labels[3] = NUM_CLASSES - 2
    drawn = np.random.default_rng(7).integers(30, size=(20, 30))
    held = range(NUM_CLASSES - 1)

    def score(predictions: np.ndarray, rows: np.ndarray) -> float:
        return float(f1_score(labels[rows], predictions[rows], average="macro", zero_division=0, labels=held))

    expected = np.percentile([score(first, rows) - score(second, rows) for rows in drawn], [2.5, 97.5])
    interval = paired_over_seeds(labels, [first], [second], num_resamples=20, seed=7)
    assert (interval.low, interval.high) == pytest.approx(tuple(expected))


def test_memory_batches_do_not_change_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, first, second = np.random.default_rng(0).integers(NUM_CLASSES, size=(3, 50))
    at_once = paired_over_seeds(labels, [first], [second], num_resamples=101)
    monkeypatch.setattr(statistics, "_BATCH_CELLS", 50 * 7)
    assert paired_over_seeds(labels, [first], [second], num_resamples=101) == at_once


def test_a_clear_difference_excludes_zero_and_a_tiny_one_does_not() -> None:
    labels = np.tile(np.arange(4), 125)
    nearly, poor = labels.copy(), labels.copy()
    nearly[:4] = (nearly[:4] + 1) % 4
    poor[:200] = (poor[:200] + 1) % 4
    clear = paired_over_seeds(labels, [labels], [poor])
    assert 0.3 < clear.low < clear.difference < clear.high < 0.5
    also_nearly = labels.copy()
    also_nearly[-5:] = (also_nearly[-5:] + 1) % 4
    assert paired_over_seeds(labels, [nearly], [also_nearly]).contains_zero


def test_a_sweep_s_worth_of_resamples_takes_well_under_a_second() -> None:
    labels, first, second = np.random.default_rng(0).integers(9, size=(3, 500))
    start = time.process_time()
    paired_over_seeds(labels, [first], [second])
    assert time.process_time() - start < 1.0


def test_over_seeds_that_contradict_each_other_the_interval_is_that_of_students_t() -> None:
    labels = np.repeat([0, 1], 100)
    slip = labels.copy()
    slip[0] = 1
    # With one seed the first model is perfect and the second slips once, with the other seed the reverse. The slip
    # leaves an F1 of 198/199 in class 0 and of 200/201 in class 1, so it costs x = (1/199 + 1/201) / 2 of macro-F1.
    x = (1 / 199 + 1 / 201) / 2
    interval = paired_over_seeds(labels, [labels, slip], [slip, labels])
    assert interval.difference == pytest.approx(0)
    # Differences +x and -x have variance 2 x², their mean x². Resampled examples move them against each other, so they
    # add nothing. The 99 % quantile of t with one degree of freedom is tan(0.49 pi) = 31.8.
    assert interval.high == pytest.approx(np.tan(0.49 * np.pi) * x)
    assert interval.low == pytest.approx(-interval.high)


def mean_of_resamples(labels: np.ndarray, seeds: list[np.ndarray], num_resamples: int, seed: int) -> np.ndarray:
    """Mean macro-F1 of a model's seeds on each resample, example by example."""
    held = np.unique(labels)
    scores = []
    for rows in np.random.default_rng(seed).integers(len(labels), size=(num_resamples, len(labels))):
        truth = labels[rows][:, None] == held
        found = [predicted[rows][:, None] == held for predicted in seeds]
        f1 = [2 * (truth & one).sum(0) / np.maximum(truth.sum(0) + one.sum(0), 1) for one in found]
        scores.append(np.mean(f1))
    return np.array(scores)


def test_seeds_that_agree_leave_only_the_luck_of_the_examples() -> None:
    labels, first, second = np.random.default_rng(5).integers(NUM_CLASSES, size=(3, 30))
    resampled = mean_of_resamples(labels, [first], 400, 7) - mean_of_resamples(labels, [second], 400, 7)
    interval = paired_over_seeds(labels, [first] * 3, [second] * 3, num_resamples=400, seed=7)
    assert interval.difference == pytest.approx(paired_over_seeds(labels, [first], [second]).difference)
    margin = 1.959964 * np.std(resampled)
    low, high = np.percentile(resampled, [2.5, 97.5])
    assert interval.low == pytest.approx(min(interval.difference - margin, low), rel=1e-6)
    assert interval.high == pytest.approx(max(interval.difference + margin, high), rel=1e-6)


def test_seeds_that_agree_by_luck_do_not_hide_what_other_examples_would_change() -> None:
    """Three seeds miss as many examples of each class, so their scores are equal; but each misses others."""
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(5), 24)

    def missing(of_24: int) -> np.ndarray:
        missed = np.concatenate([24 * k + generator.choice(24, of_24, replace=False) for k in range(5)])
        predictions = labels.copy()
        predictions[missed] = (labels[missed] + 1) % 5
        return predictions

    first, second = [missing(10) for _ in range(3)], [missing(9) for _ in range(3)]
    found = paired_over_seeds(labels, first, second)
    assert found.difference == pytest.approx(-1 / 24)
    alone = [mean_of_resamples(labels, seeds, 1000, 1) for seeds in (first, second)]
    low, high = np.percentile(alone[0] - alone[1], [2.5, 97.5])
    assert found.high - found.low == pytest.approx(high - low, rel=0.1)
    assert found.low < -0.09 < 0.0 < found.high
    low, high = np.percentile(alone[0], [2.5, 97.5])
    score = score_interval(labels, first)
    assert score.difference == pytest.approx(14 / 24)
    # Seeds that differ only in which examples they miss move against each other, which other seeds need not.
    assert high - low < score.high - score.low < 1.25 * (high - low)


@settings(max_examples=30, deadline=None)
@given(label_sets(7))
def test_over_seeds_and_examples_an_interval_holds_that_over_examples_alone(arrays: list[np.ndarray]) -> None:
    labels, first, second = arrays[0], arrays[1:4], arrays[4:]
    both = paired_over_seeds(labels, first, second, num_resamples=20, seed=3)
    of_first, of_second = (mean_of_resamples(labels, seeds, 20, 3) for seeds in (first, second))
    low, high = np.percentile(of_first - of_second, [2.5, 97.5])
    assert both.low <= low + 1e-12
    assert high - 1e-12 <= both.high
    low, high = np.percentile(of_first, [2.5, 97.5])
    score = score_interval(labels, first, num_resamples=20, seed=3)
    assert score.low <= low + 1e-12
    assert high - 1e-12 <= score.high


def test_one_resample_says_nothing_and_leaves_the_spread_of_the_seeds() -> None:
    labels = np.repeat([0, 1], 100)
    seeds = [labels.copy() for _ in range(3)]
    for slips, predictions in enumerate(seeds):
        predictions[:slips] = 1
    found = np.array([f1_score(labels, predictions, average="macro") for predictions in seeds])
    once = paired_over_seeds(labels, seeds, [labels] * 3, num_resamples=1)
    # The 99 % quantile of t with two degrees of freedom is 6.9646.
    margin = 6.964557 * found.std(ddof=1) / np.sqrt(3)
    assert (once.low, once.high) == pytest.approx((found.mean() - 1 - margin, found.mean() - 1 + margin))


@settings(max_examples=30, deadline=None)
@given(label_sets(4))
def test_over_seeds_identical_predictions_differ_by_exactly_nothing(arrays: list[np.ndarray]) -> None:
    labels, *seeds = arrays
    interval = paired_over_seeds(labels, seeds, [found.copy() for found in seeds], num_resamples=20)
    assert interval == Interval(0.0, 0.0, 0.0)


@settings(max_examples=30, deadline=None)
@given(label_sets(7), st.permutations(range(3)))
def test_the_order_of_the_seeds_is_irrelevant_and_swapping_the_models_flips_the_sign(
    arrays: list[np.ndarray], order: list[int]
) -> None:
    labels, first, second = arrays[0], arrays[1:4], arrays[4:]
    one = paired_over_seeds(labels, first, second, num_resamples=20)
    other = paired_over_seeds(labels, [second[i] for i in order], [first[i] for i in order], num_resamples=20)
    assert (one.difference, one.low, one.high) == pytest.approx((-other.difference, -other.high, -other.low), abs=1e-9)
    assert one.low <= one.difference <= one.high


@pytest.mark.parametrize("num_seeds", [2, 3, 5])
def test_the_interval_holds_what_it_promises_where_seeds_and_examples_are_luck(num_seeds: int) -> None:
    """Of worlds in which two models are equally good, 95 % contain zero; of those whose seeds happen to agree, 90 %."""
    generator = np.random.default_rng(0)
    num_worlds, num_examples = 800, 60
    covered, spreads = [], []
    for _ in range(num_worlds):
        labels = generator.integers(3, size=num_examples)
        hard = generator.normal(0, 1, num_examples)
        models = []
        for _model in range(2):
            own = hard + generator.normal(0, 0.1, num_examples)
            luck = generator.normal(0, 0.2, (num_seeds, 1)) + generator.normal(0, 0.6, (num_seeds, num_examples))
            models.append(np.where(own + luck < 1, labels, (labels + 1) % 3))
        interval = paired_over_seeds(labels, list(models[0]), list(models[1]), num_resamples=100)
        covered.append(interval.contains_zero)
        first, second = ((predictions == labels).mean(axis=1) for predictions in models)
        spreads.append(np.std(first - second))
    agreeing = np.argsort(spreads)[: num_worlds // 5]
    assert np.mean(covered) > 0.93
    assert np.mean(np.array(covered)[agreeing]) > 0.88


def test_a_comparison_needs_the_same_seeds_of_both() -> None:
    with refused(ValueError, "same seeds … both", "0 and 0"):
        paired_over_seeds([0], [], [])
    with pytest.raises(ValueError, match="found 2 and 3"):
        paired_over_seeds([0], [[0], [0]], [[0], [0], [0]])


def test_the_interval_of_a_score_is_that_of_its_difference_to_a_model_without_any_hit() -> None:
    labels, predictions = np.random.default_rng(3).integers(3, size=(2, 60))
    wrong = np.full(60, 3)
    against_nothing = paired_over_seeds(labels, [predictions], [wrong], num_resamples=50)
    assert score_interval(labels, [predictions], num_resamples=50) == against_nothing
    over_seeds = paired_over_seeds(labels, [predictions, labels], [wrong, wrong], num_resamples=50)
    found = score_interval(labels, [predictions, labels], num_resamples=50)
    assert (found.difference, found.high) == pytest.approx((over_seeds.difference, over_seeds.high))
    # A score is never below 0, a difference may be.
    assert found.low == pytest.approx(max(over_seeds.low, 0.0))
