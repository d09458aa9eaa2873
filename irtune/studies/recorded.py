"""The trials of a study as their own records tell them, without its driver, its file or MLflow."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from irtune.analysis.metrics import better
from irtune.config.study_schema import Aim
from irtune.config.sweep_schema import TuneConfig
from irtune.config.tree import put
from irtune.plugins import nearest
from irtune.search import objectives
from irtune.search.source import TUNING
from irtune.studies.resume import IDENTITY, known_studies, read_identity, studies_called
from irtune.studies.trial_record import TrialRecord
from irtune.tracking.ownership import why_not_own
from irtune.training.record import ADAPTER

logger = logging.getLogger(__name__)


class StudyError(ValueError):
    """A folder cannot be read as a study; the message says why, and what to do."""


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


def recorded_trials(folder: Path, *, briefly: bool = False) -> list[TrialRecord]:
    """The trials of a study in whatever state, those that tune a cell included, by name.

    One whose records are damaged is warned of, and passed over.

    Args:
        folder: Of the study.
        briefly: Of what trials measured only what describes them, and their results.
    """
    found = []
    for place in sorted((folder / "trials").glob("*")):
        # One whose name begins with a dot is not whole yet.
        if place.name.startswith(".") or why_not_own(place) is not None:
            continue
        trial = TrialRecord.of(place)
        try:
            trial.look(briefly=briefly)
            if not trial.has_start:
                raise ValueError("no record of its driver is there")
            found.append(trial)
        except (ValueError, TypeError, KeyError, RecursionError, MemoryError) as error:
            logger.warning("%s is passed over: %s", place, error)
    return found


def finished_trials(folder: Path) -> tuple[list[TrialRecord], int]:
    """The trials of a study that finished, and how many others there are; trials that only tune a cell are neither."""
    found, num_others = [], 0
    for trial in recorded_trials(folder, briefly=True):
        lacking = [key for key in ("seed", "training.max_steps", "model.name") if key not in trial.texts]
        if not trial.has_result:
            num_others += 1
        elif lacking:
            logger.warning("%s is passed over: its record does not say %s", trial.folder, ", ".join(lacking))
        elif trial.tags.get("irtune.kind") != TUNING:
            found.append(trial)
    return found, num_others


def find_trial(name: str, storage: Path) -> TrialRecord:
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


def best_trial(folder: Path, trials: Sequence[TrialRecord], aim: Aim) -> TrialRecord:
    """Of the configuration that is best on validation the trial with the first seed; the baseline competes too.

    Raises:
        StudyError: No trial has a number for what they are judged by and keeps to the constraints.
    """
    groups: dict[str, list[TrialRecord]] = {}
    for trial in sorted(trials, key=lambda trial: trial.seed):
        groups.setdefault(trial.configuration, []).append(trial)
    return groups[best_configuration(folder, groups, aim)][0]


def best_configuration(folder: Path, groups: Mapping[str, Sequence[TrialRecord]], aim: Aim) -> str:
    """The best on validation, by the mean over seeds; where some were repeated, the others don't compete.

    Raises:
        StudyError: None has a number for what they are judged by and keeps to the constraints.
    """
    metric, mode = aim.first_objective
    repeated = {one: group for one, group in groups.items() if any(trial.spec.repeats for trial in group)}
    scores = {
        one: float(np.mean(known))
        for one, group in (repeated or groups).items()
        if (known := scores_of(group, metric))
        and not any(objectives.broken(trial.latest, aim.constraints) for trial in group)
    }
    if not scores:
        raise StudyError(
            f"{folder}: no trial keeps to tune.constraints and has a number for {metric}; name the one to go by: "
            f"{', '.join(groups)}"
        )
    return (max if mode == "max" else min)(scores, key=scores.__getitem__)


def scores_of(trials: Sequence[TrialRecord], metric: str) -> list[float]:
    """Scores on validation of trials of one configuration: repeats over seeds alone, where there are any.

    The seed that a configuration was chosen by flatters it.
    """
    repeats = [trial for trial in trials if trial.spec.repeats is not None]
    return [score for one in repeats or trials if (score := objectives.measured(one.latest, metric)) is not None]
