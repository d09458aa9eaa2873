"""The trials of a study: what each is and how far it is, told to MLflow as they begin and end."""

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from irtune.analysis.trials import Status, TrialRow
from irtune.config.load import with_overrides
from irtune.config.study_schema import StudyConfig
from irtune.search.source import Ended, TrialSpec
from irtune.studies.adapters import Adapters
from irtune.studies.artifacts import keep_trace
from irtune.studies.preflight import Study
from irtune.studies.provenance import code_tags
from irtune.studies.trial_names import config_hash, trial_name
from irtune.studies.trial_record import TrialRecord
from irtune.tracking.run_record import FOLDER_TAG, Opened, RunRecord, RunStatus, now_ms
from irtune.tracking.uploader import Uploader
from irtune.training.record import RecordReader
from irtune.workers.worker import TrialSetup

logger = logging.getLogger(__name__)

_RUN_STATUS: Mapping[Status, RunStatus] = {
    "finished": "FINISHED",
    "pruned": "FINISHED",
    "failed": "FAILED",
    "killed": "KILLED",
}


class TrialTable:
    """The driver's view of all trials: by name in ``records``, and in the order in which they began in ``in_order``.

    Args:
        sweep: Whose trials they are.
        setup: Where they lie.
        uploader: Sends them to MLflow.
    """

    def __init__(self, sweep: Study[StudyConfig], setup: TrialSetup, uploader: Uploader) -> None:
        self.sweep = sweep
        self.setup = setup
        self.uploader = uploader
        self.records: dict[str, TrialRecord] = {}
        self.in_order: list[TrialRecord] = []
        self.adapters = Adapters(sweep.config)
        self._running: dict[str, TrialRecord] = {}
        self._code = code_tags()
        self._ends = ThreadPoolExecutor(1, thread_name_prefix="irtune-ends")

    def rows(self) -> list[TrialRow]:
        """The trials as the analysis reads them."""
        return [record.row(self.sweep.config.aim, self.sweep.metric) for record in self.records.values()]

    def read(self) -> None:
        """Take what trials have measured since the last look, and settle those that are over."""
        for name, record in list(self._running.items()):
            # Looked at first: a trial that is over writes no more.
            is_over = record.status is not None
            try:
                record.read()
            # A network file system that stumbles must not end the whole sweep.
            except Exception:
                logger.exception("%s: what it measured cannot be read", name)
                continue
            if is_over:
                del self._running[name]
                record.settle()
                self.adapters.take(record)

    def open(self, spec: TrialSpec) -> None:
        """A trial begins; one that is tried again goes on in the same run."""
        if spec.name not in self.records:
            self._running[spec.name] = self._enter(spec)
            self._follow(self._running[spec.name])

    def end(self, name: str, status: Status, error: str | None = None) -> None:
        """A trial is over."""
        record = self.records[name]
        record.status, record.error = status, error
        # Tune's loop, which every trial waits for, is not to wait for a drawing.
        self._ends.submit(self._close, record, status, error)

    def restore(self, ended: Sequence[Ended]) -> dict[str, dict[int, float]]:
        """Enter trials that an earlier driver saw end; returns what stops trials by optimizer step, for each name."""
        metric, _ = self.sweep.config.stops_by
        scores = {}
        for spec, outcome in ended:
            record = self._enter(spec)
            measured = RecordReader(record.folder).poll()
            record.take(measured)
            record.settle()
            run = RunRecord(record.folder)
            end = run.end()
            record.status, record.error = outcome.status, (end and end.error_text) or outcome.reason
            if end is None or end.status != _RUN_STATUS[outcome.status] or not run.is_opened():
                # Its driver heard of the end, and died before it had noted it; or it was taken over.
                self._follow(record)
                self.end(spec.name, outcome.status, record.error)
            elif not run.is_sent():
                self.uploader.resend(run)
            self.adapters.take(record)
            values = (each for each in measured if each["kind"] == "metrics" and metric in each["values"])
            scores[spec.name] = {each["step"]: each["values"][metric] for each in values}
        return scores

    def close_open(self) -> list[TrialRecord]:
        """Whatever still runs is being killed with the driver; returns it, since its traces are still to be drawn."""
        killed = [record for record in self.records.values() if record.status is None]
        for record in killed:
            self.end(record.spec.name, "killed")
        self.wait()
        return killed

    def wait(self) -> None:
        """Return when the uploader knows the end of every trial that ended."""
        self._ends.submit(lambda: None).result()

    def _enter(self, spec: TrialSpec) -> TrialRecord:
        config = with_overrides(self.sweep.config.experiment(), spec.overrides)
        shown = trial_name(config) if spec.repeats is None else f"{trial_name(config)} seed={config.seed}"
        folder = self.setup.trial_folder(spec.name)
        record = TrialRecord(spec, shown, config, folder)
        record.num_blocks = self.sweep.ready.inputs.num_blocks
        self.records[spec.name] = record
        self.in_order.append(record)
        return record

    def _follow(self, record: TrialRecord) -> None:
        spec, config = record.spec, record.config
        tags = {
            "irtune.sweep": self.sweep.name,
            "irtune.kind": spec.group.get("phase", "cell")
            if spec.group
            else "trial"
            if spec.repeats is None
            else "finalist",
            "irtune.strategy": config.strategy,
            "irtune.baseline": str(spec.is_baseline).lower(),
            "irtune.seed": str(config.seed),
            "irtune.config_hash": config_hash(config),
            **self._code,
            **self.sweep.ready.data_tags(config.data),
            FOLDER_TAG: str(record.folder),
        } | ({} if spec.repeats is None else {"irtune.repeats": spec.repeats})
        group = {f"irtune.{key}": value for key, value in spec.group.items()}
        # Where nothing lies yet, nobody can have told MLflow of the run.
        is_new = not record.folder.exists()
        opened = Opened(self._key(record), record.title, tags | group, now_ms(), group)
        self.uploader.add(record.folder, opened, is_new=is_new)

    def _close(self, record: TrialRecord, status: Status, error: str | None) -> None:
        # Whoever kills a driver does not wait for a drawing either.
        if status != "killed":
            keep_trace(record)
        tags = {"irtune.pruned": str(status == "pruned").lower()}
        self.uploader.finish(self._key(record), _RUN_STATUS[status], tags, error)

    def _key(self, record: TrialRecord) -> str:
        return f"{self.sweep.name}/{record.spec.name}"
