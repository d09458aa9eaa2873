"""What a sampler may learn from the trials of an earlier sweep, before its first suggestion."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FixedTrial, FrozenTrial, TrialState

from irtune.config.sweep_schema import TuneConfig
from irtune.search.objectives import excesses, in_words, measured
from irtune.search.optuna_source import EARLIER, INTERMEDIATE, KEPT_RESULTS, OBJECTIVES, STUDY
from irtune.search.space import Space, suggest


def earlier_trials(tune: TuneConfig, space: Space) -> tuple[list[FrozenTrial], list[str]]:
    """The trials that ``tune.warm_start`` names, as this sweep's study can hold them; none if it names nothing.

    They are those that finished or were stopped; what of them is left out is said beside them, in words.

    Only journals are read, which are lines of JSON: nothing is unpickled, and nothing is written.

    Raises:
        ValueError: If there is no such study, it searched for something else, or none of its trials fits the space.
    """
    if tune.warm_start is None:
        return [], []
    path = Path(tune.warm_start).expanduser()
    study = _read(path / STUDY if path.is_dir() else path)
    found, wanted = study.user_attrs.get(OBJECTIVES), in_words(tune.objectives)
    if found != wanted:
        raise ValueError(f"tune.warm_start: {path} searched for {found}, and this sweep searches for {wanted}")
    over = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    fitting = (_fitting(trial, study.study_name, tune, space) for trial in over)
    trials = [trial for trial in fitting if trial is not None]
    if not trials:
        raise ValueError(
            f"tune.warm_start: none of the {len(over)} trials that finished in {path} lies in this space; leave it out"
        )
    if len(trials) == len(over):
        return trials, []
    doubt = (
        f"tune.warm_start: {len(over) - len(trials)} of {len(over)} trials of {path} are left out: they lie outside of "
        "this space, or lack a metric of tune.constraints"
    )
    return trials, [doubt]


def warm_start(study: optuna.Study, earlier: Sequence[FrozenTrial]) -> None:
    """Let a study know the trials of an earlier sweep, each once however often its sweep is resumed.

    They are no trials of this sweep: they are not counted, not shown among its results, and may be suggested again,
    since here they have no result. Their values are taken at face value, whatever data and model they come from.
    """
    known = {trial.user_attrs.get(EARLIER) for trial in study.get_trials(deepcopy=False)}
    study.add_trials(trial for trial in earlier if trial.user_attrs[EARLIER] not in known)


def _read(path: Path) -> optuna.Study:
    # Optuna would make a file that is not there.
    if not path.is_file():
        raise ValueError(f"tune.warm_start: {path} is not there; name the folder of a sweep, or its {STUDY}")
    try:
        storage = JournalStorage(JournalFileBackend(str(path)))
        (name,) = optuna.get_all_study_names(storage)
        return optuna.load_study(study_name=name, storage=storage)
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        raise ValueError(f"tune.warm_start: {path} is no journal of one study, as every sweep writes one") from error


def _fitting(trial: FrozenTrial, source: str, tune: TuneConfig, space: Space) -> FrozenTrial | None:
    """A trial as one of ``space``; None if its configuration is none there, or what is constrained was not measured."""
    fixed = FixedTrial(trial.params)
    results = {key: value for key, value in trial.user_attrs.items() if key.startswith((*KEPT_RESULTS, INTERMEDIATE))}
    is_complete = trial.state == TrialState.COMPLETE
    if is_complete and any(measured(results, metric) is None for metric in tune.constraints):
        return None
    try:
        with warnings.catch_warnings():
            # What is out of range is refused below.
            warnings.simplefilter("ignore")
            values = suggest(fixed, space)
        if values != trial.params:
            return None
        return optuna.create_trial(
            state=trial.state,
            values=trial.values,
            params=values,
            distributions=fixed.distributions,
            user_attrs={**results, EARLIER: f"{source} {trial.number}"},
            intermediate_values=trial.intermediate_values,
            constraints=excesses(results, tune.constraints) if is_complete else {},
        )
    except ValueError:
        return None
