"""Adapters that stay on storage, and those of them that go to MLflow: one of a large model has 100 MB."""

import logging
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from irtune.analysis.pareto import pareto_front
from irtune.analysis.trials import TrialRow, best_first
from irtune.config.study_schema import StudyConfig
from irtune.config.sweep_schema import SweepConfig
from irtune.data.label_names import some
from irtune.files import once_there_is_room
from irtune.studies.recorded import absent_adapter
from irtune.studies.trial_record import TrialRecord
from irtune.tracking.run_record import RunRecord
from irtune.tracking.uploader import Uploader
from irtune.training.record import ADAPTER

logger = logging.getLogger(__name__)

ROOM_S = 30.0
_MOST_NAMES = 8


class Adapters:
    """The adapters of the trials that finished, of which those go that no result of the sweep will be about.

    ``best`` are those of the best trials, as many as there are finalists (one without), of the best baseline, of all
    repeats of finalists and, with several objectives, of the Pareto front. A trial that is none of them among those
    that finished so far never will be, so that its adapter goes at once, and storage holds few at any time.

    Args:
        config: The study.
    """

    def __init__(self, config: StudyConfig) -> None:
        self._aim, self._tracking = config.aim, config.tracking
        finalists = config.tune.finalists if isinstance(config, SweepConfig) else None
        self._top = 1 if finalists is None else finalists.top
        self._entries: dict[str, TrialRecord] = {}
        self._rows: dict[str, TrialRow] = {}
        self._finished: set[str] = set()

    def take(self, entry: TrialRecord) -> None:
        """A trial is over, and all that it measured is known."""
        if entry.status != "finished":
            return
        self._finished.add(entry.spec.name)
        self._entries[entry.spec.name], self._rows[entry.spec.name] = entry, entry.row(self._aim)
        if self._tracking.keep_adapters == "all":
            return
        wanted = self._best() if self._tracking.keep_adapters == "best" else set()
        for trial in self._entries.keys() - wanted:
            # A link is left as it is.
            shutil.rmtree(self._entries.pop(trial).folder / ADAPTER, ignore_errors=True)
            del self._rows[trial]

    def upload(self, uploader: Uploader) -> None:
        """Let the uploader send the adapters of the best trials, once the sweep has no more to find.

        One that ought to be there and is not, as of a trial that finished on another machine, is warned of.
        """
        if self._tracking.keep_adapters == "none":
            return
        best = [self._entries[trial].folder for trial in sorted(self._best())]
        there = [folder for folder in best if (folder / ADAPTER).is_dir()]
        _warn_of([folder for folder in best if folder not in there])
        for folder in there if self._tracking.upload_adapters == "best" else []:
            record = RunRecord(folder)
            try:
                if all(artifact["path"] != ADAPTER for artifact in record.artifacts()):
                    once_there_is_room(partial(record.add_artifact, folder / ADAPTER, ADAPTER), folder, ROOM_S)
                    uploader.resend(record)
            except (OSError, ValueError) as error:
                logger.warning("%s: its adapter does not go to MLflow: %s", folder, error)

    def told(self) -> str:
        """Say which are kept, and which go to MLflow."""
        kept = sorted(trial for trial, entry in self._entries.items() if (entry.folder / ADAPTER).is_dir())
        where = {"best": f"{len(self._best() & set(kept))}", "all": f"{len(kept)}", "none": "none"}
        names = f" ({some(kept, _MOST_NAMES)})" if kept else ""
        return (
            f"{len(kept)} kept of {len(self._finished)} finished trials{names}, in trials/*/{ADAPTER}; "
            f"{where[self._tracking.upload_adapters]} in MLflow (tracking.keep_adapters="
            f"{self._tracking.keep_adapters}, tracking.upload_adapters={self._tracking.upload_adapters})"
        )

    def _best(self) -> set[str]:
        # Of equals the one that comes first, whichever ended first.
        found = [self._rows[trial] for trial in sorted(self._rows)]
        search = [row for row in found if row.repeats is None]
        objectives, (_, mode) = self._aim.objectives, self._aim.first_objective
        chosen = best_first(search, mode, baseline=False)[: self._top] + best_first(search, mode, baseline=True)[:1]
        chosen += pareto_front(search, objectives) if len(objectives) > 1 else []
        return {row.trial_id for row in (*chosen, *(row for row in found if row.repeats is not None))}


def _warn_of(absent: Sequence[Path]) -> None:
    """Say once of trials that their adapters are not there."""
    if absent:
        more = [folder.name for folder in absent[1:]]
        too = f". Nor are those of {some(more, _MOST_NAMES)}" if more else ""
        logger.warning("%s%s", absent_adapter(absent[0]), too)
