"""How often does the interval over seeds and test examples hold the truth, and how wide is it? By simulation.

    python benchmarks/coverage.py [--worlds 5000] [--processes 2]

Draws worlds: a test set of five classes, and two models trained on 2, 3, 5 and 10 seeds whose true difference in
macro-F1 is known. An example is hard for all models, for all seeds of one model, and by each seed's own noise; a seed
is lucky on all examples, in part for both models alike. Prints, for three sizes of that luck and for 100 and 500 test
examples, how many of the 95 % intervals hold the truth, and their mean width: of all worlds, and of the fifth of worlds
whose differences spread least over seeds, where an interval that trusts the spread is wrong most often. Beside
``paired_over_seeds`` stand

- lean: the same with the 95 % quantile of Student's t for the seeds' part, which shows what the 98 % one buys;
- former: that without the lower bound that the test examples give to the seeds' part;
- of seeds: the percentile bootstrap of the differences over seeds;
- of examples: the percentile bootstrap of their mean over test examples.

Exits with 1 where the interval of ``paired_over_seeds`` holds the truth in less than 93 % of all worlds, or in less
than 90 % of those of small spread, by more than two standard errors of the simulation; or where it is narrower than
``of examples``. Takes about 4 minutes on 2 CPUs.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit

from irtune.analysis.statistics import paired_over_seeds
from irtune.studies.provenance import environment

SHARES = np.array([0.30, 0.25, 0.20, 0.15, 0.10])
"""Of the classes among examples."""
EASE = np.array([0.3, 0.1, 0.0, -0.1, -0.3])
"""Of the classes, in units of the difficulty of examples, as all that follows."""
SKILLS = (0.55, 0.45)
HARD, TASTE, NOISE = 1.0, 0.3, 0.4
"""Standard deviations of what is hard for all, for one model's seeds, and for one seed."""
ALIKE = 0.3
"""Correlation of the luck that one seed gives to the two models."""
LUCK = {"none": 0.0, "middle": 0.1, "large": 0.3}
"""Standard deviation of the luck of a seed: seeds alike; seeds and 100 examples count alike; seeds count most."""
SEEDS = (2, 3, 5, 10)
EXAMPLES = (100, 500)
LEAST_OF_ALL, LEAST_OF_SMALL, SMALL = 0.93, 0.90, 0.2
NAMES = ("now", "lean", "former", "of seeds", "of examples")
RESAMPLES = 200
"""Of the test examples in a world: a fifth of a thousand is enough where thousands of worlds are averaged."""

Floats = NDArray[np.float64]


class World(NamedTuple):
    """Labels ``(N,)`` and the predictions ``(2, S, N)`` of two models on S seeds."""

    labels: NDArray[np.int64]
    predictions: NDArray[np.int64]


@dataclass(frozen=True)
class Cell:
    """What was found for one luck, number of examples and number of seeds over W worlds."""

    luck: str
    num_examples: int
    num_seeds: int
    truth: float
    intervals: Floats
    """Of each of ``NAMES``: lower and upper ends ``(W, 5, 2)``."""
    spreads: Floats
    """Standard deviation of the differences over seeds ``(W,)``."""
    variances: Floats
    """Of one difference by examples, and covariance of two seeds' ``(W, 2)``."""

    @property
    def small(self) -> NDArray[np.bool_]:
        """Worlds whose differences spread least."""
        return self.spreads <= np.quantile(self.spreads, SMALL)

    def coverage(self, worlds: NDArray[np.bool_] | slice = slice(None)) -> Floats:
        """Share of intervals ``(5,)`` that hold the truth."""
        low, high = self.intervals[worlds, :, 0], self.intervals[worlds, :, 1]
        return np.asarray(((low <= self.truth) & (self.truth <= high)).mean(axis=0))

    @property
    def widths(self) -> Floats:
        """Mean widths ``(5,)``."""
        return np.asarray((self.intervals[..., 1] - self.intervals[..., 0]).mean(axis=0))

    @property
    def seeds_to_examples(self) -> float:
        """Variance by seeds' luck, in units of what examples add to the spread over seeds."""
        alone, shared = self.variances.mean(axis=0)
        return float((self.spreads**2).mean() / (alone - shared) - 1)


