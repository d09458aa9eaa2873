"""The same tuning budget for every cell: a search of its own on validation, whose winner then runs on fresh seeds.

Methods whose settings nobody tuned are compared at their authors' habits; nine variants of LoRA that differ by more
than ten points at one learning rate lie within two once each has its own (arXiv 2602.04998).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from irtune.analysis.ablation.cell_results import Cell
from irtune.config.ablation_schema import AblationConfig
from irtune.config.sweep_schema import TuneConfig
from irtune.search.ablation_cells import folder_of, group_of, space_of
from irtune.search.optuna_source import OptunaSource, ended_trials, open_study, requeue_interrupted
from irtune.search.source import Ended, Outcome, TrialSource, TrialSpec

TUNING = "tuning"
"""The folder of the searches in that of a study."""

SEED_BEFORE = 1_000_000
"""A number that is added to the experiment's seed for tuning: far from the seeds that cells are compared on."""


@dataclass
class Within:
    """The trials of a source as those of one cell: its overrides under theirs, their names after the cell's.

    Args:
        source: The search.
        cell: What it tunes.
        seed: That its trials train with.
    """

    source: TrialSource
    cell: Cell
    seed: int

    def __post_init__(self) -> None:
        self._inner: dict[str, TrialSpec] = {}

    @property
    def num_trials(self) -> int:
        """Of the source."""
        return self.source.num_trials

    @property
    def is_exhausted(self) -> bool:
        """Tell whether the source is."""
        return self.source.is_exhausted

    def ended(self) -> list[Ended]:
        """Return what the source knows to be over."""
        return [(self._outer(spec), outcome) for spec, outcome in self.source.ended()]

    def ask(self) -> TrialSpec | None:
        """Return the source's next trial."""
        spec = self.source.ask()
        return None if spec is None else self._outer(spec)

    def report(self, spec: TrialSpec, step: int, results: Mapping[str, Any]) -> None:
        """Pass on."""
        self.source.report(self._inner[spec.name], step, results)

    def tell(self, spec: TrialSpec, outcome: Outcome) -> None:
        """Pass on."""
        self.source.tell(self._inner[spec.name], outcome)

    def _outer(self, spec: TrialSpec) -> TrialSpec:
        name = f"tune_{folder_of(self.cell)}_{spec.name}"
        self._inner[name] = spec
        overrides = {**self.cell.overrides, **spec.overrides, "seed": self.seed}
        return TrialSpec(name, overrides, None, group_of(self.cell) | {"phase": TUNING})


def searches(folder: Path, config: AblationConfig, cells: Iterable[Cell]) -> list[Within]:
    """The search of every cell, going on from its file; none where nothing is tuned.

    Args:
        folder: Of the study.
        config: The study.
        cells: To be tuned.
    """
    if config.ablation.tuning is None:
        return []
    found = []
    for cell in cells:
        tried, tune = _open(folder, config, cell)
        requeue_interrupted(tried)
        source = OptunaSource(tried, space_of(config, cell), tune)
        found.append(Within(source, cell, config.seed + SEED_BEFORE))
    return found


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
