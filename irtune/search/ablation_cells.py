"""The cells of an ablation: what each of them is, and the trials that they come to."""

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from irtune.analysis.ablation.cell_results import Cell
from irtune.config.ablation_schema import AblationConfig
from irtune.config.load import ConfigError, apply_overrides, build, explicit
from irtune.config.schema import ExperimentConfig
from irtune.config.sweep_schema import Choice, Dimension, SweepConfig
from irtune.search.source import TrialSpec
from irtune.search.space_checks import NOT_SEARCHABLE, check_space, mistakes_of

FIXED = NOT_SEARCHABLE | {
    "seed": "every cell is run on the same seeds; ablation.seeds says how many",
    "data.name": "scores on different data cannot be compared; ablation.corpora runs every cell on several data sets",
}
"""Settings (or whole sections) that all cells have in common, and why."""

KEY_OF_K = "selection.policy.k"
WITHOUT_DOTS = re.compile(r"[^A-Za-z0-9_-]+")


def cells_of(config: AblationConfig) -> list[Cell]:
    """All cells of a study, corpus after corpus, in the order of the file.

    Args:
        config: The study.

    Example:
        >>> from irtune import AblationConfig
        >>> cells = {"full": {"method": "full"}, "lisa": {"method": "lisa"}}
        >>> factors = {"selection.reselect_every": {"levels": [20, 5], "of": ["lisa"]}}
        >>> [cell.name for cell in cells_of(AblationConfig(ablation={"cells": cells, "factors": factors}))]
        ['full', 'lisa reselect_every=20', 'lisa reselect_every=5']
    """
    study = config.ablation
    found = []
    corpora: list[tuple[str | None, Mapping[str, Any]]] = [*study.corpora.items()] or [(None, {})]
    for corpus, data in corpora:
        of_corpus = {f"data.{key}": value for key, value in data.items()}
        for arm, overrides in study.cells.items():
            matched = {KEY_OF_K: study.k} if study.matched == "k" and arm != study.baseline_cell else {}
            for levels in _combinations(config, arm):
                name = " ".join([arm, *(f"{_short(key, levels)}={level}" for key, level in levels.items())])
                name = name if corpus is None else f"{name} @ {corpus}"
                values = {**of_corpus, **overrides, **matched, **levels}
                found.append(Cell(name, arm, values, levels, corpus, arm == study.baseline_cell))
    return found


def seeds_of(config: AblationConfig, cell: Cell) -> range:
    """The seeds on which a cell is run: those of the study, or more where something is claimed of it."""
    claimed = [claim.seeds or 0 for claim in config.ablation.claims if cell.arm in (claim.better, claim.than)]
    return range(config.seed, config.seed + max([config.ablation.seeds, *claimed]))


def trial_of(cell: Cell, seed: int) -> TrialSpec:
    """The trial of a cell with this seed."""
    return TrialSpec(f"{folder_of(cell)}_seed_{seed}", {**cell.overrides, "seed": seed}, cell.name, group_of(cell))


def folder_of(cell: Cell) -> str:
    """The cell's name of characters that any file system takes."""
    return WITHOUT_DOTS.sub("_", cell.name).strip("_")


def group_of(cell: Cell) -> dict[str, str]:
    """The tags that runs of a cell are found and grouped by."""
    group = {"cell": cell.name, "arm": cell.arm, "baseline": str(cell.is_baseline).lower()}
    group |= {} if cell.corpus is None else {"corpus": cell.corpus}
    return group | {f"level.{key}": str(level) for key, level in cell.levels.items()}


def trials_of(config: AblationConfig, cells: Sequence[Cell], seeds: range) -> list[TrialSpec]:
    """The trials of cells, seed after seed, so that a study that is stopped halfway has whole comparisons."""
    return [trial_of(cell, seed) for seed in seeds for cell in cells if is_run(config, cell, seed)]


def is_run(config: AblationConfig, cell: Cell, seed: int) -> bool:
    """Tell whether a cell is run on a seed."""
    return seed in seeds_of(config, cell) and (cell.dropped_from is None or seed < cell.dropped_from)


def matched_in_words(config: AblationConfig) -> str:
    """The budget that cells have in common, as every table says it."""
    study = config.ablation
    if study.tuning is not None and study.matched == "tuning_budget":
        return f"equal tuning budgets ({study.tuning.num_trials} trials per cell)"
    words = {
        "nothing": "the settings of the file",
        "k": f"equal k ({study.k})",
        "trainable_parameters": "equal trainable parameters (by rank)",
        "step_flops": f"at most {study.step_flops} of the baseline's FLOPs per step",
        "wall_clock": "equal training time (by number of steps)",
    }
    return words[study.matched]


