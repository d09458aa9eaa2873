"""One experiment trained once, on the same workers, tracked and resumed as the trials of a study."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from irtune.analysis.tables import MISSING, duration, operations, worded
from irtune.config.load import apply_overrides, build
from irtune.config.run_schema import RunConfig
from irtune.data.dataset import Split
from irtune.files import once_there_is_room, write_whole
from irtune.redaction import redacted
from irtune.search.source import ListSource, TrialSpec
from irtune.studies.artifacts import HEAT_MAP
from irtune.studies.driver import Phase
from irtune.studies.forecast import SweepCost, Trial
from irtune.studies.kept_plan import kept_in_words
from irtune.studies.plan import Plan, actual_of_run, compared_with_plan, in_words, show_compared, tried, with_starts
from irtune.studies.preflight import Study
from irtune.studies.recorded import StudyError, find_trial
from irtune.studies.study import KnownEnd, StudyRunner
from irtune.studies.trial_record import TrialRecord
from irtune.studies.trial_table import TrialTable
from irtune.studies.ways_to_look import show_answer, show_attempts, ways_to_look
from irtune.tracking.mlflow_tracker import MlflowTracker
from irtune.training.record import ADAPTER
from irtune.training.rehearsal import Rehearsal

RUN = "run"
"""The name of its only trial."""

SETTINGS = "run.yaml"


def config_from(study: str, storage: Path, overrides: Mapping[str, Any]) -> tuple[RunConfig, Path]:
    """The configuration of a trial that finished, to be trained again beside its study, and the trial's folder.

    Args:
        study: A study's folder or name, with ``:TRIAL`` behind it for another trial than the best.
        storage: Where studies lie.
        overrides: By dotted key, over the trial's settings.

    Raises:
        ValueError: If there is no such trial, or its settings and the overrides do not fit together.
    """
    trial = find_trial(study, storage)
    if not trial.tree:
        raise StudyError(f"{trial.folder}: an earlier version of irtune wrote its settings as text only; give a file")
    name = trial.tree["name"]
    # A study that was moved or imported names the storage of another place.
    where = str(trial.folder.resolve().parents[2])
    tree = {**trial.tree, "name": name if trial.name == RUN else f"{name}-{trial.name}", "storage": where}
    return build(RunConfig, apply_overrides(tree, overrides), str(trial.folder)), trial.folder


class SingleRunner(StudyRunner[RunConfig, TrialRecord]):
    """The way of a single run."""

    def most_trials(self, config: RunConfig) -> int:
        """One."""
        return 1

    def trials_in_words(self, config: RunConfig) -> str:
        """Its strategy and length."""
        return f"one ({config.strategy}) of {config.training.max_steps} steps, seed {config.seed}"

    def phases(self, study: Study[RunConfig], known_end: KnownEnd) -> list[Phase]:
        """The run."""
        return [Phase(lambda rows: ListSource([TrialSpec(RUN, {})], known_end), 1)]

    def make_plan(
        self, study: Study[RunConfig], lengths: Mapping[Split, np.ndarray], rehearsal: Rehearsal, at_once: int
    ) -> Plan:
        """The cost of the run."""
        config = study.config
        experiment = config.experiment()
        pace, cost, memory_bytes, source = tried(study, rehearsal, int(lengths["train"].max()), [experiment])
        run = Trial.of(experiment, cost, lengths, pace)
        run, nothing = with_starts(config, run, run, 0, pace, at_once)
        whole = SweepCost.of(run, nothing, 0, {}, at_once)
        predicted = {
            "run_step_s": run.step_s,
            "run_flops": whole.flops,
            "memory_bytes": memory_bytes,
            "run_s": whole.wall_s,
        }
        return Plan.of(
            study,
            predicted | {"memory_bytes": memory_bytes},
            source,
            work={"trials": self.trials_in_words(config)},
            takes={
                "shared": cost.sharing.in_words(),
                "kept": kept_in_words([experiment], cost, lengths),
                "in all": in_words(whole, config.engine),
            },
        )

    def conclude(
        self, study: Study[RunConfig], table: TrialTable, tracker: MlflowTracker, console: Console
    ) -> TrialRecord:
        """Write its settings, and show what it found."""
        run = table.records[RUN]
        settings = yaml.safe_dump(redacted(run.config.model_dump(mode="json")), sort_keys=False)
        once_there_is_room(lambda: write_whole(study.folder / SETTINGS, settings), study.folder)
        commands = ways_to_look(study, tracker, params=("selection.policy.name",), tags=("irtune.strategy",))
        table.adapters.upload(table.uploader)
        _show(study, run, commands, console)
        return run

    def succeeded(self, found: TrialRecord) -> bool:
        """Tell whether it finished."""
        return found.status == "finished"


def _show(study: Study[RunConfig], run: TrialRecord, commands: tuple[str, str], console: Console) -> None:
    show_compared(compared_with_plan(study.folder, actual_of_run(run)), console)
    if run.status == "finished":
        console.print(_scores(run.latest))
    show_attempts([run], console)
    places = {
        "settings": str(study.folder / SETTINGS),
        "adapter": str(run.folder / ADAPTER),
        "blocks": str(run.folder / HEAT_MAP),
    }
    there = {label: place for label, place in places.items() if Path(place).exists()}
    show_answer(there, commands, _answer(study, run), (), console)


def _scores(results: Mapping[str, Any]) -> Table:
    """Every metric on validation and test."""
    shown = Table("", box=SIMPLE_HEAD, title="Scores of the best weights", title_justify="left")
    splits = ("validation", "test")
    for split in splits:
        shown.add_column(split, justify="right")
    before = "final/validation_"
    for name in (key.removeprefix(before) for key in results if key.startswith(before)):
        values = [results.get(f"final/{split}_{name}") for split in splits]
        shown.add_row(name, *(MISSING if value is None else worded(name, value) for value in values))
    return shown


def _answer(study: Study[RunConfig], run: TrialRecord) -> str:
    row = run.row(study.config.aim, study.metric)
    if run.status != "finished" or row.validation_score is None or row.test_score is None:
        return f"the run has not finished ({run.status}); --resume goes on with it"
    seconds = "" if row.seconds is None else f", trained in {duration(row.seconds)}"
    flops = "" if row.flops is None else f" with {operations(row.flops)} FLOPs"
    blocks = "" if row.mean_active is None else f"{row.mean_active:.3g} of {row.num_blocks} blocks at a time"
    return (
        f"{study.metric.words} {row.test_score:.3f} on test, {row.validation_score:.3f} on validation (step "
        f"{run.latest['final/best_step']:.0f} of {study.config.training.max_steps}): {blocks}{seconds}{flops}."
    )
