"""Ray Tune's searcher, over Optuna's ask and tell; the study file is the record of the sweep."""

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial, Trial, TrialState
from ray.tune.search import Searcher

from irtune.analysis.trials import BASELINE
from irtune.config.sweep_schema import TuneConfig
from irtune.search.journal import StudyStorage
from irtune.search.objectives import excesses, in_words, measured, result_of
from irtune.search.samplers import build_sampler
from irtune.search.space import Space, Values, size, suggest
from irtune.search.stopping import TIME_ATTR

BASELINE_OVERRIDES: Values = {"method": None, "selection.policy.name": BASELINE}
"""What makes the first trial of every sweep the baseline."""

STUDY = "study.journal"
"""The file of a study in the folder of its sweep."""

BASELINE_TRIAL = "baseline"
"""The baseline's name among the trials of a sweep."""

MATCHED = "baseline_of_"
"""Before the name of a trial: the baseline at that trial's other settings."""

TRIAL = "trial"
DUPLICATE_OF = "duplicate_of"
RESTART_OF = "restart_of"
REASON = "reason"
EARLIER = "earlier"
INTERMEDIATE = "intermediate/"
"""User attributes of an Optuna trial: its name in the sweep, which outlives restarts; the number of the trial whose
configuration it repeats, or that it goes on with; why it failed; of which study it is known, if not of this one; and by
optimizer step what was measured on the way, of several objectives, of which Optuna takes no intermediate values."""

KEPT_RESULTS = ("final/", "cost/")
"""Results under these prefixes become user attributes of the trial."""

OBJECTIVES = "metric"
"""User attribute of a study: what it searches for, in words."""

MAX_DUPLICATES = 10
"""How often the sampler is asked again after a configuration that was tried before."""

MAX_DRAWS = 1000
"""How many random configurations are then looked through for one that was not."""


def is_baseline(name: str, repeats: str | None = None) -> bool:
    """Whether a trial of this name, which may repeat another one, stands for all blocks training."""
    of = name if repeats is None else repeats
    return of == BASELINE_TRIAL or of.startswith(MATCHED)


