"""Ray Tune for a study: any source of trials as its searcher, and its events as ends of trials."""

import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.search import Searcher

from irtune.search.source import Outcome, TrialSource, TrialSpec
from irtune.search.stopping import TIME_ATTR
from irtune.studies.trial_table import TrialTable
from irtune.workers.error_text import NO_ERROR, last_line

logger = logging.getLogger(__name__)


class SourceSearcher(Searcher):  # type: ignore[misc]
    """Has Ray Tune ask a source and tell it; ``num_samples=-1`` lets the source say when there is no more.

    A result of Tune's is a final one, and its trial finished, if it carries ``final: True``.

    Args:
        source: The source.
    """

    def __init__(self, source: TrialSource) -> None:
        super().__init__()
        self._source = source
        self._specs: dict[str, TrialSpec] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        """The next trial, or ``FINISHED``."""
        spec = self._source.ask()
        if spec is None:
            return str(Searcher.FINISHED)
        self._specs[trial_id] = spec
        return asdict(spec)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Pass on what a trial reports."""
        if (step := result.get(TIME_ATTR)) is not None:
            self._source.report(self._specs[trial_id], step, result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Pass on how a trial ended."""
        result = result or {}
        if not error:
            # The result at which a scheduler stops a trial comes here only.
            self.on_trial_result(trial_id, result)
        spec = self._specs.pop(trial_id)
        if error:
            self._source.tell(spec, Outcome("failed", result, "it raised an error"))
        else:
            self._source.tell(spec, Outcome("finished" if result.get("final") else "pruned", result))

    def save(self, checkpoint_path: str) -> None:
        """Nothing to write: what a later driver needs is in the source's own record."""


class TableCallback(tune.Callback):  # type: ignore[misc]
    """Enters what happens to Tune's trials into a table.

    Args:
        table: The table.
        on_end: Told the name of every trial that ended, before the table is.
        on_step: Called several times a second, between two changes of anything; what it raises ends the run.
    """

    def __init__(self, table: TrialTable, on_end: Callable[[str], None], on_step: Callable[[], None]) -> None:
        self._table, self._on_end, self._on_step = table, on_end, on_step

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles callbacks for a restore of its own, while ours hold on to threads."""
        return {}

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Tune's loop goes round."""
        self._on_step()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial begins, or goes on."""
        self._table.open(TrialSpec(**trial.config))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The trial ran to its end, or the scheduler stopped it."""
        self._on_end(trial.config["name"])
        self._table.end(trial.config["name"], "finished" if trial.last_result.get("final") else "pruned")

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The trial failed, and will go on from its checkpoint."""
        record = self._table.records[trial.config["name"]]
        record.interruptions.append(last_line(_error(trial)))
        logger.warning("%s is tried again: %s", record.spec.name, record.interruptions[-1])

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The trial failed for good."""
        self._on_end(trial.config["name"])
        self._table.end(trial.config["name"], "failed", _error(trial))


def _error(trial: Any) -> str:
    """Read what Tune kept of a trial's errors: as text, or pickled where the file of texts is missing or empty."""
    file = trial.error_file
    text = Path(file).read_text(errors="replace") if file and Path(file).is_file() else ""
    if text.strip():
        return text
    try:
        error = trial.get_pickled_error()
    except Exception:
        # It was torn, or is of a class that is not to be had here.
        error = None
    return NO_ERROR if error is None else f"{type(error).__name__}: {error}"
