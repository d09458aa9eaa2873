"""A sweep: the baseline beside the search, the baseline at the winner's other settings, and repeats over seeds."""

import json
import math
from collections.abc import Mapping

import numpy as np
import optuna
from optuna.samplers import RandomSampler
from rich.console import Console

from irtune.analysis.answer import Answer
from irtune.analysis.tables import duration, operations
from irtune.analysis.trials import BASELINE
from irtune.config.load import with_overrides
from irtune.config.schema import ExperimentConfig
from irtune.config.sweep_schema import SweepConfig
from irtune.data.dataset import Split
from irtune.search.optuna_source import STUDY, OptunaSource, num_searched, open_study, requeue_interrupted
from irtune.search.source import BASELINE_OVERRIDES, BASELINE_SPEC, ListSource, Together
from irtune.search.space import size, suggest
from irtune.search.warm_start import warm_start
from irtune.studies.conclusion import conclude
from irtune.studies.driver import Phase
from irtune.studies.finalists import choose_repeats, matched_baseline, may_differ, num_repeats
from irtune.studies.forecast import SweepCost, Trial, expected_stops
from irtune.studies.kept_plan import kept_in_words
from irtune.studies.plan import Plan, in_words, predictions, tried, with_starts
from irtune.studies.preflight import Sweep
from irtune.studies.study import KnownEnd, StudyRunner
from irtune.studies.trial_table import TrialTable
from irtune.tracking.mlflow_tracker import MlflowTracker
from irtune.training.rehearsal import Rehearsal

NUM_DRAWN = 30
"""Configurations drawn from the space to say what its trials take on average."""


class SweepRunner(StudyRunner[SweepConfig, Answer]):
    """The way of a sweep."""

    def most_trials(self, config: SweepConfig) -> int:
        """Those of the search, and the baseline."""
        return config.tune.num_trials + 1

    def trials_in_words(self, config: SweepConfig) -> str:
        """The number of trials, and of repeats."""
        finalists = config.tune.finalists
        repeated = f"; the best {finalists.top} and it again on {finalists.seeds} seeds" if finalists else ""
        repeated += "; the baseline again at the settings of the best" if may_differ(config) else ""
        steps = config.training.max_steps
        return f"{config.tune.num_trials} and the baseline ({BASELINE}) of {steps} steps{repeated}"

    def phases(self, study: Sweep, known_end: KnownEnd) -> list[Phase]:
        """The baseline beside the search; then the baseline at the winner's other settings; then repeats over seeds."""
        config = study.config
        tried = open_study(study.folder / STUDY, study.name, config.tune)
        requeue_interrupted(tried)
        warm_start(tried, study.ready.earlier)
        search = Together([ListSource([BASELINE_SPEC], known_end), OptunaSource(tried, config.space, config.tune)])
        phases = [Phase(lambda rows: search, search.num_trials, stops=config.tune.scheduler)]
        if may_differ(config):
            phases.append(Phase(lambda rows: ListSource(matched_baseline(tried, rows, config), known_end), 1))
        if config.tune.finalists is not None:
            repeats = Phase(
                lambda rows: ListSource(choose_repeats(tried, rows, config), known_end), num_repeats(config)
            )
            phases.append(repeats)
        return phases

    def make_plan(self, study: Sweep, lengths: Mapping[Split, np.ndarray], rehearsal: Rehearsal, at_once: int) -> Plan:
        """The cost of what the search draws, of what is stopped, and of what follows.

        The space is represented by random draws, although a sampler comes to prefer some of it, and every trial by the
        model, adapter and tokens of the experiment, also where the space varies them.
        """
        config, engine = study.config, study.config.engine
        drawn, searched = _drawn(config), num_searched(config.tune, config.space)
        pace, cost, memory_bytes, source = tried(study, rehearsal, int(lengths["train"].max()), drawn)
        baseline = Trial.of(with_overrides(config.experiment(), BASELINE_OVERRIDES), cost, lengths, pace)
        others = Trial.mean([Trial.of(one, cost, lengths, pace) for one in drawn])
        num_others = searched + may_differ(config) + num_repeats(config)
        baseline, others = with_starts(config, baseline, others, num_others, pace, at_once)
        stops = expected_stops(config.tune.scheduler, searched, others)
        stopped = sum(stops.values())
        most = SweepCost.of(baseline, others, num_others, {}, at_once)
        expected = SweepCost.of(baseline, others, num_others - stopped, stops, at_once)
        if_stopped = f"; about {in_words(expected, engine)} if ASHA stops {stopped:.1f}" if stopped else ""
        return Plan.of(
            study,
            predictions(baseline, others, expected, memory_bytes, stopped),
            source,
            work=_work(config, at_once),
            takes={
                "shared": cost.sharing.in_words(),
                "kept": kept_in_words(drawn, cost, lengths),
                "per trial": _trial_in_words(baseline, others),
                "in all": in_words(most, engine) + if_stopped,
            },
        )

    def conclude(self, study: Sweep, table: TrialTable, tracker: MlflowTracker, console: Console) -> Answer:
        """Say how many blocks to train."""
        return conclude(study, table, tracker, console)

    def succeeded(self, found: Answer) -> bool:
        """Tell whether at least one trial ran to its end, and kept to the constraints."""
        return found.best is not None


def _drawn(config: SweepConfig) -> list[ExperimentConfig]:
    study = optuna.create_study(sampler=RandomSampler(seed=config.tune.seed))
    draws = [suggest(study.ask(), config.space) for _ in range(NUM_DRAWN)]
    return [with_overrides(config.experiment(), values) for values in draws]


def _work(config: SweepConfig, at_once: int) -> dict[str, str]:
    """The trials and the space, in words."""
    searched, number, repeats = num_searched(config.tune, config.space), size(config.space), num_repeats(config)
    again = "; the baseline again at the settings of the best" if may_differ(config) else ""
    again += f"; {'up to ' if again else ''}{repeats} repeats over seeds" if repeats else ""
    space = {key: one.model_dump(mode="json", exclude_defaults=True) for key, one in config.space.items()}
    return {
        "trials": f"{1 + searched}, the baseline included{again}; {at_once} at a time",
        "space": f"{'infinitely many' if number is None else f'{number:,}'} configurations: {json.dumps(space)}",
    }


def _trial_in_words(baseline: Trial, others: Trial) -> str:
    if math.isnan(baseline.seconds):
        of_baseline, of_others = operations(baseline.step_flops), operations(others.step_flops)
        return f"{of_baseline} FLOPs per step of the baseline, {of_others} of others"
    steps = f"with steps of {baseline.step_s:.3g}s and {others.step_s:.3g}s"
    return f"{duration(baseline.seconds)} the baseline, {duration(others.seconds)} another, {steps}"
