"""The finalists of a sweep: which trials are repeated over seeds, and what hands the repeats to Ray Tune."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from ray.tune.search import Searcher

from irtune.analysis.trials import TrialRow, best_first, chosen
from irtune.config.sweep import FinalistsConfig, SweepConfig
from irtune.tracking.ledger import RunLedger
from irtune.training.run import RESULT
from irtune.tuning.searcher import BASELINE_OVERRIDES, BASELINE_TRIAL, EndedTrial, ended_trials
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


def choose_repeats(study: optuna.Study, rows: Sequence[TrialRow], config: SweepConfig) -> list[Repeat]:
    """The repeats of the best trials of a search that is over, and of the baseline, seed after seed.

    The trials are chosen on validation. Their seeds follow the one that the search trained with, which chose them, and
    so has no part in the comparison. The choice is written into the study, and stands until more is searched or
    ``tune.finalists.top`` is another: whichever driver goes on, it goes on with the same finalists.

    Args:
        study: The study of the sweep.
        rows: All trials of the search.
        config: The sweep.

    Returns:
        Nothing if no trial that selects blocks finished.
    """
    finalists, mode = config.tune.finalists, config.tune.first_objective[1]
    assert finalists is not None
    best = [row.trial_id for row in best_first(rows, mode, baseline=False)]
    if not best:
        return []
    out_of = {"top": finalists.top, "num_finished": len(best)}
    chosen_before = study.user_attrs.get(FINALISTS)
    if chosen_before is None or chosen_before["out_of"] != out_of:
        # A baseline that failed may not do so with another seed.
        baseline = chosen(rows, mode, baseline=True)
        names = [BASELINE_TRIAL if baseline is None else baseline.trial_id, *best[: finalists.top]]
        study.set_user_attr(FINALISTS, {"out_of": out_of, "trials": names})
    overrides = {BASELINE_TRIAL: BASELINE_OVERRIDES} | {trial.name: trial.overrides for trial in ended_trials(study)}
    seeds = range(config.seed + 1, config.seed + 1 + finalists.seeds)
    # A sweep that is stopped halfway has the first seeds of all finalists.
    names = study.user_attrs[FINALISTS]["trials"]
    return [Repeat(name, seed, overrides[name] | {"seed": seed}) for seed in seeds for name in names]
