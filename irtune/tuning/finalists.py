"""The finalists of a sweep: which trials are repeated over seeds, and what hands the repeats to Ray Tune."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import TrialState
from ray.tune.search import Searcher

from irtune.config.load import with_overrides
from irtune.config.schema import BASELINE, FinalistsConfig, SweepConfig
from irtune.tracking.ledger import RunLedger
from irtune.training.run import RESULT
from irtune.tuning.searcher import BASELINE_OVERRIDES, BASELINE_TRIAL, TRIAL, EndedTrial
from irtune.tuning.space import Values
from irtune.tuning.worker import TrialSetup

FINALISTS = "finalists"
"""User attribute of a study: which trials were chosen, and out of what."""


@dataclass(frozen=True)
class Repeat:
    """A trial of the search, run again with another seed.

    Args:
        repeats: The trial's name.
        seed: The other seed.
        overrides: The trial's configuration, with that seed.
    """

    repeats: str
    seed: int
    overrides: Values

    @property
    def name(self) -> str:
        """What it is called among the trials of the sweep."""
        return f"finalist_{self.repeats}_seed_{self.seed}"

    def suggestion(self) -> dict[str, Any]:
        """What Ray Tune is told of it."""
        is_baseline = self.repeats == BASELINE_TRIAL
        return {"overrides": self.overrides, "trial": self.name, "is_baseline": is_baseline, "repeats": self.repeats}

    def ended(self, setup: TrialSetup) -> EndedTrial | None:
        """How it ended under an earlier driver; None if there is work left."""
        folder = setup.trial_folder(self.name)
        end = RunLedger(folder).end()
        if end is not None and end.status == "FAILED":
            return EndedTrial(self.name, self.overrides, "failed", end.error_text, self.repeats)
        if end is not None and end.status == "FINISHED" and (folder / RESULT).is_file():
            return EndedTrial(self.name, self.overrides, "finished", repeats=self.repeats)
        return None


class RepeatSearcher(Searcher):  # type: ignore[misc]
    """Suggests repeats in the order given, then ``FINISHED``; how they end teaches it nothing."""

    def __init__(self, repeats: Iterable[Repeat]) -> None:
        super().__init__()
        self._left = list(repeats)

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        """The next repeat, or ``FINISHED``."""
        return self._left.pop(0).suggestion() if self._left else str(Searcher.FINISHED)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing to learn."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing to write: a later driver sees from the trials' folders what is left."""


def num_repeats(finalists: FinalistsConfig | None, num_trials: int) -> int:
    """How many repeats there will be after a search of ``num_trials`` that all finish, the baseline's among them."""
    return 0 if finalists is None else (min(finalists.top, num_trials) + 1) * finalists.seeds


def choose_repeats(study: optuna.Study, config: SweepConfig) -> list[Repeat]:
    """The repeats of the best trials of a search that is over, and of the baseline, seed after seed.

    The trials are chosen by what the search optimised on validation, the first of several objectives; of equals the one
    with fewer FLOPs comes first. Their seeds follow the one that the search trained with, which chose them, and so has
    no part in the comparison. The choice is written into the study, and stands until the search or
    ``tune.finalists.top`` is extended: whichever driver goes on, it goes on with the same finalists.

    Returns:
        Nothing if no trial that selects blocks finished.
    """
    finalists = config.tune.finalists
    assert finalists is not None
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    out_of = {"top": finalists.top, "num_finished": len(complete)}
    chosen = study.user_attrs.get(FINALISTS)
    if chosen is None or chosen["out_of"] != out_of:
        chosen = {"out_of": out_of, "trials": _choose(study, config, finalists.top)}
        study.set_user_attr(FINALISTS, chosen)
    overrides = {trial.user_attrs[TRIAL]: trial.params for trial in complete} | {BASELINE_TRIAL: BASELINE_OVERRIDES}
    seeds = range(config.seed + 1, config.seed + 1 + finalists.seeds)
    # A sweep that is stopped halfway has the first seeds of all finalists.
    return [Repeat(name, seed, overrides[name] | {"seed": seed}) for seed in seeds for name in chosen["trials"]]


def _choose(study: optuna.Study, config: SweepConfig, top: int) -> list[str]:
    """The baseline, which is the best trial that trains all blocks, and the best ``top`` that select."""
    sign = -1.0 if study.directions[0] == StudyDirection.MAXIMIZE else 1.0
    selective: list[tuple[float, float, str]] = []
    full: list[tuple[float, float, str]] = []
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        is_full = with_overrides(config.experiment(), trial.params).strategy == BASELINE
        cost = trial.user_attrs.get("cost/total_flops", math.inf)
        (full if is_full else selective).append((sign * trial.values[0], cost, trial.user_attrs[TRIAL]))
    attributes = study.user_attrs
    if attributes.get("baseline/state") == TrialState.COMPLETE.name:
        cost = attributes.get("baseline/cost/total_flops", math.inf)
        full.append((sign * attributes["baseline/value"], cost, BASELINE_TRIAL))
    baseline = min(full)[-1] if full else BASELINE_TRIAL
    best = [name for _, _, name in sorted(selective)[:top]]
    return [baseline, *best] if best else []
