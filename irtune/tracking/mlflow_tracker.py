"""The driver's hand in MLflow: it alone starts runs, sends what trials measured, and says how each run ended."""

import hashlib
import json
import logging
import posixpath
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils import chunk_list
from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH, MAX_PARAMS_TAGS_PER_BATCH, MAX_TAG_VAL_LENGTH
from requests import HTTPError

from irtune.redaction import public_address, redact
from irtune.tracking.address import artifact_root, local_database, quoted
from irtune.tracking.connection import TrackingError, fail_fast
from irtune.tracking.contained import OutsideError, check_inside, files_inside
from irtune.tracking.conversion import POINTS_PER_CALL, cut, names_and_texts, points
from irtune.tracking.logged_model import Origin, add_files, log_model, register
from irtune.tracking.run_record import DATA_TAG, DIGEST_TAG, KEY_TAG, Ended, Opened, RunStatus
from irtune.training.adapter_notes import AdapterFolderError
from irtune.training.record import ADAPTER, Record

logger = logging.getLogger(__name__)

FINAL = "final/"
"""What begins the names of scores of the best weights, which come together with what the run cost."""

_chunks: Callable[..., Iterator[Any]] = chunk_list
_CALL_TIMEOUT_S = 20
_UPLOAD_TIMEOUT_S = 300
_ERROR_TAG_LENGTH = 4000
_REFUSALS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST"}
_WORTH_A_RETRY = {401, 403, 408, 429}


@dataclass
class _Run:
    """An open run, what has been sent to it, and of what its model is to be made.

    Args:
        is_new: MLflow has just made it, and no model of it can be there.
        has_result: The trial has finished, whoever heard of it.
    """

    run_id: str
    steps: dict[str, set[int]] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    artifacts: set[tuple[str, int]] = field(default_factory=set)
    tags: dict[str, str] = field(default_factory=dict)
    final: dict[str, Metric] = field(default_factory=dict)
    adapter: Record | None = None
    is_new: bool = False
    has_result: bool = False


