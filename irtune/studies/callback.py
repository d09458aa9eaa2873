"""What the driver does as trials start and end: it keeps the book of them, and tells MLflow."""

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ray import tune

from irtune.config.load import with_overrides
from irtune.search.optuna_source import EndedTrial, is_baseline
from irtune.studies.adapters import Adapters
from irtune.studies.artifacts import keep_trace
from irtune.studies.preflight import Sweep
from irtune.studies.provenance import git_commit
from irtune.studies.trial_table import TrialRecord, config_hash, trial_name
from irtune.tracking.run_record import RunRecord
from irtune.tracking.uploader import Uploader
from irtune.training.record import Record, RecordReader
from irtune.workers.error_text import NO_ERROR, last_line
from irtune.workers.worker import TrialSetup

logger = logging.getLogger(__name__)


class SweepCallback(tune.Callback):  # type: ignore[misc]
    """Keeps the book of trials, and tells MLflow when one starts and how it ends."""

    def __init__(
        self,
        sweep: Sweep,
        setup: TrialSetup,
        uploader: Uploader,
        on_end: Callable[[str], None] = lambda trial: None,
        on_step: Callable[[], None] = lambda: None,
    ) -> None:
        self.sweep = sweep
        self.trials = setup
        self.uploader = uploader
        self.on_end = on_end
        self.on_step = on_step
        self.entries: dict[str, TrialRecord] = {}
        self.adapters = Adapters(sweep.config)
        self._commit = git_commit()
        self._ends = ThreadPoolExecutor(1, thread_name_prefix="irtune-ends")

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles callbacks for a restore of its own, while ours hold on to threads."""
        return {}

    def take(self, key: str, records: list[Record]) -> None:
        """New records of a trial, from the uploader's thread."""
        entry = self.entries.get(key.rpartition("/")[2])
        if entry is not None:
            entry.take(records)

    def take_last(self, key: str) -> None:
        """All records of a trial that ended were taken."""
        entry = self.entries.get(key.rpartition("/")[2])
        if entry is not None:
            entry.settle()
            self.adapters.take(entry)

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Tune's loop, several times a second, between two changes of anything."""
        self.on_step()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Open the trial's run; a restarted trial goes on in the same."""
        name = trial.config["trial"]
        if name in self.entries:
            return
        entry = self._enter(name, trial.config["overrides"], trial.config.get("repeats"))
        self._follow(entry, is_new=trial.config.get("is_new", False))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The trial ran to its end, or the scheduler stopped it."""
        finished = bool(trial.last_result.get("final"))
        self._end(trial.config["trial"], "finished" if finished else "pruned", None)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The trial failed, and will go on from its checkpoint."""
        entry = self.entries[trial.config["trial"]]
        entry.interruptions.append(last_line(_error(trial)))
        logger.warning("%s is tried again: %s", entry.trial_id, entry.interruptions[-1])

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The trial failed for good."""
        self._end(trial.config["trial"], "failed", _error(trial))

    def restore(self, trials: Sequence[EndedTrial]) -> dict[str, dict[int, float]]:
        """Enter trials that an earlier driver saw end; returns what stops trials by optimizer step, for each name."""
        metric, _ = self.sweep.config.stops_by
        scores = {}
        for trial in trials:
            entry = self._enter(trial.name, trial.overrides, trial.repeats)
            records = RecordReader(entry.folder).poll()
            entry.take(records)
            entry.settle()
            record = RunRecord(entry.folder)
            end = record.end()
            entry.status, entry.error = trial.status, (end and end.error_text) or trial.reason
            if not record.is_sent():
                self._follow(entry)
                self._end(entry.trial_id, entry.status, entry.error)
            measured = (each for each in records if each["kind"] == "metrics" and metric in each["values"])
            self.adapters.take(entry)
            scores[trial.name] = {each["step"]: each["values"][metric] for each in measured}
        return scores

    def close_open(self) -> list[TrialRecord]:
        """Whatever still runs is being killed with the driver; returns it, since its traces are still to be drawn."""
        killed = [entry for entry in self.entries.values() if entry.status is None]
        for entry in killed:
            self._end(entry.trial_id, "killed", None)
        self.wait()
        return killed

    def wait(self) -> None:
        """Return when the uploader knows the end of every trial that ended."""
        self._ends.submit(lambda: None).result()

    def _enter(self, name: str, overrides: Mapping[str, Any], repeats: str | None) -> TrialRecord:
        config = with_overrides(self.sweep.config.experiment(), overrides)
        folder = self.trials.trial_folder(name)
        shown = trial_name(config) if repeats is None else f"{trial_name(config)} seed={config.seed}"
        entry = TrialRecord(name, shown, config, folder, is_baseline(name, repeats), repeats)
        entry.num_blocks = self.sweep.ready.inputs.num_blocks
        self.entries[name] = entry
        return entry

    def _follow(self, entry: TrialRecord, is_new: bool = False) -> None:
        config = entry.config
        tags = {
            "irtune.sweep": self.sweep.name,
            "irtune.kind": "trial" if entry.repeats is None else "finalist",
            "irtune.strategy": config.strategy,
            "irtune.baseline": str(entry.is_baseline).lower(),
            "irtune.seed": str(config.seed),
            "irtune.config_hash": config_hash(config),
            "irtune.git_commit": self._commit,
            "irtune.trial_folder": str(entry.folder),
        } | ({} if entry.repeats is None else {"irtune.repeats": entry.repeats})
        self.uploader.add(self._key(entry), entry.folder, name=entry.name, tags=tags, is_new=is_new)

    def _end(self, name: str, status: Any, error: str | None) -> None:
        self.on_end(name)
        entry = self.entries[name]
        entry.status, entry.error = status, error
        # Tune's loop, which every trial waits for, is not to wait for a drawing.
        self._ends.submit(self._close, entry, status, error)

    def _close(self, entry: TrialRecord, status: Any, error: str | None) -> None:
        # Whoever kills a driver does not wait for a drawing either.
        if status != "killed":
            keep_trace(entry)
        state = {"finished": "FINISHED", "pruned": "FINISHED", "failed": "FAILED", "killed": "KILLED"}[status]
        tags = {"irtune.pruned": str(status == "pruned").lower()}
        self.uploader.finish(self._key(entry), state, tags, error)  # type: ignore[arg-type]

    def _key(self, entry: TrialRecord) -> str:
        return f"{self.sweep.name}/{entry.trial_id}"


def _error(trial: Any) -> str:
    """What Tune kept of a trial's errors: as text, or pickled where the file of texts is missing or empty."""
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
