"""Is the difference between two sets of predictions more than the luck of which test examples were drawn?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from irtune.analysis.groups import Groups
from irtune.analysis.metrics import MACRO_F1, Metric, Mode

# Bounds the memory of a batch of resamples to a few times 32 MB, whatever the size of the test set.
_BATCH_CELLS = 4_000_000


@dataclass(frozen=True)
class Interval:
    """A difference in a metric (first minus second), or the metric itself, with its 95 % interval."""

    difference: float
    low: float
    high: float

    @property
    def contains_zero(self) -> bool:
        """Whether the data does not tell which of the two is better."""
        return self.low <= 0.0 <= self.high

    def favours_first(self, mode: Mode) -> bool:
        """Whether the first is shown to be better, where more (``max``) or less (``min``) is."""
        return self.low > 0 if mode == "max" else self.high < 0


def paired_over_seeds(
    labels: ArrayLike,
    predictions_a: Sequence[ArrayLike],
    predictions_b: Sequence[ArrayLike],
    num_resamples: int = 2000,
    seed: int = 0,
    metric: Metric = MACRO_F1,
    groups: Groups | None = None,
) -> Interval:
    """The mean difference in a metric over seeds, a minus b, with an interval for other seeds and other test examples.

    All are scored on the same resampled examples, so what they find equally hard cancels out, and over the classes that
    ``labels`` has, so that every resample measures the same thing. Of one seed the interval is the percentile bootstrap
    over examples, and measures their choice only: not the seed, nor that a model was picked among many.

    Examples are independent, or their groups are, as ``_scores`` says. With two seeds the interval, which ``_interval``
    explains, is wide and says little. ``benchmarks/coverage.py`` shows the coverage.

    Args:
        labels: Class indices ``(N,)``.
        predictions_a: Predictions of the first model for each seed, as ``metric`` reads them, S of them.
        predictions_b: Likewise of the second model, for the same seeds in the same order.
        num_resamples: Resamples of N examples, or of all groups, with replacement.
        seed: Seed of the resampling; the same seed gives the same interval.
        metric: What is compared.
        groups: Documents that examples share; None where every example stands for itself.

    Raises:
        ValueError: If there is no seed, or not as many of b as of a.

    Source: of one seed Berg-Kirkpatrick et al., "An Empirical Investigation of Statistical Significance in NLP", EMNLP
        2012, who derive a p-value from the same resamples; of several as ``_interval``, and of groups as ``_scores``.
    """
    num_seeds = len(predictions_a)
    if not num_seeds or len(predictions_b) != num_seeds:
        raise ValueError(f"needs the same seeds of both models, found {num_seeds} and {len(predictions_b)}")
    scores, resampled = _scores(labels, [*predictions_a, *predictions_b], num_resamples, seed, metric, groups)
    found, again = scores[:num_seeds] - scores[num_seeds:], resampled[:, :num_seeds] - resampled[:, num_seeds:]
    return _interval(found, again, -metric.measure.most, metric.measure.most)


def score_interval(
    labels: ArrayLike,
    predictions: Sequence[ArrayLike],
    num_resamples: int = 2000,
    seed: int = 0,
    metric: Metric = MACRO_F1,
    groups: Groups | None = None,
) -> Interval:
    """A metric of one model, for other test examples; of several seeds the mean, for other seeds too.

    As ``paired_over_seeds`` does it for differences, under the same assumptions.

    Args:
        labels: Class indices ``(N,)``.
        predictions: As ``metric`` reads them, for each seed; of one at least.
        num_resamples: Resamples of N examples, or of all groups, with replacement.
        seed: Seed of the resampling.
        metric: What is measured.
        groups: Documents that examples share; None where every example stands for itself.
    """
    scores, resampled = _scores(labels, predictions, num_resamples, seed, metric, groups)
    return _interval(scores, resampled, 0.0, metric.measure.most)


def _interval(found: NDArray[np.float64], resampled: NDArray[np.float64], least: float, most: float) -> Interval:
    """The mean over S seeds with its interval; of one seed, over examples alone.

    Every one of S seeds trained both models, and all are scored on the same examples: seeds and examples are crossed.
    The variance of the mean difference has two parts. The mean covariance c that resampled examples give to the
    differences of two seeds stays however many seeds there are, since all share one test set. What differs between
    seeds, their luck and what examples do to one seed alone, falls with S. Two things are known of the second part: the
    variance of the S differences, a poor estimate where S is small, and that it is at least v - c, where v is the
    variance that resampled examples give to one seed's difference. The margin is the root of the sum of squares of

    - the larger of the normal margin of v - c, and the margin of Student's t with S - 1 degrees of freedom, each over
      the root of S; t's is that of a 98 % interval, which misses at most 10 of 100 even among the fifth of comparisons
      whose seeds happen to agree most, where all that a 95 % interval misses would make 25;
    - the normal margin of c.

    The interval also holds all of the percentile bootstrap of the mean difference over examples, so that it is never
    narrower than one over examples alone. Where resampling changes nothing, as of models without a mistake, only the
    spread of seeds is left.

    Args:
        found: What was found for each seed ``(S,)``.
        resampled: The same of resampled examples ``(R, S)``.
        least: Lower bound of what is possible.
        most: Upper bound.

    Source: Obuchowski & Rockette, "Hypothesis testing of diagnostic accuracy for multiple readers and multiple tests",
        Communications in Statistics 24(2), 1995: two tests, read by several readers on the same patients. Here seeds
        are the readers and examples the patients, and a bootstrap gives the covariance. They (and Hillis, Statistics in
        Medicine 26, 2007) take one quantile for both parts; with two seeds that covers less often than it should, so
        the margins are put together as by Zou & Donner (Statistics in Medicine 27, 2008). The lower bound and the 98 %
        are ours.
    """
    num_seeds, mean = len(found), float(found.mean())
    low, high = (float(bound) for bound in np.percentile(resampled.mean(axis=1), [2.5, 97.5]))
    if num_seeds == 1:
        return Interval(mean, max(low, least), min(high, most))
    covariances = np.cov(resampled, rowvar=False, bias=True)
    own = np.trace(covariances) / num_seeds
    shared = (covariances.sum() - np.trace(covariances)) / (num_seeds * (num_seeds - 1))
    normal, student = stdtrit(np.inf, 0.975), stdtrit(num_seeds - 1, 0.99)
    of_seeds = max(student**2 * found.var(ddof=1), normal**2 * (own - shared)) / num_seeds
    margin = float(np.sqrt(of_seeds + normal**2 * max(shared, 0.0)))
    return Interval(mean, max(min(mean - margin, low), least), min(max(mean + margin, high), most))


def _scores(
    labels: ArrayLike,
    predictions: Sequence[ArrayLike],
    num_resamples: int,
    seed: int,
    metric: Metric,
    groups: Groups | None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The metric of all ``predictions`` ``(models,)``, and of resamples ``(R, models)``, each of the same examples.

    Where there are groups, whole ones are resampled, with all their examples. A bootstrap of G groups finds too little
    variance where G is small, so what it finds is widened as a t interval of G - 1 degrees of freedom is over a normal
    one, and by ``sqrt(G / (G - 1))``.

    Source: Field & Welsh, "Bootstrapping clustered data", JRSS B 69, 2007; of few groups Cameron, Gelbach & Miller,
        "Bootstrap-based improvements for inference with clustered errors", Review of Economics and Statistics 90, 2008,
        who take t's quantiles with G - 1 degrees of freedom.
    """
    true, read = np.asarray(labels), [np.asarray(predicted) for predicted in predictions]
    num_examples = len(true)
    # Of one group alone nothing can be known of others.
    by_group = groups is not None and groups.num > 1
    of, num_units = (groups.of, groups.num) if groups is not None and by_group else (slice(None), num_examples)
    generator = np.random.default_rng(seed)
    batch = max(1, min(num_resamples, _BATCH_CELLS // num_examples))
    scores = np.empty((num_resamples, len(read)))
    for start in range(0, num_resamples, batch):
        size = min(batch, num_resamples - start)
        drawn = generator.integers(num_units, size=(size, num_units))
        drawn += np.arange(size)[:, None] * num_units
        times_drawn = np.bincount(drawn.ravel(), minlength=size * num_units).reshape(size, num_units)
        weights = times_drawn.astype(np.float64)[:, of]
        for index, predicted in enumerate(read):
            scores[start : start + size, index] = metric.scores(weights, true, predicted)
    if by_group:
        # How many times as wide as the bootstrap of so few groups an interval has to be.
        of_few = stdtrit(num_units - 1, 0.975) / stdtrit(np.inf, 0.975) * np.sqrt(num_units / (num_units - 1))
        centre = scores.mean(axis=0)
        scores = centre + float(of_few) * (scores - centre)
    return np.array([metric.score(true, predicted) for predicted in read]), scores
