"""Cells that get no more seeds: on validation they are clearly worse than another, over pairs of seed and corpus."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from scipy import stats

from irtune.analysis.ablation.cell_results import Cell
from irtune.analysis.significance import NUM_DRAWN
from irtune.analysis.trials import TrialRow
from irtune.config.ablation_schema import AblationConfig
from irtune.search.ablation_cells import is_run, seeds_of

Configuration = tuple[str, tuple[tuple[str, object], ...]]
"""An arm and its levels, whose cells are those of all corpora."""

Scores = Mapping[tuple[int, str | None], float]
"""The scores on validation of one configuration, by seed and corpus; more is better."""


def rounds_of(config: AblationConfig, cells: Sequence[Cell]) -> list[range]:
    """The seeds of a study in the rounds that they are run in: whether a cell has more is decided between two rounds.

    In the first are as many as the test needs to find anything; without ``ablation.drop_hopeless`` that is all.
    """
    seeds = max((seeds_of(config, cell) for cell in cells), key=len)
    level = config.ablation.drop_hopeless
    if level is None:
        return [seeds]
    first = math.ceil(pairs_needed(level) / max(len(config.ablation.corpora), 1))
    return [seeds[:first], *(seeds[place : place + 1] for place in range(first, len(seeds)))]


def pairs_needed(level: float) -> int:
    """The number of pairs, all for the other one, from which on a one-sided signed-rank test reaches ``level``.

    Example:
        >>> pairs_needed(0.05)
        5
    """
    return math.ceil(-math.log2(level))


def without_hopeless(config: AblationConfig, cells: Sequence[Cell], rows: Sequence[TrialRow]) -> list[Cell]:
    """The cells, with the first seed that each is not run on in those that are dropped.

    After each round a configuration is dropped, on all corpora, if Wilcoxon's one-sided signed-rank test tells at
    ``ablation.drop_hopeless`` that its validation scores are worse than those of the best one that it can be compared
    with: at the same levels of the factors that both have. Test scores take no part. The baseline is never dropped, nor
    is what something is claimed of. A round counts once all of its trials are over, so that a study that was
    interrupted drops what it would have dropped.

    Args:
        config: The study.
        cells: All of it.
        rows: Its trials so far, in any state.

    Source: The pruning of paired instances in Optuna's ``WilcoxonPruner``.
    """
    level, found = config.ablation.drop_hopeless, list(cells)
    if level is None:
        return found
    by_cell: dict[str, dict[int, TrialRow]] = {cell.name: {} for cell in cells}
    for row in rows:
        if row.repeats in by_cell and row.status != "killed":
            by_cell[row.repeats][row.seed] = row
    for seeds in rounds_of(config, cells)[:-1]:
        if any(seed not in by_cell[cell.name] for cell in found for seed in seeds if is_run(config, cell, seed)):
            break
        after = seeds[-1] + 1
        so_far = {name: {seed: row for seed, row in of.items() if seed < after} for name, of in by_cell.items()}
        hopeless = _hopeless(config, found, so_far, level)
        found = [
            replace(cell, dropped_from=after) if cell.name in hopeless and is_run(config, cell, after) else cell
            for cell in found
        ]
    return found


def _hopeless(
    config: AblationConfig, cells: Sequence[Cell], by_cell: Mapping[str, Mapping[int, TrialRow]], level: float
) -> set[str]:
    """The names of the cells that are clearly worse than the best of those they can be compared with."""
    running: dict[Configuration, list[Cell]] = {}
    for cell in cells:
        if cell.dropped_from is None:
            running.setdefault((cell.arm, tuple(cell.levels.items())), []).append(cell)
    scores = {one: _scores(of_one, by_cell) for one, of_one in running.items()}
    found: set[str] = set()
    for one, of_one in running.items():
        rivals = [scores[other] for other in running if _is_comparable(one, other) and scores[other]]
        if one[0] in config.ablation.droppable and rivals:
            best = max(rivals, key=lambda rival: float(np.mean(list(rival.values()))))
            found |= {cell.name for cell in of_one} if _is_worse(scores[one], best, level) else set()
    return found


def _is_comparable(one: Configuration, other: Configuration) -> bool:
    levels = dict(other[1])
    return one != other and all(levels.get(key, level) == level for key, level in one[1])


def _scores(cells: Sequence[Cell], by_cell: Mapping[str, Mapping[int, TrialRow]]) -> Scores:
    return {
        (seed, cell.corpus): row.validation_score * (1 if row.metric.mode == "max" else -1)
        for cell in cells
        for seed, row in by_cell[cell.name].items()
        if row.status == "finished" and row.validation_score is not None
    }


def _is_worse(ours: Scores, best: Scores, level: float) -> bool:
    differences = np.array([best[pair] - ours[pair] for pair in ours.keys() & best.keys()])
    if not differences.any() or differences.mean() <= 0:
        return False
    # Of few pairs all changes of sign are counted: with ties scipy would take the normal distribution.
    exact = stats.PermutationMethod(n_resamples=NUM_DRAWN, rng=np.random.default_rng(0))
    found = stats.wilcoxon(differences, alternative="greater", zero_method="zsplit", method=exact)
    return float(found.pvalue) <= level
