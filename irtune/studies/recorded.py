"""The trials of a study as their own records tell them, without its driver, its file or MLflow."""

import ast
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from irtune.analysis.metrics import better
from irtune.analysis.trials import BASELINE
from irtune.config.study_schema import Aim
from irtune.config.sweep_schema import TuneConfig
from irtune.config.tree import put
from irtune.plugins import nearest
from irtune.search import objectives
from irtune.search.source import TUNING
from irtune.studies.resume import IDENTITY, known_studies, read_identity, studies_called
from irtune.tracking.ownership import why_not_own
from irtune.tracking.run_record import RunRecord
from irtune.tracking.trace import read_trace
from irtune.training.record import ADAPTER, RecordReader, result_of

if TYPE_CHECKING:
    from irtune.analysis.ablation.stability import Choices

logger = logging.getLogger(__name__)

_LATER = "irtune.blocks"
"""A tag that is written with the last of what describes a trial."""


class StudyError(ValueError):
    """A folder cannot be read as a study; the message says why, and what to do."""


@dataclass(frozen=True)
class RecordedTrial:
    """A trial that finished.

    Args:
        name: Its folder's.
        folder: Where it lies.
        repeats: The cell that it is of, or the trial that it repeats with another seed.
        seed: Its seed.
        steps: Its optimizer steps.
        results: What it found, by metric.
        settings: By dotted key.
        tree: The same as a configuration file holds them; empty where an earlier version wrote the record.
        tags: What the driver and the trial noted of it.
    """

    name: str
    folder: Path
    repeats: str | None
    seed: int
    steps: int
    results: Mapping[str, Any]
    settings: Mapping[str, Any]
    tree: Mapping[str, Any]
    tags: Mapping[str, str]

    @property
    def configuration(self) -> str:
        """The name that all of its seeds have in common."""
        return self.name if self.repeats is None else self.repeats

    @property
    def is_baseline(self) -> bool:
        """True where every block trained at every step."""
        return self.tags.get("irtune.strategy") == BASELINE

    def section(self, name: str) -> dict[str, Any]:
        """A section of its settings as a tree."""
        return section(self.settings, name)

    def choices(self) -> "Choices":
        """Read which blocks it trained.

        Raises:
            ValueError: Its trace is absent or damaged.
        """
        # It brings SciPy's statistics, and whoever only looks at a study reads no choices.
        from irtune.analysis.ablation.stability import Choices

        try:
            trace = read_trace(self.folder)
            if len(trace["step"]):
                return Choices.of(self.seed, trace["step"], trace["active"], trace["scores"], self.steps)
        except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
            raise ValueError(f"{self.folder}: its choices of blocks cannot be read ({error})") from error
        raise ValueError(f"{self.folder}: no choice of blocks is recorded")


def find_study(name: str, storage: Path, *, of_anybody: bool = False) -> Path:
    """The folder of a study.

    Args:
        name: The folder, its name under ``storage``, or the study's own name, of which it is the newest.
        storage: Where studies lie.
        of_anybody: Also one that is not this user's own, for whoever only shows what is in it.

    Raises:
        StudyError: If there is none, or it is not this user's own.
    """
    given = Path(name).expanduser()
    candidates = [given, storage / name, *reversed(studies_called(name, storage))]
    folder = next((one for one in candidates if (one / IDENTITY).is_file()), None)
    if folder is None:
        there = next((one for one in candidates[:2] if one.exists()), None)
        wrong = f"{there} is no study: it has no {IDENTITY}" if there else f"no study {name!r} lies under {storage}"
        known = known_studies(storage)
        remedy = f": {nearest(name, [one.name for one in known])}" if known else ", which has none"
        raise StudyError(f"{wrong}; give the folder of a sweep or an ablation, or --storage and a name there{remedy}")
    foreign = None if of_anybody else why_not_own(folder)
    if foreign is not None:
        raise StudyError(f"{folder} {foreign}; copy it to a folder of your own, and give that")
    return folder


def aim_of(settings: Mapping[str, Any]) -> Aim:
    """Read what a study's trials are judged by from its settings by dotted key.

    Raises:
        StudyError: They don't say it.
    """
    try:
        return _aim_of(settings)
    except (ValueError, TypeError, KeyError) as error:
        raise StudyError(f"{IDENTITY} does not say what trials are judged by ({error}); bring it back") from error


def _aim_of(settings: Mapping[str, Any]) -> Aim:
    if "tune.metric" not in settings:
        metric = f"eval/{settings['metric']}"
        return Aim({metric: better(metric)})
    said = ("metrics",) if settings.get("tune.metrics") else ("metric", "mode")
    fields = {key: settings[f"tune.{key}"] for key in said if settings.get(f"tune.{key}") is not None}
    tune = TuneConfig.model_validate(fields | {"constraints": section(settings, "tune").get("constraints", {})})
    return Aim(tune.objectives, tune.constraints)


