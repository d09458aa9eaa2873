"""Optuna's ask and tell as a source of trials."""

import json
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial, Trial, TrialState

from irtune.config.sweep_schema import TuneConfig
from irtune.search.journal import StudyStorage
from irtune.search.objectives import excesses, in_words, measured, result_of
from irtune.search.samplers import build_sampler
from irtune.search.source import Ended, Outcome, TrialSpec
from irtune.search.space import Space, Values, size, suggest

STUDY = "study.journal"
"""The file of a study in the folder of its sweep."""

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


_STATES = {"finished": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
_STATUSES: Mapping[TrialState, Any] = {state: status for status, state in _STATES.items()}


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


def requeue_interrupted(study: optuna.Study) -> None:
    """Close trials that a killed sweep left open, and put their configurations, under their names, first in line.

    Args:
        study: The study of the sweep, which nobody else works on.
    """
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        # Killed between being asked for and being named, a trial has no folder yet.
        name = trial.user_attrs.get(TRIAL, _name(trial.number))
        study.enqueue_trial(trial.params, user_attrs={RESTART_OF: trial.number, TRIAL: name})


class OptunaSource:
    """Asks a study for ``tune.num_trials`` configurations; fewer if the space has no more.

    The study's file is its record: whatever is told is in there at once, and a later driver goes on from it alone.

    A trial is told COMPLETE with the values of all objectives if it finished, PRUNED if it was stopped before, FAIL if
    it failed, or if an objective or a constraint has no finite value. A stopped trial has its intermediate values
    where there is one objective; where there are several it has no values at all, so that it lies on no Pareto front,
    however cheap it was. A suggestion that equals an earlier one is told FAIL with ``duplicate_of``, as Optuna's
    samplers ignore failed trials, whereas a pruned one without values counts as worst, and would drive TPE away from
    the best region that it just came back to.

    Args:
        study: The study of the sweep.
        space: What is searched.
        tune: How, and for what.
    """

    def __init__(self, study: optuna.Study, space: Space, tune: TuneConfig) -> None:
        described = {key: dimension.model_dump(mode="json") for key, dimension in space.items()}
        _agree(study, "space", described, "space")
        self._study = study
        self._space = dict(space)
        self._tune = tune
        # Of trials that stand for a configuration: number by identity, and how many there are.
        own = _own_trials(study)
        self._tried = {_identity(trial.params): trial.number for trial in own}
        self._num_asked = len(own)
        self._running: dict[str, Trial] = {}
        self.num_trials = num_searched(tune, space)
        self.is_exhausted = False

    def ended(self) -> list[Ended]:
        """What the study knows to be over."""
        return ended_trials(self._study)

    def ask(self) -> TrialSpec | None:
        """The next configuration; None once everything was suggested."""
        asked = self._ask()
        if asked is None:
            self.is_exhausted = True
            return None
        trial, values = asked
        self._tried[_identity(values)] = trial.number
        self._num_asked += 1
        name = trial.user_attrs.get(TRIAL, _name(trial.number))
        trial.set_user_attr(TRIAL, name)
        self._running[name] = trial
        if RESTART_OF in trial.user_attrs:
            self._go_on(trial, self._study.get_trials(deepcopy=False)[trial.user_attrs[RESTART_OF]])
        return TrialSpec(name, values)

    def report(self, spec: TrialSpec, step: int, results: Mapping[str, Any]) -> None:
        """Keep intermediate values; steps that a restarted trial repeats count once."""
        trial, key = self._running[spec.name], f"{INTERMEDIATE}{step}"
        values = {name: value for name in self._tune.objectives if (value := measured(results, name)) is not None}
        if values and len(self._tune.objectives) == 1:
            with warnings.catch_warnings():
                # Optuna keeps the first report of a step, and warns of another.
                warnings.simplefilter("ignore", UserWarning)
                trial.report(next(iter(values.values())), step)
        elif values and key not in trial.user_attrs:
            trial.set_user_attr(key, values)

    def tell(self, spec: TrialSpec, outcome: Outcome) -> None:
        """Tell the study how a trial ended."""
        trial = self._running.pop(spec.name)
        reason = outcome.reason or self._unmeasured(outcome)
        state = TrialState.FAIL if reason is not None else _STATES[outcome.status]
        for key, kept in outcome.results.items():
            if key.startswith(KEPT_RESULTS):
                # The journal is JSON.
                trial.set_user_attr(key, kept.item() if isinstance(kept, np.generic) else kept)
        if reason is not None:
            trial.set_user_attr(REASON, reason)
        if state == TrialState.COMPLETE:
            for key, excess in excesses(outcome.results, self._tune.constraints).items():
                trial.set_constraint(key, excess)
        values = [measured(outcome.results, name) for name in self._tune.objectives]
        finite = [value for value in values if value is not None]
        self._study.tell(trial.number, finite if state == TrialState.COMPLETE else None, state)

    def _unmeasured(self, outcome: Outcome) -> str | None:
        """Why a trial cannot be told as it ended: something that it has to have is not there."""
        wanted = [*self._tune.objectives, *self._tune.constraints]
        if outcome.status == "pruned":
            # What a run costs is only known at its end.
            wanted = [name for name in self._tune.objectives if name.startswith("eval/")]
        missing = next((name for name in wanted if measured(outcome.results, name) is None), None)
        return missing and f"{missing} was {result_of(outcome.results, missing)}"

    def _go_on(self, trial: Trial, before: FrozenTrial) -> None:
        """Give a trial that goes on with another one that one's intermediate values."""
        for step, value in before.intermediate_values.items():
            trial.report(value, step)
        for key, values in before.user_attrs.items():
            if key.startswith(INTERMEDIATE):
                trial.set_user_attr(key, values)

    def _ask(self) -> tuple[Trial, Values] | None:
        """A trial with a configuration that was not tried before; None once there is no more to try."""
        if self._num_asked >= self._tune.num_trials or len(self._tried) == size(self._space):
            return None
        for _ in range(MAX_DUPLICATES):
            trial = self._study.ask()
            values = suggest(trial, self._space)
            if _identity(values) not in self._tried:
                return trial, values
            trial.set_user_attr(DUPLICATE_OF, self._tried[_identity(values)])
            self._study.tell(trial.number, state=TrialState.FAIL)
        untried = _untried(self._space, set(self._tried), seed=len(self._study.get_trials(deepcopy=False)))
        if untried is None:
            return None
        self._study.enqueue_trial(untried)
        trial = self._study.ask()
        return trial, suggest(trial, self._space)


def num_searched(tune: TuneConfig, space: Space) -> int:
    """Trials of a search besides the baseline; fewer than were asked for if the space has no more."""
    return min(tune.num_trials, size(space) or sys.maxsize)


def ended_trials(study: optuna.Study) -> list[Ended]:
    """What a study knows to be over."""
    return [
        (TrialSpec(trial.user_attrs[TRIAL], trial.params), Outcome(status, reason=trial.user_attrs.get(REASON)))
        for trial in _own_trials(study)
        if (status := _STATUSES.get(trial.state)) is not None
    ]


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
