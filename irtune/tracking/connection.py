"""Reaching MLflow in bounded time, and saying clearly when it cannot be reached."""

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import requests
from mlflow import MlflowClient
from mlflow.exceptions import ERROR_CODE_TO_HTTP_STATUS, MlflowException

from irtune.redaction import redact
from irtune.tracking.address import local_database

_CHECK_TIMEOUT_S = 4
_lock = threading.Lock()
_callers = 0
_before: dict[str, str | None] = {}


class TrackingError(ValueError):
    """MLflow cannot be used as it is configured."""


class TrackingAwayError(TrackingError):
    """MLflow does not answer now; whether it ever will, nobody can tell."""


@contextmanager
def fail_fast(timeout_s: int) -> Iterator[None]:
    """Let MLflow's client fail after one try of at most ``timeout_s`` a request, and print nothing, in this block.

    By itself it retries for minutes, and prints a link at each run's end. It learns otherwise from the environment
    alone, which is therefore changed while any thread is in such a block; of overlapping blocks the first one sets
    the timeout.
    """
    global _callers
    limits = {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(timeout_s),
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    }
    with _lock:
        if _callers == 0:
            _before.update({name: os.environ.get(name) for name in limits})
            os.environ.update(limits)
        _callers += 1
    try:
        yield
    finally:
        with _lock:
            _callers -= 1
            if _callers == 0:
                _restore()


def _restore() -> None:
    for name, value in _before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def check_tracking(uri: str) -> None:
    """Make one call to the store, so that a wrong address is known before a sweep starts.

    Raises:
        TrackingAwayError: A server does not answer.
        TrackingError: No store of a known kind is there, or it does not let us in.
    """
    database = local_database(uri)
    if database is not None:
        _check_database(database)
    elif not uri.startswith(("http://", "https://")):
        raise _error(uri, "is not an address of a kind that irtune tracks to (MLflow no longer keeps plain folders)")
    try:
        with fail_fast(_CHECK_TIMEOUT_S):
            MlflowClient(uri).search_experiments(max_results=1)
    except MlflowException as error:
        is_away = isinstance(error.__context__, requests.RequestException)
        raise _error(uri, _reason(error), TrackingAwayError if is_away else TrackingError) from error


def _check_database(database: Path) -> None:
    # MLflow retries for 100 s on a file that is no database; SQLite itself says so at once.
    try:
        database.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(database, timeout=_CHECK_TIMEOUT_S)) as connection:
            connection.execute("PRAGMA schema_version").fetchone()
    except (OSError, sqlite3.Error) as error:
        raise _error(f"sqlite:///{database}", f"cannot be opened ({error})") from error


def _reason(error: MlflowException) -> str:
    status = ERROR_CODE_TO_HTTP_STATUS.get(error.error_code, 500)
    if status == 403:
        return (
            "refuses us (403): the server must be started with --allowed-hosts naming this host and port, "
            "or the login in MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD lacks the right"
        )
    if status == 401:
        return "wants a login (401), in MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD or MLFLOW_TRACKING_TOKEN"
    failure = error.__context__
    if isinstance(failure, requests.RequestException):
        # The HTTP library wraps what happened twice.
        happened = getattr(failure.args[0], "reason", failure) if failure.args else failure
        return f"cannot be reached ({redact(str(happened)).rsplit(': ', 1)[-1]})"
    answer = str(error).partition("\n")[0].removesuffix("Response body: ''")
    return f"does not answer as an MLflow server does ({redact(answer)[:200].rstrip(' .')})"


def _error(uri: str, reason: str, kind: type[TrackingError] = TrackingError) -> TrackingError:
    wait = "; with tracking.may_be_away=true a sweep begins without it" if kind is TrackingAwayError else ""
    return kind(
        f"tracking.uri: {redact(uri)} {reason}. Set tracking.uri, or the variable MLFLOW_TRACKING_URI, to the http(s) "
        "address of a running MLflow server or to sqlite:///<absolute path>/mlflow.db; with neither, irtune keeps an "
        f"SQLite database under storage{wait}"
    )
