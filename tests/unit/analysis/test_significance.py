"""What seeds can tell: known answers of the tests, and verdicts."""

import math

import numpy as np
import pytest
from saying import refused

from irtune.analysis.significance import (
    compare,
    effect_size,
    equivalence_p,
    holm,
    interquartile_mean,
    mcnemar_p,
    mean_interval,
    power,
    seeds_needed,
    sign_flip_p,
    smallest_p,
    wilcoxon_p,
)

A = np.array([0.712, 0.705, 0.731, 0.698, 0.722])
B = np.array([0.708, 0.711, 0.719, 0.702, 0.715])


def test_intervals_and_equivalence_are_those_of_statsmodels():
    # statsmodels 0.15.0: DescrStatsW(a - b).tconfint_mean(), ttost_paired(a, b, -.01, .01).
    assert mean_interval(A - B) == pytest.approx((0.0026, -0.006757896917359605, 0.011957896917359611))
    assert equivalence_p(A - B, 0.01) == pytest.approx(0.0465570089112015)
    # The 90 % interval touches the margin where the p-value is .05.
    _, low, high = mean_interval(A - B, 0.9)
    assert equivalence_p(A - B, max(high, -low)) == pytest.approx(0.05)


def test_power_is_that_of_statsmodels():
    # statsmodels 0.15.0: TTestPower().power(effect_size, nobs, alpha=.05).
    assert power(10, 1.0, 1.0) == pytest.approx(0.8030968566327218)
    assert power(34, 0.02, 0.01) == pytest.approx(0.8077775012792737)
    assert power(3, 0.0, 0.01) == 1.0


def test_holm_is_that_of_statsmodels():
    # statsmodels 0.15.0: multipletests(p, method="holm").
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.7, 0.6]) == [1.0, 1.0]


def test_examples_on_which_one_is_right():
    # statsmodels 0.15.0: mcnemar([[10, 7], [2, 5]], exact=True).
    labels = np.zeros(24, dtype=int)
    first = np.array([0] * 17 + [1] * 7)
    second = np.array([0] * 10 + [1] * 7 + [0] * 2 + [1] * 5)
    assert mcnemar_p(labels, first, second) == pytest.approx(0.1796875)
    assert mcnemar_p(labels, first, first) == 1.0


def test_darwins_maize_as_fisher_counted_it():
    # Fisher, "The design of experiments", section 21: heights of 15 pairs of plants in eighths of an inch; of the
    # 32,768 changes of sign 1,726 give a sum as far from zero.
    pairs = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]
    assert sign_flip_p(pairs) == pytest.approx(1726 / 32768)


@pytest.mark.parametrize("num_seeds", [2, 3, 5, 6, 10])
def test_the_smallest_p_value_is_that_of_differences_of_one_sign(num_seeds):
    differences = np.linspace(0.01, 0.02, num_seeds)
    assert sign_flip_p(differences) == wilcoxon_p(differences) == smallest_p(num_seeds)


def test_more_changes_of_sign_than_are_counted_are_drawn():
    differences = np.random.default_rng(0).normal(0.3, 1, 40)
    assert sign_flip_p(differences) == sign_flip_p(differences)
    # As the t test has it, to which the permutation test comes close for many normal differences.
    assert sign_flip_p(differences) == pytest.approx(0.25, abs=0.25)
    assert sign_flip_p([0.0, 0.0]) == wilcoxon_p([0.0, 0.0]) == 1.0


def test_one_lucky_seed_does_not_move_the_middle_half():
    assert interquartile_mean([0.5, 0.51, 0.52, 0.99]) == pytest.approx(0.515)
    assert interquartile_mean([0.4]) == 0.4


def test_effects_are_in_standard_deviations():
    assert effect_size([0.01, 0.02, 0.03]) == pytest.approx(2.0 * (1 - 3 / 7))
    assert effect_size([0.01, 0.01]) == math.inf
    assert effect_size([-0.01, -0.01]) == -math.inf
    assert effect_size([0.0, 0.0]) == 0.0
    assert math.isnan(effect_size([0.01]))


def test_the_seeds_that_it_takes():
    assert seeds_needed(0.02, 0.01) == 34
    assert seeds_needed(0.02, 0.01, num_comparisons=9) == 57
    # However small the spread, p-values of few seeds cannot be small.
    assert seeds_needed(0.0, 0.01) == 6
    assert seeds_needed(0.0, 0.01, num_comparisons=9) == 9
    assert seeds_needed(1.0, 0.001) is None
    with pytest.raises(ValueError, match="difference: 0"):
        seeds_needed(0.02, 0.0)


@pytest.mark.parametrize(
    ("differences", "more_is_better", "verdict"),
    [
        (np.linspace(0.01, 0.03, 10), True, "better"),
        (np.linspace(0.01, 0.03, 10), False, "worse"),
        (-np.linspace(0.01, 0.03, 10), True, "worse"),
        (np.linspace(-0.002, 0.003, 10), True, "equivalent"),
        # Certain, and too small to matter.
        (np.linspace(0.002, 0.003, 10), True, "equivalent"),
        (np.linspace(-0.03, 0.04, 10), True, "can't tell"),
        # All alike, but of too few seeds.
        (np.linspace(0.02, 0.03, 5), True, "can't tell"),
    ],
)
def test_verdicts(differences, more_is_better, verdict):
    (found,) = compare([differences], margin=0.01, more_is_better=more_is_better)
    assert found.verdict == verdict
    assert (found.needed is not None) == (verdict == "can't tell")


def test_comparisons_are_judged_together():
    clear = np.linspace(0.01, 0.03, 6)
    assert compare([clear])[0].verdict == "better"
    found = compare([clear, np.linspace(-0.03, 0.04, 6)])
    assert [one.verdict for one in found] == ["can't tell"] * 2
    assert (found[0].p, found[0].adjusted_p) == (1 / 32, 1 / 16)
    assert found[0].needed == 7


def test_one_seed_tells_nothing():
    (found,) = compare([[0.1]], margin=0.01)
    assert (found.verdict, found.needed, found.difference) == ("can't tell", None, (0.1, -math.inf, math.inf))


def test_what_cannot_be_judged_is_refused():
    for wrong in ([], [math.nan, 0.1], [[0.1], [0.2]]):
        with refused(ValueError, "one … number … each seed"):
            mean_interval(wrong)
    with pytest.raises(ValueError, match="margin: 0"):
        equivalence_p([0.1, 0.2], 0)


def test_equal_differences_are_equivalent_within_what_they_are_below():
    assert equivalence_p([0.005] * 3, 0.01) == 0.0
    assert equivalence_p([0.01] * 3, 0.01) == 1.0
    assert equivalence_p([0.001], 0.01) == 1.0
