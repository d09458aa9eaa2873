"""An ablation: every cell on every seed, in the order of the seeds."""

import math
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from rich.console import Console

from irtune.analysis.ablation.findings import AblationFindings
from irtune.analysis.tables import duration
from irtune.analysis.trials import TrialRow
from irtune.config.ablation_schema import AblationConfig
from irtune.config.load import with_overrides
from irtune.data.dataset import Split
from irtune.search.ablation_cells import cells_of, matched_in_words, seeds_of, trials_of
from irtune.search.hopeless import rounds_of, without_hopeless
from irtune.search.source import ListSource
from irtune.studies.ablation_claims import write_claims
from irtune.studies.ablation_conclusion import conclude_ablation
from irtune.studies.driver import Phase
from irtune.studies.forecast import SweepCost, Trial
from irtune.studies.kept_plan import kept_in_words
from irtune.studies.plan import Plan, in_words, predictions, tried, with_starts
from irtune.studies.preflight import Ablation, study_cells
from irtune.studies.reuse import take_over
from irtune.studies.study import KnownEnd, StudyRunner
from irtune.studies.trial_table import TrialTable
from irtune.studies.tuning import search_of, tuned
from irtune.tracking.mlflow_tracker import MlflowTracker
from irtune.training.rehearsal import Rehearsal


class AblationRunner(StudyRunner[AblationConfig, AblationFindings]):
    """The way of an ablation.

    Args:
        fresh: Whether trials are run again that an earlier study has run with the same settings, data and code.
    """

    def __init__(self, fresh: bool = False) -> None:
        self._fresh = fresh

    def most_trials(self, config: AblationConfig) -> int:
        """Every cell on every seed, and what it is tuned by."""
        cells, tuning = cells_of(config), config.ablation.tuning
        return sum(len(seeds_of(config, cell)) for cell in cells) + (tuning.num_trials * len(cells) if tuning else 0)

    def trials_in_words(self, config: AblationConfig) -> str:
        """The number of cells and seeds."""
        cells = cells_of(config)
        seeds = sorted({len(seeds_of(config, cell)) for cell in cells})
        of_each = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
        corpora = f" on {len(config.ablation.corpora)} corpora" if config.ablation.corpora else ""
        steps = config.training.max_steps
        return (
            f"{self.most_trials(config)}: {len(cells)} cells{corpora} on {of_each} seeds, of {steps} steps; compared "
            f"with {config.ablation.baseline_cell}, at {matched_in_words(config)}"
            + (", or fewer: hopeless cells are dropped" if config.ablation.drop_hopeless else "")
        )

    def phases(self, study: Ablation, known_end: KnownEnd) -> list[Phase]:
        """The searches that tune cells; then all cells, seed after seed. What is claimed is written down before."""
        write_claims(study)
        config, folder, cells = study.config, study.folder, study_cells(study)
        search = search_of(folder, config, cells)
        phases = [] if search is None else [Phase(lambda rows: search, search.num_trials)]

        def compared(seeds: range, rows: Sequence[TrialRow]) -> ListSource:
            trials = trials_of(config, without_hopeless(config, tuned(folder, config, cells), rows), seeds)
            if not self._fresh:
                trials = take_over(folder, config.experiment(), study.ready.fingerprint(), trials)
            return ListSource(trials, known_end)

        rounds = rounds_of(config, cells)
        return [*phases, *(Phase(partial(compared, seeds), len(trials_of(config, cells, seeds))) for seeds in rounds)]

    def make_plan(
        self, study: Ablation, lengths: Mapping[Split, np.ndarray], rehearsal: Rehearsal, at_once: int
    ) -> Plan:
        """The cost of each cell, on the data of the first corpus."""
        config, cells = study.config, study_cells(study)
        varied = {cell.name: with_overrides(config.experiment(), cell.overrides) for cell in cells}
        pace, cost, memory_bytes, source = tried(study, rehearsal, int(lengths["train"].max()), list(varied.values()))
        of_cell = {cell.name: Trial.of(varied[cell.name], cost, lengths, pace) for cell in cells}
        times = config.ablation.tuning.num_trials if config.ablation.tuning else 0
        runs = [of_cell[cell.name] for cell in cells for _ in range(times + len(seeds_of(config, cell)))]
        baseline = next(of_cell[cell.name] for cell in cells if cell.is_baseline)
        others = Trial.mean([trial for trial in runs if trial is not baseline] or [baseline])
        baseline, others = with_starts(config, baseline, others, len(runs) - 1, pace, at_once)
        whole = SweepCost.of(baseline, others, len(runs) - 1, {}, at_once)
        return Plan.of(
            study,
            predictions(baseline, others, whole, memory_bytes),
            source,
            work={
                "trials": f"{self.trials_in_words(config)}; {at_once} at a time",
                "cells": "; ".join(f"{name} {_each(trial)}" for name, trial in of_cell.items()),
            },
            takes={
                "shared": cost.sharing.in_words(),
                "kept": kept_in_words(list(varied.values()), cost, lengths),
                "in all": in_words(whole, config.engine),
            },
        )

    def conclude(
        self, study: Ablation, table: TrialTable, tracker: MlflowTracker, console: Console
    ) -> AblationFindings:
        """Judge cells and claims."""
        return conclude_ablation(study, table, tracker, console)

    def succeeded(self, found: AblationFindings) -> bool:
        """Tell whether every cell has at least one seed that finished."""
        return all(one.rows for one in found.results)


def _each(trial: Trial) -> str:
    return f"{trial.step_flops:.3g} FLOPs/step" if math.isnan(trial.seconds) else duration(trial.seconds)