def true_difference(luck: float) -> float:
    """Of the expected macro-F1 of the two models on endless examples, over endless seeds.

    Which class is taken for another is uniform, so each class's F1 is known for a seed of known luck.
    """
    points, weights = np.polynomial.hermite_e.hermegauss(80)
    scores = []
    for skill in SKILLS:
        right = ndtr((skill + EASE + luck * points[:, None]) / np.sqrt(HARD**2 + TASTE**2 + NOISE**2))
        wrong = SHARES * (1 - right)
        taken_for = (wrong.sum(axis=1, keepdims=True) - wrong) / (len(SHARES) - 1)
        f1 = 2 * SHARES * right / (SHARES + SHARES * right + taken_for)
        scores.append(float(f1.mean(axis=1) @ weights / weights.sum()))
    return scores[0] - scores[1]


def draw(luck: float, num_examples: int, num_seeds: int, generator: np.random.Generator) -> World:
    """One test set and the predictions of the two models on it."""
    labels = generator.choice(len(SHARES), size=num_examples, p=SHARES)
    mistaken = (labels + generator.integers(1, len(SHARES), num_examples)) % len(SHARES)
    of_seed = generator.normal(size=(1, num_seeds, 1)) * np.sqrt(ALIKE)
    of_seed = of_seed + generator.normal(size=(2, num_seeds, 1)) * np.sqrt(1 - ALIKE)
    hard = generator.normal(0, HARD, num_examples) + generator.normal(0, TASTE, (2, 1, num_examples))
    noise = generator.normal(0, NOISE, (2, num_seeds, num_examples))
    ease = np.array(SKILLS)[:, None, None] + EASE[labels] + luck * of_seed
    return World(labels, np.where(ease > hard + noise, labels, mistaken))


def resampled_differences(world: World, generator: np.random.Generator) -> Floats:
    """Differences in macro-F1 ``(1 + R, S)``: of all examples, then of R resamples."""
    num_examples, classes = len(world.labels), np.arange(len(SHARES))
    drawn = generator.multinomial(num_examples, np.full(num_examples, 1 / num_examples), size=RESAMPLES)
    weights = np.vstack([np.ones(num_examples), drawn])
    held = classes[np.isin(classes, world.labels)]
    labelled = world.labels[:, None] == held
    predicted = np.moveaxis(world.predictions[..., None] == held, 2, 0)
    hits = (labelled[:, None, None] & predicted).reshape(num_examples, -1).astype(np.float64)
    either = (labelled[:, None, None] + predicted.astype(np.float64)).reshape(num_examples, -1)
    f1 = 2 * (weights @ hits) / np.maximum(weights @ either, 1)
    scores = f1.reshape(len(weights), *world.predictions.shape[:2], len(held)).mean(axis=3)
    return np.asarray(scores[:, 0] - scores[:, 1])


def beside(found: Floats, resampled: Floats, generator: np.random.Generator) -> tuple[list[Floats], list[float]]:
    """The intervals of ``NAMES`` but the first, from differences ``(S,)`` and ``(R, S)``; variance and covariance."""
    num_seeds, mean = len(found), found.mean()
    covariances = np.cov(resampled, rowvar=False, bias=True)
    alone = np.trace(covariances) / num_seeds
    shared = (covariances.sum() - np.trace(covariances)) / (num_seeds * (num_seeds - 1))
    normal, student = stdtrit([np.inf, num_seeds - 1], 0.975)
    by_spread = student**2 * found.var(ddof=1)
    bounded = np.maximum(by_spread, normal**2 * (alone - shared))
    margins = np.sqrt(np.array([bounded, by_spread]) / num_seeds + normal**2 * max(shared, 0.0))
    of_seeds = found[generator.integers(num_seeds, size=(1000, num_seeds))].mean(axis=1)
    percentiles = [np.percentile(each, [2.5, 97.5]) for each in (of_seeds, resampled.mean(axis=1))]
    return [*(np.array([mean - margin, mean + margin]) for margin in margins), *percentiles], [alone, shared]


def look(luck: float, num_examples: int, num_worlds: int, seed: int) -> dict[int, tuple[Floats, Floats, Floats]]:
    """Intervals, spreads and variances of worlds for each of ``SEEDS``, as ``Cell`` keeps them."""
    generator = np.random.default_rng(seed)
    intervals = {seeds: np.empty((num_worlds, len(NAMES), 2)) for seeds in SEEDS}
    spreads, variances = ({seeds: np.empty((num_worlds, *size)) for seeds in SEEDS} for size in ((), (2,)))
    for index in range(num_worlds):
        world = draw(luck, num_examples, max(SEEDS), generator)
        found, *resampled = resampled_differences(world, generator)
        for seeds in SEEDS:
            first, second = (list(each[:seeds]) for each in world.predictions)
            now = paired_over_seeds(world.labels, first, second, num_resamples=RESAMPLES, seed=index)
            others, variances[seeds][index] = beside(found[:seeds], np.array(resampled)[:, :seeds], generator)
            intervals[seeds][index] = [(now.low, now.high), *others]
            spreads[seeds][index] = found[:seeds].std(ddof=1)
    return {seeds: (intervals[seeds], spreads[seeds], variances[seeds]) for seeds in SEEDS}