def section(settings: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The settings under a dotted key as a tree."""
    tree: dict[str, Any] = {}
    for key, value in settings.items():
        if key.startswith(f"{name}."):
            put(tree, key.removeprefix(f"{name}.").split("."), value)
    return tree


def finished_trials(folder: Path) -> tuple[list[RecordedTrial], int]:
    """The trials of a study that finished, and how many others there are; trials that only tune a cell are neither.

    One whose records are damaged is warned of, and passed over.
    """
    found, num_others = [], 0
    for trial in sorted((folder / "trials").glob("*")):
        if why_not_own(trial) is not None:
            continue
        try:
            read = _read(trial)
        except (ValueError, TypeError, KeyError, RecursionError, MemoryError) as error:
            logger.warning("%s is passed over: %s", trial, error)
            continue
        if read is None:
            num_others += 1
        elif read.tags.get("irtune.kind") != TUNING:
            found.append(read)
    return found, num_others


def find_trial(name: str, storage: Path) -> RecordedTrial:
    """A trial that finished.

    Args:
        name: A study as ``find_study`` takes it, with ``:TRIAL`` behind it; without, its best trial on validation.
        storage: Where studies lie.

    Raises:
        StudyError: If there is none, or nothing of the study has finished.
    """
    study, colon, wanted = name.rpartition(":")
    if not colon or Path(name).expanduser().is_dir():
        study, wanted = name, ""
    folder = find_study(study, storage)
    trials, num_others = finished_trials(folder)
    if not trials:
        raise StudyError(f"{folder}: none of its {num_others} trials has finished; let it go on with --resume")
    if not wanted:
        return best_trial(folder, trials, aim_of(read_identity(folder).settings))
    found = next((trial for trial in trials if trial.name == wanted), None)
    if found is None:
        raise StudyError(f"{folder}: no finished trial {wanted!r}: {nearest(wanted, [trial.name for trial in trials])}")
    return found


def absent_adapter(trial: Path) -> str:
    """Say of a trial's folder that its adapter is not there, why that may be, and how to have it."""
    study = trial.parents[1]
    return (
        f"{trial / ADAPTER}: the adapter of {trial.name} is not there: tracking.keep_adapters kept none, or it stayed "
        "where the trial ran (irtune export --no-adapters). Train it again with "
        f"irtune train --from {study}:{trial.name} tracking.keep_adapters=all"
    )


def best_trial(folder: Path, trials: Sequence[RecordedTrial], aim: Aim) -> RecordedTrial:
    """Of the configuration that is best on validation the trial with the first seed; the baseline competes too.

    Raises:
        StudyError: No trial has a number for what they are judged by and keeps to the constraints.
    """
    groups: dict[str, list[RecordedTrial]] = {}
    for trial in sorted(trials, key=lambda trial: trial.seed):
        groups.setdefault(trial.configuration, []).append(trial)
    return groups[best_configuration(folder, groups, aim)][0]


def best_configuration(folder: Path, groups: Mapping[str, Sequence[RecordedTrial]], aim: Aim) -> str:
    """The best on validation, by the mean over seeds; where some were repeated, the others don't compete.

    Raises:
        StudyError: None has a number for what they are judged by and keeps to the constraints.
    """
    metric, mode = aim.first_objective
    repeated = {one: group for one, group in groups.items() if any(trial.repeats for trial in group)}
    scores = {
        one: float(np.mean(known))
        for one, group in (repeated or groups).items()
        if (known := scores_of(group, metric))
        and not any(objectives.broken(trial.results, aim.constraints) for trial in group)
    }
    if not scores:
        raise StudyError(
            f"{folder}: no trial keeps to tune.constraints and has a number for {metric}; name the one to go by: "
            f"{', '.join(groups)}"
        )
    return (max if mode == "max" else min)(scores, key=scores.__getitem__)


def scores_of(trials: Sequence[RecordedTrial], metric: str) -> list[float]:
    """Scores on validation of trials of one configuration: repeats over seeds alone, where there are any.

    The seed that a configuration was chosen by flatters it.
    """
    repeats = [trial for trial in trials if trial.repeats is not None]
    return [score for one in repeats or trials if (score := objectives.measured(one.results, metric)) is not None]


def _read(folder: Path) -> RecordedTrial | None:
    """A trial; None if it has not finished."""
    results = result_of(folder)
    if results is None:
        return None
    opened = RunRecord(folder).start()
    settings: dict[str, Any] = {}
    tree: Mapping[str, Any] = {}
    tags = dict(opened.tags)
    # Later attempts say the same again.
    for record in RecordReader(folder):
        if record["kind"] == "params":
            tree = record.get("settings", {})
            settings |= {str(key): _value(text) for key, text in record["values"].items()}
        elif record["kind"] == "tags":
            tags |= {str(key): str(text) for key, text in record["values"].items()}
            if settings and _LATER in tags:
                break
    lacking = [key for key in ("seed", "training.max_steps", "model.name") if key not in settings]
    if lacking:
        raise ValueError(f"its record does not say {', '.join(lacking)}")
    seed, steps = int(settings["seed"]), int(settings["training.max_steps"])
    return RecordedTrial(folder.name, folder, tags.get("irtune.repeats"), seed, steps, results, settings, tree, tags)


def _value(text: Any) -> Any:
    """A setting from how a record has it: as Python's text of it."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return text
