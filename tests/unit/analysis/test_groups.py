"""Test examples of one document are not independent: intervals and tests resample whole documents."""

import numpy as np
import pytest
from scipy import stats

from irtune.analysis.ablation.cell_results import Cell
from irtune.analysis.ablation.findings import findings_of
from irtune.analysis.answer import answer_sweep
from irtune.analysis.groups import Groups
from irtune.analysis.metrics import Metric
from irtune.analysis.over_seeds import compare_finalists
from irtune.analysis.significance import mcnemar_p
from irtune.analysis.statistics import paired_over_seeds, score_interval

ACCURACY = Metric.named("accuracy", ["a", "b"])
ESSAYS = Groups(np.repeat(np.arange(20), 20), "essay")
"""Of the 400 test examples of the trials here."""


def world(num_groups: int, size: int, shared: float, generator: np.random.Generator):
    """Labels (all 0), predictions of two models, and groups: right where skill exceeds difficulty.

    ``shared`` is the share of the variance of what one model finds hard that examples of a group have in common.
    """
    of = np.repeat(np.arange(num_groups), size)
    taste = generator.normal(size=(2, num_groups))[:, of] * np.sqrt(shared)
    own = generator.normal(size=(2, len(of))) * np.sqrt(1 - shared)
    skills = np.array([[0.7], [0.5]])
    return np.zeros(len(of), dtype=int), (taste + own > skills).astype(int), Groups(of, "essay")


TRUTH = float(stats.norm.cdf(0.7) - stats.norm.cdf(0.5))


@pytest.mark.parametrize("num_groups", [12, 30])
def test_by_example_too_few_intervals_hold_the_truth_and_by_group_about_as_many_as_they_say(num_groups):
    generator, num_worlds = np.random.default_rng(num_groups), 400
    held = np.zeros((num_worlds, 2))
    for index in range(num_worlds):
        labels, (first, second), groups = world(num_groups, 15, 0.3, generator)
        for column, by in enumerate((None, groups)):
            found = paired_over_seeds(labels, [first], [second], 200, index, ACCURACY, groups=by)
            held[index, column] = found.low <= TRUTH <= found.high
    by_example, by_group = held.mean(axis=0)
    # Two standard errors of a share of .95 over 400 worlds are .022.
    assert by_example < 0.85
    assert by_group > 0.95 - 0.025


def test_mcnemar_by_group_finds_nothing_where_nothing_differs_as_often_as_it_says():
    generator, num_worlds = np.random.default_rng(5), 300
    p_values = np.zeros((num_worlds, 2))
    for index in range(num_worlds):
        labels, _, groups = world(12, 15, 0.3, generator)
        taste = generator.normal(size=(2, 12))[:, groups.of] * np.sqrt(0.3)
        first, second = (taste + generator.normal(size=(2, len(labels))) * np.sqrt(0.7) > 0.6).astype(int)
        p_values[index] = mcnemar_p(labels, first, second), mcnemar_p(labels, first, second, groups)
    by_example, by_group = (p_values <= 0.05).mean(axis=0)
    assert by_example > 0.1
    assert by_group < 0.05 + 0.025


def test_mcnemar_with_an_example_in_every_group_is_mcnemar():
    labels = np.zeros(14, dtype=int)
    first = np.array([0] * 8 + [1] * 3 + [0] * 3)
    second = np.array([1] * 8 + [0] * 3 + [0] * 3)
    alone = Groups(np.arange(14), "essay")
    assert mcnemar_p(labels, first, second, alone) == pytest.approx(mcnemar_p(labels, first, second))
    assert mcnemar_p(labels, first, first, alone) == 1.0


def test_mcnemar_by_group_of_known_answer():
    # The first model is right about 2, 3 and 1 more examples of three essays: 2 of 8 changes of sign are as far off.
    labels, second = np.zeros(9, dtype=int), np.ones(9, dtype=int)
    first = np.array([0, 0, 1, 0, 0, 0, 0, 1, 1])
    assert mcnemar_p(labels, first, second, Groups(np.repeat(np.arange(3), 3), "essay")) == pytest.approx(0.25)


def test_a_widened_interval_stays_within_what_is_possible():
    labels = np.zeros(20, dtype=int)
    two = Groups(np.repeat(np.arange(2), 10), "essay")
    right = np.array([0] * 10 + [1] * 10)
    found = score_interval(labels, [right], metric=ACCURACY, groups=two)
    assert (found.low, found.high) == (0.0, 1.0)