def simulate(num_worlds: int, processes: int) -> list[Cell]:
    """All cells; the worlds of each luck and number of examples are shared out to processes, its seeds are nested."""
    parts = -(-num_worlds // 250)
    settings = [(luck, num_examples) for luck in LUCK for num_examples in EXAMPLES]
    cells = []
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        waiting = [
            [pool.submit(look, LUCK[luck], size, num_worlds // parts, 1000 * place + part) for part in range(parts)]
            for place, (luck, size) in enumerate(settings)
        ]
        for (luck, size), futures in zip(settings, waiting, strict=True):
            found = [future.result() for future in futures]
            for seeds in SEEDS:
                joined = [np.concatenate(each) for each in zip(*(part[seeds] for part in found), strict=True)]
                cells.append(Cell(luck, size, seeds, true_difference(LUCK[luck]), *joined))
            print(f"luck {luck}, {size} examples: done", file=sys.stderr)
    return cells


def table(cells: Sequence[Cell]) -> str:
    """One row a cell: coverage of all worlds, of those of small spread, and mean width, of each interval."""
    lines = [
        f"| seeds' luck | examples | seeds | luck / examples | {' | '.join(NAMES)} |",
        "|---" * (4 + len(NAMES)) + "|",
    ]
    for cell in cells:
        rows = zip(cell.coverage(), cell.coverage(cell.small), cell.widths, strict=True)
        shown = " | ".join(f"{of_all:.3f} {of_small:.3f} {width:.3f}" for of_all, of_small, width in rows)
        ratio = f"{cell.seeds_to_examples:.1f}"
        lines.append(f"| {cell.luck} | {cell.num_examples} | {cell.num_seeds} | {ratio} | {shown} |")
    return "\n".join(lines)


def misses(cells: Sequence[Cell]) -> list[str]:
    """Where the goal is missed by more than two standard errors."""
    found = []
    for cell in cells:
        where = f"luck {cell.luck}, {cell.num_examples} examples, {cell.num_seeds} seeds"
        for of, worlds, goal in (("all", slice(None), LEAST_OF_ALL), ("small spread", cell.small, LEAST_OF_SMALL)):
            share = float(cell.coverage(worlds)[0])
            if share < goal - 2 * standard_error(goal, len(cell.spreads[worlds])):
                found.append(f"{where}: {share:.3f} of {of} worlds are covered, wanted are {goal}")
        if cell.widths[0] < cell.widths[-1]:
            found.append(f"{where}: narrower than the bootstrap over examples alone")
    return found


def standard_error(share: float, count: int) -> float:
    """Of a share that is found from ``count`` worlds."""
    return float(np.sqrt(share * (1 - share) / count))


def main() -> int:
    """Print the table; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=5000, help="for each luck and number of examples")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    started = time.monotonic()
    cells = simulate(options.worlds, options.processes)
    num_worlds = len(cells[0].spreads)
    errors = [standard_error(LEAST_OF_ALL, num_worlds), standard_error(LEAST_OF_SMALL, int(SMALL * num_worlds))]
    print("# Coverage of the interval over seeds and test examples\n")
    print("\n".join(f"- {name}: {value}" for name, value in environment().items()))
    print(f"- worlds: {num_worlds} for each luck and number of examples; {time.monotonic() - started:.0f} s in all\n")
    print("In each column: coverage in all worlds, in the fifth of worlds of the smallest spread, and mean width.")
    print(f"Standard errors of the two: {errors[0]:.4f} and {errors[1]:.4f}. Goal of `now`: {LEAST_OF_ALL} and")
    print(
        f"{LEAST_OF_SMALL}, and never narrower than `of examples`. `luck / examples`: variance of a difference by the"
    )
    print("luck of its seeds, in units of what the choice of examples adds to the spread over seeds.\n")
    print(table(cells))
    wrong = misses(cells)
    print("\n" + "\n".join(["FAIL", *(f"- {each}" for each in wrong)] if wrong else ["PASS"]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
