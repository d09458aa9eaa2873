"""A sweep: the baseline beside the search, the baseline at the winner's other settings, and repeats over seeds."""

from collections.abc import Mapping

import numpy as np
from rich.console import Console

from irtune.analysis.answer import Answer
from irtune.analysis.trials import BASELINE
from irtune.config.sweep_schema import SweepConfig
from irtune.data.dataset import Split
from irtune.search.optuna_source import STUDY, OptunaSource, open_study, requeue_interrupted
from irtune.search.source import BASELINE_SPEC, ListSource, Together
from irtune.search.warm_start import warm_start
from irtune.studies.conclusion import conclude
from irtune.studies.driver import Phase
from irtune.studies.finalists import choose_repeats
from irtune.studies.matched import matched_baseline, may_differ
from irtune.studies.plan import Plan, make_plan, num_beside
from irtune.studies.preflight import Sweep
from irtune.studies.study import KnownEnd, StudyRunner
from irtune.studies.trial_table import TrialTable
from irtune.tracking.mlflow_tracker import MlflowTracker
from irtune.tracking.uploader import Uploader
from irtune.training.rehearsal import Rehearsal


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
            most = num_beside(config) - may_differ(config)
            phases.append(Phase(lambda rows: ListSource(choose_repeats(tried, rows, config), known_end), most))
        return phases

    def make_plan(self, study: Sweep, lengths: Mapping[Split, np.ndarray], rehearsal: Rehearsal, at_once: int) -> Plan:
        """The cost of what the search draws, of what is stopped, and of what follows."""
        return make_plan(study, lengths, rehearsal, at_once)

    def conclude(
        self, study: Sweep, table: TrialTable, uploader: Uploader, tracker: MlflowTracker, console: Console
    ) -> Answer:
        """Say how many blocks to train."""
        return conclude(study, table, uploader, tracker, console)

    def succeeded(self, found: Answer) -> bool:
        """Tell whether at least one trial ran to its end, and kept to the constraints."""
        return found.best is not None