class MlflowTracker:
    """Writes runs of one experiment. Methods raise when MLflow cannot be reached; calling them again is harmless.

    What MLflow refuses for good (a run that somebody deleted, a file that is gone) is logged and passed over: it
    remains in the run's folder.

    Args:
        uri: An address that ``check_tracking`` accepts.
        experiment: The experiment's name; made if absent.
        may_be_away: Ask for the experiment only when it is needed.

    Attributes:
        uri: The address, without logins.

    Raises:
        TrackingError: The experiment lies in MLflow's bin.
        MlflowException: MLflow cannot be reached.
    """

    def __init__(self, uri: str, experiment: str, *, may_be_away: bool = False) -> None:
        self.uri = public_address(uri)
        self._uri, self._experiment = uri, experiment
        with fail_fast(_CALL_TIMEOUT_S):
            self._client = MlflowClient(uri)
            if not may_be_away:
                _ = self.experiment_id
        self._runs: dict[str, _Run] = {}

    @cached_property
    def experiment_id(self) -> str:
        """MLflow's id of the experiment; raises like the constructor."""
        with fail_fast(_CALL_TIMEOUT_S):
            found = self._client.get_experiment_by_name(self._experiment)
            if found is None:
                database = local_database(self._uri)
                location = None if database is None else artifact_root(database).as_uri()
                try:
                    return str(self._client.create_experiment(self._experiment, artifact_location=location))
                except MlflowException as error:
                    if error.error_code != "RESOURCE_ALREADY_EXISTS":
                        raise
                    # Another driver has just made it.
                    found = self._client.get_experiment_by_name(self._experiment)
        if found is None or found.lifecycle_stage != "active":
            raise TrackingError(
                f"tracking.experiment: {self._experiment!r} was deleted in MLflow and still holds its name; "
                f"choose another name, or restore it with `mlflow experiments restore`"
            )
        return str(found.experiment_id)

    def start_run(self, start: Opened, *, is_new: bool = False) -> str:
        """Open a run, or open it again where the experiment has one with this key.

        Of a run that is there already, MLflow is asked for what it has, so that nothing is doubled whoever sent it.

        Args:
            start: Its key, name, tags, parameters and beginning.
            is_new: The experiment has no such run for certain, and is not searched, which takes as long as it has runs.

        Returns:
            MLflow's id of the run.
        """
        texts = names_and_texts({**start.tags, KEY_TAG: start.key}, MAX_TAG_VAL_LENGTH)
        with fail_fast(_CALL_TIMEOUT_S):
            found = None if is_new else self._find(start.key)
            if found is None:
                created = self._client.create_run(self.experiment_id, start.start_time_ms, texts, run_name=start.name)
                run = _Run(str(created.info.run_id), is_new=True)
            else:
                run = self._known(found)
                self._client.update_run(run.run_id, status="RUNNING", name=start.name)
                self._client.log_batch(run.run_id, tags=[RunTag(tag, text) for tag, text in texts.items()])
            if {DATA_TAG, DIGEST_TAG} <= start.tags.keys():
                # Of one that the run has already nothing comes of it.
                name, digest = start.tags[DATA_TAG], start.tags[DIGEST_TAG]
                data = Dataset(name, digest, "irtune", json.dumps({"name": name}))
                used = InputTag("mlflow.data.context", "training")
                self._client.log_inputs(run.run_id, [DatasetInput(data, [used])])
        self._runs[start.key] = run
        run.tags = texts
        if start.params:
            self.send(start.key, [{"kind": "params", "values": start.params}])
        return run.run_id

    def end_of(self, key: str) -> Ended | None:
        """How and when a run ended; None if MLflow has no such run, or an open one."""
        with fail_fast(_CALL_TIMEOUT_S):
            found = self._find(key)
        status: Any = None if found is None else found.info.status
        if found is None or status not in get_args(RunStatus):
            return None
        return Ended(status, {}, None, int(found.info.end_time or 0))

    def send(self, key: str, records: Sequence[Mapping[str, Any]]) -> None:
        """Send records to an open run, in order; what was sent before, or measured again later, is left out."""
        run = self._runs[key]
        params: dict[str, str] = {}
        tags: dict[str, str] = {}
        new: dict[tuple[str, int], Metric] = {}
        for record in records:
            if record["kind"] == "params":
                # MLflow lets nobody change a parameter, so the first attempt's value stands.
                params = names_and_texts(record["values"], MAX_PARAM_VAL_LENGTH) | params
            elif record["kind"] == "tags":
                tags |= names_and_texts(record["values"], MAX_TAG_VAL_LENGTH)
            elif record["kind"] == "resumed":
                tags["irtune.resumed_at"] = str(record["step"])
            elif record["kind"] == "result":
                run.has_result = True
            found = points(record)
            is_final = any(point.key.startswith(FINAL) for point in found)
            for point in found:
                if is_final:
                    run.final.setdefault(point.key, point)
                if point.step not in run.steps.setdefault(point.key, set()):
                    new.setdefault((point.key, point.step), point)
        unknown = [Param(name, text) for name, text in params.items() if name not in run.params]
        with fail_fast(_CALL_TIMEOUT_S):
            for some in _chunks(unknown, MAX_PARAMS_TAGS_PER_BATCH):
                self._log_batch(run, params=some)
                run.params.update((param.key, param.value) for param in some)
            self._log_tags(run, tags)
            for chunk in _chunks(list(new.values()), POINTS_PER_CALL):
                self._log_batch(run, metrics=chunk)
                for point in chunk:
                    run.steps[point.key].add(point.step)
        for record in records:
            if record["kind"] != "artifact":
                continue
            if record["artifact_folder"] == ADAPTER:
                # A later line about it may ask for more.
                run.adapter = {**(run.adapter or {}), **record}
            else:
                self._send_artifact(run, record)

    def finish(self, key: str, end: Ended) -> None:
        """Say how an open run ended, and close it; its error becomes the tag ``irtune.error`` and ``error.txt``.

        A trial that has finished is logged as a model now, with its adapter if that was sent.
        """
        run = self._runs[key]
        if run.has_result:
            self._send_model(run)
        texts = names_and_texts(end.tags, MAX_TAG_VAL_LENGTH)
        with fail_fast(_CALL_TIMEOUT_S):
            if end.error_text is not None:
                text = redact(end.error_text)
                texts["irtune.error"] = cut(text, _ERROR_TAG_LENGTH)
                _unless_refused(f"error.txt of {key}", lambda: self._client.log_text(run.run_id, text, "error.txt"))
            self._log_tags(run, texts)
            _unless_refused(
                f"the end of {key}", lambda: self._client.set_terminated(run.run_id, end.status, end.end_time_ms)
            )
        del self._runs[key]

    def save_view(self, sweep: str, state: Mapping[str, Any]) -> str:
        """Save how the user interface shows a sweep (``irtune.tracking.view``); saved again, a view is replaced.

        Returns:
            The view's id for ``comparison_url``: one a sweep, of characters that any name may have.
        """
        view_id, now_ms = f"irtune-{hashlib.sha256(sweep.encode()).hexdigest()[:16]}", time.time_ns() // 1_000_000
        view = {"name": sweep, "createdAt": now_ms, "updatedAt": now_ms, "state": json.dumps(state)}
        with fail_fast(_CALL_TIMEOUT_S):
            self._client.set_experiment_tag(self.experiment_id, f"mlflow.sharedViewState.{view_id}", json.dumps(view))
        return view_id

    def _find(self, key: str) -> Run | None:
        query = f"tags.`{KEY_TAG}` = {quoted(key)}"
        return next(iter(self._client.search_runs([self.experiment_id], query, max_results=1)), None)

    def _known(self, found: Run) -> _Run:
        """A run with what it holds."""
        run_id = str(found.info.run_id)
        steps = {
            key: {point.step for point in self._client.get_metric_history(run_id, key)} for key in found.data.metrics
        }
        return _Run(run_id, steps, dict(found.data.params))

    def _log_tags(self, run: _Run, texts: Mapping[str, str]) -> None:
        for chunk in _chunks([RunTag(key, text) for key, text in texts.items()], MAX_PARAMS_TAGS_PER_BATCH):
            self._log_batch(run, tags=chunk)

    def _log_batch(
        self, run: _Run, metrics: Sequence[Metric] = (), params: Sequence[Param] = (), tags: Sequence[RunTag] = ()
    ) -> None:
        what = f"{len(metrics)} points, {len(params)} parameters and {len(tags)} tags of run {run.run_id}"
        _unless_refused(what, lambda: self._client.log_batch(run.run_id, metrics, params, tags))

    def _send_artifact(self, run: _Run, record: Mapping[str, Any]) -> None:
        sent = (record["path"], record["time_ms"])
        if sent in run.artifacts:
            return
        with fail_fast(_UPLOAD_TIMEOUT_S):
            _unless_refused(f"the artifact {record['path']}", lambda: self._upload(run.run_id, record))
        run.artifacts.add(sent)

    def _send_model(self, run: _Run) -> None:
        data = (run.tags[DATA_TAG], run.tags[DIGEST_TAG]) if {DATA_TAG, DIGEST_TAG} <= run.tags.keys() else None
        origin = Origin(self.experiment_id, run.run_id, run.tags, run.params, list(run.final.values()), data)
        # A call that failed may have taken effect.
        is_new, run.is_new = run.is_new, False

        def send() -> None:
            model = log_model(self._client, origin, is_new=is_new)
            if run.adapter is not None:
                add_files(self._client, model, Path(run.adapter["folder"]), run.adapter["path"])
                if "register" in run.adapter:
                    register(self._client, model, run.adapter["register"])

        with fail_fast(_CALL_TIMEOUT_S if run.adapter is None else _UPLOAD_TIMEOUT_S):
            try:
                _unless_refused(f"the model of run {run.run_id}", send)
            except AdapterFolderError as error:
                logger.warning("%s; it goes to MLflow as files, which no model is made of", error)
                assert run.adapter is not None
                self._send_artifact(run, run.adapter)

    def _upload(self, run_id: str, record: Mapping[str, Any]) -> None:
        target: str = record["artifact_folder"]
        if target:
            check_inside(target)
        refused: list[str] = []
        for where, file in files_inside(Path(record["folder"]), record["path"], refused):
            self._client.log_artifact(run_id, str(file), posixpath.join(target, where).rstrip("/") or None)
        if refused:
            logger.warning("of the artifact %s is left out: %s", record["path"], "; ".join(refused))


def _unless_refused(what: str, call: Callable[[], object]) -> None:
    """Make a call; what will be refused every time is logged, what may work later is raised."""
    try:
        call()
    except (MlflowException, HTTPError, FileNotFoundError, OutsideError) as error:
        if not _is_refusal(error):
            raise
        logger.warning("MLflow does not take %s, it stays in the run's folder only: %s", what, redact(str(error)))


def _is_refusal(error: Exception) -> bool:
    if isinstance(error, MlflowException):
        return error.error_code in _REFUSALS
    if isinstance(error, HTTPError):
        status = error.response.status_code if error.response is not None else 0
        return 400 <= status < 500 and status not in _WORTH_A_RETRY
    return isinstance(error, FileNotFoundError | OutsideError)
