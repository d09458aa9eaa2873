"""How often are a study's verdicts wrong, and how often does it find what is there? By simulation.

    python benchmarks/verdicts.py [--studies 1000] [--processes 2]

A study compares M methods with a baseline on S common seeds. A run's score is its method's, plus the luck that its seed
gives to all methods, plus its own: normal, of heavy tails (Student's t with 4 degrees of freedom), skewed
(exponential), or rounded to thousandths as a score on a finite test set is. Differences are judged by
``significance.compare`` with a margin of .01. Three tables, each with its goal, which was set before the runs:

- nothing differs: of all studies at most 5 % have any verdict "better" or "worse", and the 95 % t interval of a
  difference holds zero in 93 to 97 % (of skewed luck too, since the luck of both configurations is subtracted);
- a method differs by the margin: at most 5 % call it "equivalent";
- a method differs, on as many seeds as ``seeds_needed`` says for the true spread: it is found in at least the stated
  80 % of studies, and with the same margin "equivalent" is found where nothing differs and seeds are as many as that.

A goal counts as missed by more than two standard errors of the simulation. Takes about 15 minutes on 2 CPUs.
"""

import argparse
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import numpy as np
from numpy.typing import NDArray

from irtune.analysis.significance import LEVEL, POWER, compare, seeds_needed
from irtune.studies.provenance import environment

Floats = NDArray[np.float64]
MARGIN, OWN = 0.01, 0.014
"""The margin, and the standard deviation of a run's own luck, in units of a score."""
SHARED = 0.02
LUCK: Mapping[str, Callable[[np.random.Generator, tuple[int, ...]], Floats]] = {
    "normal": lambda draw, shape: draw.normal(size=shape),
    "heavy tails": lambda draw, shape: draw.standard_t(4, size=shape) / np.sqrt(2),
    "skewed": lambda draw, shape: draw.exponential(size=shape) - 1,
    "rounded": lambda draw, shape: draw.normal(size=shape),
}
SEEDS, METHODS = (3, 6, 10), (1, 9)


def study(luck: str, num_seeds: int, effects: Floats, seed: int) -> Floats:
    """Differences ``(M, S)`` between M methods of these effects and the baseline."""
    draw = np.random.default_rng(seed)
    shared = SHARED * draw.normal(size=num_seeds)
    own = OWN * LUCK[luck](draw, (len(effects) + 1, num_seeds))
    scores = 0.7 + shared + own + np.concatenate([[0.0], effects])[:, None]
    scores = scores.round(3) if luck == "rounded" else scores
    return np.asarray(scores[1:] - scores[0])


def counted(luck: str, num_seeds: int, num_methods: int, effect: float, num_studies: int) -> list[float]:
    """The share of studies with any verdict that differs, of intervals that hold the effect, of "equivalent"."""
    effects = np.zeros(num_methods)
    effects[0] = effect
    differs = covered = equivalent = 0
    for seed in range(num_studies):
        found = compare(list(study(luck, num_seeds, effects, seed)), margin=MARGIN)
        differs += any(one.adjusted_p <= LEVEL for one in found)
        covered += sum(one.difference[1] <= of <= one.difference[2] for one, of in zip(found, effects, strict=True))
        equivalent += found[0].verdict == "equivalent"
    return [differs / num_studies, covered / num_studies / num_methods, equivalent / num_studies]


def main() -> int:
    """Print the tables; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    missed: list[str] = []

    def error(share: float, number: int = options.studies) -> float:
        return 2 * float(np.sqrt(share * (1 - share) / number))

    def check(ok: bool, row: str) -> str:
        missed.extend([] if ok else [row])
        return "pass" if ok else "FAIL"

    cases = [(luck, seeds, methods) for luck in LUCK for seeds in SEEDS for methods in METHODS]
    needed = seeds_needed(OWN * np.sqrt(2), MARGIN)
    assert needed is not None
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as processes:
        run = partial(processes.submit, counted, num_studies=options.studies)
        nothing = {case: run(*case, 0.0) for case in cases}
        at_margin = {case: run(*case, MARGIN) for case in cases if case[2] == 1}
        there = {luck: (run(luck, needed, 1, MARGIN), run(luck, needed, 1, 0.0)) for luck in LUCK}
        print("# Verdicts of a study\n\n## Nothing differs\n")
        print(
            "| luck | seeds | comparisons | better or worse | goal | intervals that hold | goal | |\n"
            + "|---" * 8
            + "|"
        )
        for (luck, seeds, methods), future in nothing.items():
            differs, held, _ = future.result()
            slack = error(0.95, options.studies * methods)
            ok = differs <= LEVEL + error(LEVEL) and 0.93 - slack <= held <= 0.97 + slack
            cells = f"| {luck} | {seeds} | {methods} | {differs:.3f} | ≤ .05 | {held:.3f} | .93 to .97 |"
            print(f"{cells} {check(ok, cells)} |")
        print(f"\n## A method differs by the margin, {MARGIN}\n")
        print('| luck | seeds | called "equivalent" | goal | |\n' + "|---" * 5 + "|")
        for (luck, seeds, _), future in at_margin.items():
            wrong = future.result()[2]
            cells = f"| {luck} | {seeds} | {wrong:.3f} | ≤ .05 |"
            print(f"{cells} {check(wrong <= LEVEL + error(LEVEL), cells)} |")
        print(f"\n## A method differs by {MARGIN}, on the {needed} seeds that are said to be needed\n")
        print('| luck | found | goal | nothing differs: called "equivalent" | |\n' + "|---" * 5 + "|")
        for luck, (differing, equal) in there.items():
            found, same = differing.result()[0], equal.result()[2]
            cells = f"| {luck} | {found:.3f} | ≥ .80 | {same:.3f} |"
            print(f"{cells} {check(found >= POWER - error(POWER), cells)} |")
    print()
    print("\n".join(f"- {name}: {value}" for name, value in environment().items()))
    print(*(f"\nFAIL {row}" for row in missed) if missed else ["\nPASS"])
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