def check_cells(config: AblationConfig, num_blocks: int | None = None) -> list[str]:
    """Everything wrong with the cells of a study, by dotted key.

    Args:
        config: The study.
        num_blocks: Blocks of the model, where known; policies are then checked against it.
    """
    study, mistakes = config.ablation, []
    said: dict[str, Mapping[str, Any]] = {f"ablation.cells.{name}": keys for name, keys in study.cells.items()}
    for place, keys in (said | {"ablation.factors": study.factors}).items():
        for key in keys:
            reason = next((FIXED[one] for one in FIXED if key == one or key.startswith(f"{one}.")), None)
            mistakes += [f"{place}.{key}: cannot be varied: {reason}"] if reason else []
    if mistakes:
        return mistakes
    cells, tree = cells_of(config), explicit(config.experiment())
    names = [trial_of(cell, 0).name for cell in cells]
    for twice in sorted({name for name in names if names.count(name) > 1}):
        mistakes.append(f"ablation: two cells would lie in one folder, {twice}; name them otherwise")
    for cell in cells:
        for mistake in mistakes_of(tree, cell.overrides, num_blocks):
            mistakes.append(_placed(mistake, cell, study.matched))
        mistakes += [] if mistakes else _mistaken_tuning(config, cell, tree, num_blocks)
    return list(dict.fromkeys(mistakes))


def space_of(config: AblationConfig, cell: Cell) -> dict[str, Dimension]:
    """The space in which a cell is tuned: that of all, and its arm's own; nothing that a factor varies."""
    tuning = config.ablation.tuning
    space = {} if tuning is None else tuning.space | tuning.own.get(cell.arm, {})
    return {key: dimension for key, dimension in space.items() if key not in cell.levels}


def _mistaken_tuning(config: AblationConfig, cell: Cell, tree: Mapping[str, Any], num_blocks: int | None) -> list[str]:
    """Mistakes in what is tuned of a cell, found as a sweep finds them in its space."""
    tuning, space = config.ablation.tuning, space_of(config, cell)
    if tuning is None:
        return []
    if not space:
        return [f"ablation.tuning.space: leaves nothing to tune of {cell.name}; name a dimension that no factor varies"]
    sweep = {
        **apply_overrides(tree, cell.overrides),
        "space": {key: dimension.model_dump(mode="json") for key, dimension in space.items()},
        "tune": {"num_trials": tuning.num_trials, "sampler": tuning.sampler, "scheduler": None},
    }
    try:
        found = check_space(build(SweepConfig, sweep, "tuning"), num_blocks)
    except ConfigError as error:
        found = list(error.mistakes)
    own = tuple(f"space.{key}" for key in tuning.own.get(cell.arm, {}))
    return [
        f"ablation.tuning.own.{cell.arm}.{mistake.removeprefix('space.')}"
        if own and mistake.startswith(own)
        else f"ablation.tuning.{mistake.removeprefix('tune.')}"
        for mistake in found
    ]


def _placed(mistake: str, cell: Cell, matched: str) -> str:
    """A mistake of a cell with the place in the file that it comes from."""
    key = mistake.partition(": ")[0]
    if key == KEY_OF_K and matched == "k":
        return f"ablation.cells.{cell.arm}: {mistake}. Leave the cell out, or set ablation.matched: nothing"
    if key in cell.levels:
        return f"ablation.factors.{mistake}"
    if cell.corpus is not None and key.startswith("data."):
        return f"ablation.corpora.{cell.corpus}.{mistake.removeprefix('data.')}"
    return f"ablation.cells.{cell.arm}{'.' if key in cell.overrides else ': '}{mistake}"


def configurations(config: AblationConfig) -> dict[str, ExperimentConfig]:
    """The configuration of every cell, by its name; of a study that ``check_cells`` accepts."""
    tree = explicit(config.experiment())
    return {
        cell.name: build(ExperimentConfig, apply_overrides(tree, cell.overrides), "ablation")
        for cell in cells_of(config)
    }


def _combinations(config: AblationConfig, arm: str) -> list[dict[str, Choice]]:
    """The levels of all factors that vary a cell; one without any where none does."""
    factors = {key: one.levels for key, one in config.ablation.factors.items() if one.of is None or arm in one.of}
    if config.ablation.design == "factorial":
        return [dict(zip(factors, levels, strict=True)) for levels in itertools.product(*factors.values())]
    usual = {key: levels[0] for key, levels in factors.items()}
    return [usual, *(usual | {key: level} for key, levels in factors.items() for level in levels[1:])]


def _short(key: str, levels: Mapping[str, Choice]) -> str:
    """The last part of a dotted key; all of it where two factors share that."""
    last = key.rpartition(".")[2]
    return last if sum(other.rpartition(".")[2] == last for other in levels) == 1 else key