def open_study(path: Path, name: str, tune: TuneConfig) -> optuna.Study:
    """The study called ``name`` in a journal file, which optuna-dashboard reads; made at first, later continued.

    Raises:
        ValueError: If the study in the file is about other objectives.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        storage=StudyStorage(path.resolve()),
        study_name=name,
        directions=["maximize" if mode == "max" else "minimize" for mode in tune.objectives.values()],
        load_if_exists=True,
    )
    setting = "tune.metric and tune.mode" if tune.metrics is None else "tune.metrics"
    _agree(study, OBJECTIVES, in_words(tune.objectives), setting)
    with warnings.catch_warnings():
        # Experimental since 3.2; without it dashboards number the objectives.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(list(tune.objectives))
    # A continued study has to draw on where it stopped, not repeat its first random configurations.
    study.sampler = build_sampler(tune, tune.seed + len(study.get_trials(deepcopy=False)))
    return study


def requeue_interrupted(study: optuna.Study) -> list[int]:
    """Close trials that a killed sweep left open, and put their configurations, under their names, first in line.

    Args:
        study: The study of the sweep, which nobody else works on.

    Returns:
        The numbers of the closed trials.
    """
    closed = []
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        # Killed between being asked for and being named, a trial has no folder yet.
        name = trial.user_attrs.get(TRIAL, _name(trial.number))
        study.enqueue_trial(trial.params, user_attrs={RESTART_OF: trial.number, TRIAL: name})
        closed.append(trial.number)
    return closed


@dataclass
class _Running:
    trial: Trial
    reported_steps: set[int] = field(default_factory=set)


class OptunaAskTell(Searcher):  # type: ignore[misc]
    """Suggests the baseline, then ``tune.num_trials`` configurations of a study.

    A suggestion is ``{"overrides": {dotted key: value}, "trial": …, "is_baseline": …}``; ``trial`` is the trial's name,
    which is its folder's too, and the same when a later driver goes on with the trial, while ``is_new`` says that none
    has had it before. The baseline stands
    outside the study: it is not a point of the space, and its score would mislead the sampler; what it scored is kept
    in the study's user attributes ``baseline/…``. Tune is to be given ``num_samples=-1`` and no metric; the searcher
    says when the sweep is over, which is earlier than ``num_trials`` if the space has fewer configurations.

    A trial is told COMPLETE with the values of all objectives if its last result carries ``final: True``, PRUNED if it
    was stopped before, FAIL if it raised an error, or if an objective or a constraint has no finite value. A stopped
    trial has its intermediate values where there is one objective; where there are several it has no values at all, so
    that it lies on no Pareto front, however cheap it was. A suggestion that equals an earlier one is told FAIL with
    ``duplicate_of``, as Optuna's samplers ignore failed trials, whereas a pruned one without values counts as worst,
    and would drive TPE away from the best region that it just came back to.

    Args:
        study: The study of the sweep.
        space: What is searched.
        tune: How, and for what.
    """

    def __init__(self, study: optuna.Study, space: Space, tune: TuneConfig) -> None:
        super().__init__()
        described = {key: dimension.model_dump(mode="json") for key, dimension in space.items()}
        _agree(study, "space", described, "space")
        self._study = study
        self._space = dict(space)
        self._tune = tune
        # Of trials that stand for a configuration: number by identity, and how many there are.
        own = _own_trials(study)
        self._tried = {_identity(trial.params): trial.number for trial in own}
        self._num_asked = len(own)
        self._running: dict[str, _Running] = {}
        self._baseline_id: str | None = None
        self.is_exhausted = False
        """Whether everything has been suggested."""

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        """The next configuration, or ``FINISHED``."""
        if self._baseline_id is None and self._study.user_attrs.get("baseline/state") != TrialState.COMPLETE.name:
            self._baseline_id = trial_id
            return {"overrides": BASELINE_OVERRIDES, "trial": BASELINE_TRIAL, "is_baseline": True}
        asked = self._ask()
        if asked is None:
            self.is_exhausted = True
            return str(Searcher.FINISHED)
        trial, values = asked
        name = trial.user_attrs.get(TRIAL, _name(trial.number))
        trial.set_user_attr(TRIAL, name)
        self._running[trial_id] = self._begin(trial)
        is_new = RESTART_OF not in trial.user_attrs
        return {"overrides": values, "trial": name, "is_baseline": False, "is_new": is_new}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Keep intermediate values; steps that a restarted trial repeats count once."""
        running, step = self._running.get(trial_id), result.get(TIME_ATTR)
        values = {name: value for name in self._tune.objectives if (value := measured(result, name)) is not None}
        if running is None or not values or step is None or step in running.reported_steps:
            return
        running.reported_steps.add(step)
        if len(self._tune.objectives) == 1:
            running.trial.report(next(iter(values.values())), step)
        else:
            running.trial.set_user_attr(f"{INTERMEDIATE}{step}", values)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell the study how a trial ended."""
        result = result or {}
        reason = "it raised an error" if error else self._unmeasured(result)
        if reason is not None:
            state = TrialState.FAIL
        else:
            state = TrialState.COMPLETE if result.get("final") else TrialState.PRUNED
        values = [measured(result, name) for name in self._tune.objectives]
        attributes = {key: _plain(kept) for key, kept in result.items() if key.startswith(KEPT_RESULTS)}
        if reason is not None:
            attributes[REASON] = reason
        if trial_id == self._baseline_id:
            told = {"value": values[0]} if len(values) == 1 else {"values": values}
            self._keep_baseline({**told, **attributes, "state": state.name})
        elif trial_id in self._running:
            # The result at which a scheduler stops a trial comes here only.
            self.on_trial_result(trial_id, result)
            trial = self._running.pop(trial_id).trial
            for key, attribute in attributes.items():
                trial.set_user_attr(key, attribute)
            if state == TrialState.COMPLETE:
                for key, excess in excesses(result, self._tune.constraints).items():
                    trial.set_constraint(key, excess)
            finite = [value for value in values if value is not None]
            self._study.tell(trial.number, finite if state == TrialState.COMPLETE else None, state)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to write: the study is written to at once, and a later driver goes on from it alone."""

    def _unmeasured(self, result: Mapping[str, Any]) -> str | None:
        """Why a trial that ended with ``result`` cannot be told: something that it has to have is not there."""
        wanted = [*self._tune.objectives, *self._tune.constraints]
        if result and not result.get("final"):
            # What a run costs is only known at its end.
            wanted = [name for name in self._tune.objectives if name.startswith("eval/")]
        missing = next((name for name in wanted if measured(result, name) is None), None)
        return missing and f"{missing} was {result_of(result, missing)}"

    def _begin(self, trial: Trial) -> _Running:
        """A trial that goes on with another one has that one's intermediate values."""
        running = _Running(trial)
        if RESTART_OF in trial.user_attrs:
            before = self._study.get_trials(deepcopy=False)[trial.user_attrs[RESTART_OF]]
            kept = {key: values for key, values in before.user_attrs.items() if key.startswith(INTERMEDIATE)}
            for step, value in before.intermediate_values.items():
                trial.report(value, step)
            for key, values in kept.items():
                trial.set_user_attr(key, values)
            running.reported_steps.update(before.intermediate_values, (int(key.split("/")[1]) for key in kept))
        return running

    def _ask(self) -> tuple[Trial, Values] | None:
        """A trial with a configuration that was not tried before; None once there is no more to try."""
        if self._num_asked >= self._tune.num_trials or len(self._tried) == size(self._space):
            return None
        for _ in range(MAX_DUPLICATES):
            trial = self._study.ask()
            values = suggest(trial, self._space)
            if _identity(values) not in self._tried:
                return self._asked(trial, values)
            trial.set_user_attr(DUPLICATE_OF, self._tried[_identity(values)])
            self._study.tell(trial.number, state=TrialState.FAIL)
        untried = _untried(self._space, set(self._tried), seed=len(self._study.get_trials(deepcopy=False)))
        if untried is None:
            return None
        self._study.enqueue_trial(untried)
        trial = self._study.ask()
        return self._asked(trial, suggest(trial, self._space))

    def _asked(self, trial: Trial, values: Values) -> tuple[Trial, Values]:
        self._tried[_identity(values)] = trial.number
        self._num_asked += 1
        return trial, values

    def _keep_baseline(self, attributes: Mapping[str, Any]) -> None:
        for key, attribute in attributes.items():
            self._study.set_user_attr(f"baseline/{key}", attribute)


