"""The same tuning budget for every cell: a search of its own on validation, whose winner then runs on fresh seeds.

Methods whose settings nobody tuned are compared at their authors' habits; nine variants of LoRA that differ by more
than ten points at one learning rate lie within two once each has its own (arXiv 2602.04998).
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import optuna
from optuna.trial import TrialState

from irtune.analysis.ablation.cell_results import Cell
from irtune.config.ablation_schema import AblationConfig
from irtune.config.sweep_schema import TuneConfig
from irtune.search.ablation_cells import folder_of, group_of, space_of
from irtune.search.optuna_source import OptunaSource, ended_trials, open_study, requeue_interrupted
from irtune.search.source import TUNING, Together, TrialSpec

SEED_BEFORE = 1_000_000
"""A number that is added to the experiment's seed for tuning: far from the seeds that cells are compared on."""


def search_of(folder: Path, config: AblationConfig, cells: Sequence[Cell]) -> Together | None:
    """The searches of all cells as one source, each going on from its file; None where nothing is tuned.

    Args:
        folder: Of the study.
        config: The study.
        cells: To be tuned.
    """
    if config.ablation.tuning is None:
        return None
    sources = []
    for cell in cells:
        tried, tune = _open(folder, config, cell)
        requeue_interrupted(tried)
        sources.append(OptunaSource(tried, space_of(config, cell), tune))
    return Together(sources, partial(_of_cell, cells, config.seed + SEED_BEFORE))


def _of_cell(cells: Sequence[Cell], seed: int, place: int, spec: TrialSpec) -> TrialSpec:
    """A trial of a search with the overrides of its cell under its own, named after the cell."""
    cell = cells[place]
    overrides = {**cell.overrides, **spec.overrides, "seed": seed}
    return TrialSpec(f"tune_{folder_of(cell)}_{spec.name}", overrides, group=group_of(cell) | {"phase": TUNING})


def tuned(folder: Path, config: AblationConfig, cells: Sequence[Cell]) -> list[Cell]:
    """The cells with what their searches found best on validation; as they are where nothing is tuned or finished."""
    if config.ablation.tuning is None:
        return list(cells)
    return [_tuned(_open(folder, config, cell)[0], cell) for cell in cells]


def _tuned(tried: optuna.Study, cell: Cell) -> Cell:
    if not tried.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        return cell
    best = next(spec for spec, _ in ended_trials(tried) if spec.name == tried.best_trial.user_attrs["trial"])
    return replace(cell, overrides={**cell.overrides, **best.overrides}, tuned=best.overrides)


def _open(folder: Path, config: AblationConfig, cell: Cell) -> tuple[optuna.Study, TuneConfig]:
    tuning = config.ablation.tuning
    assert tuning is not None
    tune = TuneConfig(
        num_trials=tuning.num_trials,
        metric=f"eval/{config.metric}",
        sampler=tuning.sampler,
        num_startup_trials=tuning.num_startup_trials,
        seed=config.seed,
        scheduler=None,
    )
    name = folder_of(cell)
    return open_study(folder / TUNING / f"{name}.journal", name, tune), tune
