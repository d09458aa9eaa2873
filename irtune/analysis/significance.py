"""What seeds can tell: is one configuration better than another, as good within a margin, or can't that be told?

Everything here is about paired differences: both configurations trained with the same seeds (data order, head start)
on the same data, and their scores are subtracted seed by seed. The seeds are a sample of all seeds; the corpus and its
test examples are taken as they are. ``statistics.paired_over_seeds`` gives the interval for other test examples too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from irtune.analysis.groups import Groups

LEVEL = 0.05
"""The share of verdicts "better" or "worse" that are wrong where nothing differs, at most."""

POWER = 0.8
"""The share of studies that find a difference which is there, on as many seeds as ``seeds_needed`` says."""

NUM_DRAWN = 40_000
"""Changes of sign that are drawn; where there are fewer, up to 15 seeds, all are counted, and the test is exact."""

MOST_SEEDS = 1000

# Bounds the memory of a batch of changes of sign to a few times 32 MB.
_BATCH_CELLS = 4_000_000

Verdict = Literal["better", "worse", "equivalent", "can't tell"]


def mean_interval(values: ArrayLike, confidence: float = 0.95) -> tuple[float, float, float]:
    """The mean over seeds, with Student's t interval: mean, low, high.

    Assumes that values of different seeds are independent, and their mean roughly normal. A percentile bootstrap over
    three seeds covers 76 % where it says 95; t covers 95.

    Args:
        values: One for each seed ``(S,)``; with a single one the interval is infinite.
        confidence: Of the interval.

    Raises:
        ValueError: If there are none, or some is not finite.

    Source: Student, "The probable error of a mean", Biometrika 6, 1908.

    Example:
        >>> mean, low, high = mean_interval([0.1, 0.2, 0.3])
        >>> f"{mean:.1f} {low:.3f} {high:.3f}"
        '0.2 -0.048 0.448'
    """
    found = _checked(values)
    mean = float(found.mean())
    if len(found) == 1:
        return mean, -np.inf, np.inf
    margin = float(scipy.stats.t.ppf((1 + confidence) / 2, len(found) - 1) * scipy.stats.sem(found))
    return mean, mean - margin, mean + margin


def interquartile_mean(values: ArrayLike) -> float:
    """The mean of the middle half of the seeds ``(S,)``, which one lucky or failed seed does not move.

    Source: Agarwal et al., "Deep reinforcement learning at the edge of the statistical precipice", NeurIPS 2021.
    """
    return float(scipy.stats.trim_mean(_checked(values), 0.25))


def sign_flip_p(differences: ArrayLike, seed: int = 0) -> float:
    """The two-sided p-value of paired differences under the exact sign-flip permutation test of their mean.

    Assumes only that without an effect a difference is as likely to be ``d`` as ``-d``, which pairs of equal
    configurations are. The smallest p-value that S seeds can give is ``2 / 2**S``.

    Args:
        differences: One for each seed ``(S,)``.
        seed: Of the changes of sign that are drawn where there are more than ``NUM_DRAWN``.

    Source: Fisher, "The design of experiments", 1935, section 21.

    Example:
        >>> sign_flip_p([0.01, 0.02, 0.015])
        0.25
    """
    found = _checked(differences)
    if len(found) == 1 or not found.any():
        return 1.0
    drawn = {"n_resamples": NUM_DRAWN, "rng": np.random.default_rng(seed), "batch": max(1, _BATCH_CELLS // len(found))}
    tested = scipy.stats.permutation_test((found,), np.mean, permutation_type="samples", vectorized=True, **drawn)
    return float(tested.pvalue)


def wilcoxon_p(differences: ArrayLike, seed: int = 0) -> float:
    """The two-sided p-value of Wilcoxon's signed ranks, which the size of an outlier does not move.

    Assumes what ``sign_flip_p`` assumes. Zeros are ranked with the others and then left out (Pratt, 1959).

    Args:
        differences: One for each seed ``(S,)``.
        seed: As of ``sign_flip_p``.

    Source: Wilcoxon, "Individual comparisons by ranking methods", Biometrics Bulletin 1, 1945.
    """
    found = _checked(differences)
    if len(found) == 1 or not found.any():
        return 1.0
    method = scipy.stats.PermutationMethod(n_resamples=NUM_DRAWN, rng=np.random.default_rng(seed))
    return float(scipy.stats.wilcoxon(found, zero_method="pratt", method=method).pvalue)


def mcnemar_p(
    labels: ArrayLike, predictions_a: ArrayLike, predictions_b: ArrayLike, groups: Groups | None = None
) -> float:
    """The exact two-sided p-value that two models are right equally often on examples like these.

    It is about one seed of each and other test examples, which are assumed to be independent. Where there are groups,
    only these are: it is then the sign-flip test of how many more examples of each group the first model is right
    about. With one example in each group that is McNemar's test.

    Args:
        labels: Class indices ``(N,)``.
        predictions_a: Class indices ``(N,)`` of the first model.
        predictions_b: Class indices ``(N,)`` of the second model.
        groups: Documents that examples share; None where every example stands for itself.

    Source: McNemar, "Note on the sampling error of the difference between correlated proportions or percentages",
        Psychometrika 12, 1947; exact by the binomial distribution of the pairs of which one is right. Of groups the
        statistic is that of Yang, Sun & Hardin, "A note on the tests for clustered matched-pair binary data",
        Biometrical Journal 52, 2010; its distribution by changes of sign is ours.
    """
    true = np.asarray(labels)
    right_a, right_b = np.asarray(predictions_a) == true, np.asarray(predictions_b) == true
    if groups is not None:
        surplus = np.bincount(groups.of, weights=right_a.astype(float) - right_b)
        # A group on which both are right equally often changes no sum.
        return sign_flip_p(surplus[surplus != 0]) if surplus.any() else 1.0
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    return 1.0 if only_a + only_b == 0 else float(scipy.stats.binomtest(only_a, only_a + only_b).pvalue)


def equivalence_p(differences: ArrayLike, margin: float) -> float:
    """The p-value of two one-sided t tests: small if the mean difference is shown to lie within the margin.

    It is at most .05 just where the 90 % t interval of the mean lies within ``-margin`` to ``margin``. Assumes what
    ``mean_interval`` does.

    Args:
        differences: One for each seed ``(S,)``, two at least.
        margin: The largest difference that does not matter, above 0, in units of the score.

    Raises:
        ValueError: If the margin is not above 0.

    Source: Schuirmann, Journal of Pharmacokinetics and Biopharmaceutics 15, 1987.
    """
    if not margin > 0:
        raise ValueError(f"margin: {margin} shows nothing; give the largest difference that does not matter, above 0")
    found = _checked(differences)
    if len(found) < 2:
        return 1.0
    if found.std() == 0:
        return float(abs(found[0]) >= margin)
    above = scipy.stats.ttest_1samp(found, -margin, alternative="greater").pvalue
    below = scipy.stats.ttest_1samp(found, margin, alternative="less").pvalue
    return float(max(above, below))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values of several comparisons, adjusted so that one in all is wrong with at most the level's probability.

    Assumes nothing about how the comparisons depend on each other.

    Args:
        p_values: Of M comparisons.

    Source: Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6, 1979.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values, kind="stable")
    adjusted, so_far = [0.0] * len(p_values), 0.0
    for place, index in enumerate(order):
        so_far = max(so_far, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = so_far
    return adjusted


def effect_size(differences: ArrayLike) -> float:
    """The mean of the differences ``(S,)`` in units of their own standard deviation.

    With Hedges' correction for few seeds; infinite where all differences are equal and not zero, NaN for one seed.

    Source: Hedges, "Distribution theory for Glass's estimator of effect size", Journal of Educational Statistics 6,
        1981.
    """
    found = _checked(differences)
    if len(found) < 2:
        return float("nan")
    spread, mean = float(found.std(ddof=1)), float(found.mean())
    if spread == 0:
        return 0.0 if mean == 0 else float(np.copysign(np.inf, mean))
    return mean / spread * (1 - 3 / (4 * (len(found) - 1) - 1))


def smallest_p(num_seeds: int) -> float:
    """The smallest two-sided p-value that this many paired seeds can give: .25 for three."""
    return float(2.0 ** (1 - num_seeds))


def seeds_needed(spread: float, difference: float, num_comparisons: int = 1) -> int | None:
    """The number of paired seeds that find a difference with probability ``POWER``; None above ``MOST_SEEDS``.

    The power is that of the paired t test, which the sign-flip test comes close to for normal differences; and there
    have to be so many seeds that the smallest p-value gets through Holm's adjustment at all.

    Args:
        spread: Standard deviation of the differences between seeds, as a pilot of a few seeds estimates it.
        difference: To be found, in units of the score.
        num_comparisons: That are judged together.

    Raises:
        ValueError: If the difference is 0, which no number of seeds finds.
    """
    if difference == 0:
        raise ValueError("difference: 0 is found by no number of seeds; give the smallest that matters")
    level = LEVEL / num_comparisons
    for num_seeds in range(2, MOST_SEEDS + 1):
        if smallest_p(num_seeds) <= level and power(num_seeds, spread, difference, level) >= POWER:
            return num_seeds
    return None


def power(num_seeds: int, spread: float, difference: float, level: float = LEVEL) -> float:
    """The probability that a two-sided paired t test of normal differences finds one of this size.

    Args:
        num_seeds: S, two at least.
        spread: Standard deviation of the differences.
        difference: Their true mean.
        level: Of the test.
    """
    if spread == 0:
        return 1.0
    critical = scipy.stats.t.ppf(1 - level / 2, num_seeds - 1)
    off = abs(difference) / spread * np.sqrt(num_seeds)
    return float(scipy.stats.nct.sf(critical, num_seeds - 1, off) + scipy.stats.nct.cdf(-critical, num_seeds - 1, off))


@dataclass(frozen=True)
class Comparison:
    """What the seeds tell of the first configuration against the second.

    Args:
        num_seeds: Pairs of runs.
        difference: Mean of the paired differences, first minus second, with its 95 % t interval.
        p: Two-sided, of the sign-flip test.
        adjusted_p: The same after Holm's adjustment over all comparisons of the study.
        wilcoxon_p: Two-sided, of signed ranks, not adjusted.
        effect: In standard deviations of the differences.
        equivalence_p: Of two one-sided tests at the margin; None without a margin.
        verdict: Of the first. ``equivalent`` goes before ``better`` and ``worse``: a difference may be certain, and
            too small to matter.
        needed: Paired seeds that would tell, where these don't; None where they do, or more than ``MOST_SEEDS``.
    """

    num_seeds: int
    difference: tuple[float, float, float]
    p: float
    adjusted_p: float
    wilcoxon_p: float
    effect: float
    equivalence_p: float | None
    verdict: Verdict
    needed: int | None


def compare(
    pairs: Sequence[ArrayLike],
    *,
    margin: float | Sequence[float | None] | None = None,
    more_is_better: bool = True,
    others: int = 0,
) -> list[Comparison]:
    """Judge M comparisons together.

    A verdict "better" or "worse" needs Holm's adjusted p-value of the sign-flip test to be at most ``LEVEL``, so that
    of all studies in which nothing differs at most that share has any such verdict. "equivalent" needs the two
    one-sided tests to pass at that level.

    Args:
        pairs: For each comparison the paired differences ``(S,)``, first minus second; S may vary.
        margin: The largest difference that does not matter, of all or of each comparison; None looks for none that is
            equivalent.
        more_is_better: Whether a positive difference is good.
        others: Comparisons that were begun and given up, which count in the adjustment with a p-value of 1.

    Raises:
        ValueError: If a comparison has no differences, or some are not finite, or the margin is not above 0.
    """
    found = [_checked(pair) for pair in pairs]
    p_values = [sign_flip_p(differences) for differences in found]
    adjusted = holm([*p_values, *[1.0] * others])[: len(found)]
    margins = list(margin) if isinstance(margin, Sequence) else [margin] * len(found)
    return [
        _judged(differences, p, adjusted_p, most, more_is_better, len(found) + others)
        for differences, p, adjusted_p, most in zip(found, p_values, adjusted, margins, strict=True)
    ]


def _judged(
    differences: NDArray[np.float64],
    p: float,
    adjusted_p: float,
    margin: float | None,
    more_is_better: bool,
    num_comparisons: int,
) -> Comparison:
    mean = float(differences.mean())
    within = None if margin is None else equivalence_p(differences, margin)
    verdict: Verdict = "can't tell"
    if within is not None and within <= LEVEL:
        verdict = "equivalent"
    elif adjusted_p <= LEVEL:
        verdict = "better" if (mean > 0) == more_is_better else "worse"
    needed = None
    if verdict == "can't tell" and len(differences) > 1:
        # What is to be found is what was seen, or what matters, if that is more.
        sought = max(abs(mean), margin or 0.0)
        needed = seeds_needed(float(differences.std(ddof=1)), sought, num_comparisons) if sought else None
    return Comparison(
        num_seeds=len(differences),
        difference=mean_interval(differences),
        p=p,
        adjusted_p=adjusted_p,
        wilcoxon_p=wilcoxon_p(differences),
        effect=effect_size(differences),
        equivalence_p=within,
        verdict=verdict,
        needed=needed,
    )


def _checked(values: ArrayLike) -> NDArray[np.float64]:
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 1 or not len(found) or not np.isfinite(found).all():
        raise ValueError(f"needs one finite number for each seed (S,), found {found.tolist()}")
    return found