def test_of_one_group_examples_are_resampled_and_that_is_said():
    labels, right = np.zeros(20, dtype=int), np.array([0] * 10 + [1] * 10)
    one = Groups(np.zeros(20, dtype=int), "essay")
    assert score_interval(labels, [right], metric=ACCURACY, groups=one) == score_interval(
        labels, [right], metric=ACCURACY
    )
    assert "one essay" in one.caveat
    assert "others" in one.caveat


def test_groups_are_numbered_and_kept_without_their_names(tmp_path):
    found = Groups.of_names(["secret-b", "secret-a", "secret-b", ""], "essay")
    assert found.of.tolist() == [0, 1, 0, 2]
    np.savez(tmp_path / "kept.npz", **found.arrays("test"))
    assert b"secret" not in (tmp_path / "kept.npz").read_bytes()
    with np.load(tmp_path / "kept.npz", allow_pickle=False) as arrays:
        again = Groups.read(arrays, "test")
        assert Groups.read(arrays, "validation") is None
    assert (again.of.tolist(), again.called, again.num) == ([0, 1, 0, 2], "essay", 3)
    assert Groups.of_names(["", "", ""], "essay") is None
    assert Groups.of_names(["a", "a"], "") is None


def test_few_groups_are_called_unreliable():
    few, many = (Groups(np.arange(20) % number, "essay").caveat for number in (9, 10))
    assert "essay (9 groups)" in few
    assert "unreliable" in few
    assert "essay (10 groups)" in many
    assert "unreliable" not in many


def test_a_sweep_resamples_by_group_and_says_so(trial):
    rows = [trial("all", num_wrong=120), trial(num_wrong=80)]
    by_example = answer_sweep(rows)
    grouped = [trial("all", num_wrong=120, test_groups=ESSAYS), trial(num_wrong=80, test_groups=ESSAYS)]
    by_group = answer_sweep(grouped)
    # Here the mistakes are those of whole essays, so that there are two essays that tell the models apart.
    width = {answer: answer.interval.high - answer.interval.low for answer in (by_example, by_group)}
    assert width[by_group] > 2 * width[by_example]
    assert any("resampled by essay (20 groups)" in caveat for caveat in by_group.caveats)
    assert not any("resampled" in caveat for caveat in by_example.caveats)
    # One of the two may have been recorded before groups were.
    mixed = answer_sweep([trial("all", num_wrong=120), trial(num_wrong=80, test_groups=ESSAYS)])
    assert mixed.interval == by_group.interval


def test_finalists_are_resampled_by_group(trial):
    def repeats(**groups):
        return [
            trial(strategy, num_wrong=wrong + seed, trial_id=f"{strategy}{seed}", repeats=strategy, seed=seed, **groups)
            for strategy, wrong in (("all", 120), ("top_k", 80))
            for seed in (1, 2, 3)
        ]

    (bare, *_), (grouped, *_) = (compare_finalists(repeats(**one)) for one in ({}, {"test_groups": ESSAYS}))
    assert grouped.interval.high - grouped.interval.low > 2 * (bare.interval.high - bare.interval.low)
    assert grouped.mean.test_groups is ESSAYS


def test_an_ablation_resamples_by_group_and_says_so(trial):
    def found(**groups):
        cells = [Cell("full", "full", is_baseline=True), Cell("ir", "ir")]
        rows = [
            trial(strategy, num_wrong=wrong + seed, trial_id=f"{cell}{seed}", repeats=cell, seed=seed, **groups)
            for strategy, cell, wrong in (("all", "full", 120), ("top_k", "ir", 80))
            for seed in (1, 2, 3)
        ]
        return findings_of(cells, rows, [], {}, {None: 4})

    bare, grouped = found(), found(test_groups=ESSAYS)
    one, other = bare.results[1], grouped.results[1]
    assert other.interval.high - other.interval.low > 2 * (one.interval.high - one.interval.low)
    assert other.mcnemar > 100 * one.mcnemar
    assert any("resampled by essay (20 groups)" in caveat for caveat in grouped.caveats)
    assert not any("resampled" in caveat for caveat in bare.caveats)