@dataclass(frozen=True)
class EndedTrial:
    """A trial of a study that needs no more work.

    Args:
        name: Its name in the sweep.
        overrides: Its configuration, as it was suggested.
        status: How it ended.
        reason: Why it failed.
        repeats: The name of the trial that it repeats with another seed.
    """

    name: str
    overrides: Values
    status: Literal["finished", "pruned", "failed"]
    reason: str | None = None
    repeats: str | None = None

    @property
    def is_baseline(self) -> bool:
        """Whether it is what the others are compared with."""
        return is_baseline(self.name, self.repeats)


def ended_trials(study: optuna.Study) -> list[EndedTrial]:
    """What a study knows to be over, the baseline first."""
    status: dict[TrialState, Any] = {
        TrialState.COMPLETE: "finished",
        TrialState.PRUNED: "pruned",
        TrialState.FAIL: "failed",
    }
    ended = []
    if study.user_attrs.get("baseline/state") == TrialState.COMPLETE.name:
        ended.append(EndedTrial(BASELINE_TRIAL, BASELINE_OVERRIDES, "finished"))
    for trial in _own_trials(study):
        if trial.state in status:
            name, reason = trial.user_attrs[TRIAL], trial.user_attrs.get(REASON)
            ended.append(EndedTrial(name, trial.params, status[trial.state], reason))
    return ended


def _name(number: int) -> str:
    return f"trial_{number:04d}"


def _agree(study: optuna.Study, key: str, value: Any, setting: str) -> None:
    """Make sure that a continued study is the same search, or write down what a new one searches."""
    known = study.user_attrs.get(key)
    if known is None:
        study.set_user_attr(key, value)
    elif known != value:
        raise ValueError(
            f"{setting}: the study {study.study_name!r} was begun with {known}, not {value}; "
            "give the sweep another name, or set it back"
        )


def _own_trials(study: optuna.Study) -> list[FrozenTrial]:
    """The trials of this sweep that stand for a configuration: not in line, no duplicates, none that was restarted."""
    trials = study.get_trials(deepcopy=False)
    restarted = {trial.user_attrs.get(RESTART_OF) for trial in trials}
    return [
        trial
        for trial in trials
        if trial.state != TrialState.WAITING
        and trial.number not in restarted
        and not {DUPLICATE_OF, EARLIER} & trial.user_attrs.keys()
    ]


def _untried(space: Space, tried: set[str], seed: int) -> Values | None:
    """A random configuration that was not tried before, if one is found."""
    scratch = optuna.create_study(sampler=RandomSampler(seed=seed))
    drawn = (suggest(scratch.ask(), space) for _ in range(MAX_DRAWS))
    return next((values for values in drawn if _identity(values) not in tried), None)


def _identity(values: Mapping[str, Any]) -> str:
    """Text that tells configurations apart, also ``k: 1`` (a count) from ``k: 1.0`` (a fraction)."""
    return json.dumps(values, sort_keys=True)


def _plain(value: Any) -> Any:
    """A value that JSON can hold."""
    return value.item() if isinstance(value, np.generic) else value
