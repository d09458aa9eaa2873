"""Reaching MLflow in bounded time, and saying clearly when it cannot be reached."""

import os
import re
import shlex
import sqlite3
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import mlflow
import requests
from alembic.util import CommandError
from filelock import FileLock, Timeout
from mlflow import MlflowClient
from mlflow.exceptions import ERROR_CODE_TO_HTTP_STATUS, MlflowException
from sqlalchemy.exc import SQLAlchemyError

from irtune.redaction import redact
from irtune.tracking.address import local_database

_CHECK_TIMEOUT_S = 4
_LOCK_TIMEOUT_S = 120
_TOLD_LENGTH = 300
_FOUND_SCHEMA = re.compile(r"database schema \(found version (\w+)")
_MIGRATIONS = Path(mlflow.__file__).parent / "store" / "db_migrations" / "versions"
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
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
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
        with _one_at_a_time(database), fail_fast(_CHECK_TIMEOUT_S):
            MlflowClient(uri).search_experiments(max_results=1)
    except MlflowException as error:
        if database is not None:
            raise TrackingError(f"tracking.uri: {uri} {_fault(database, str(error))}") from error
        is_away = isinstance(error.__context__, requests.RequestException)
        raise _error(uri, _reason(error), TrackingAwayError if is_away else TrackingError) from error
    except (SQLAlchemyError, CommandError) as error:
        # Only a database of this machine makes MLflow's client raise these.
        assert database is not None
        raise TrackingError(f"tracking.uri: {uri} {_fault(database, str(error))}") from error
    if database is not None and database.stat().st_size == 0:
        raise _error(uri, f"is kept by MLflow in another file than {database}; choose a folder with a plainer name")


@contextmanager
def _one_at_a_time(database: Path | None) -> Iterator[None]:
    """Let no other process of irtune make a database's tables meanwhile: of two that do at once, one fails."""
    if database is None:
        yield
        return
    try:
        held = FileLock(database.with_name(f".{database.name}.lock"), timeout=_LOCK_TIMEOUT_S).acquire()
    except (OSError, Timeout) as error:
        raise _error(f"sqlite:///{database}", f"cannot be locked ({error})") from error
    with held:
        yield


def _fault(database: Path, told: str) -> str:
    """What is wrong with the tables of an SQLite store, and what to do, as the rest of a sentence about it.

    Args:
        database: Its file.
        told: What MLflow, or what it stands on, says of it.
    """
    move, installed = f"Move {database} out of the way, or set tracking.uri to another", mlflow.__version__
    found = _FOUND_SCHEMA.search(told)
    if found is None:
        return f"holds tables that MLflow {installed} cannot use ({_whole_words(told)}). {move}"
    if found[1] == "None":
        return f"holds tables of another program, or ones that MLflow was interrupted in making. {move}"
    # A revision that the installed MLflow knows is older than its newest one.
    if not any(_MIGRATIONS.glob(f"{found[1]}_*.py")):
        return (
            f"has the tables of a newer MLflow than the installed one ({installed}; its schema is {found[1]}). Install "
            "the MLflow that made it, or set tracking.uri to another"
        )
    upgrade = shlex.join([sys.executable, "-m", "mlflow", "db", "upgrade", f"sqlite:///{database}"])
    return (
        f"has the tables of an older MLflow than the installed one ({installed}). Copy {database} as a backup, and "
        f"then run: {upgrade}"
    )


def _whole_words(text: str) -> str:
    """The first line of a text without logins, and of a long one not all, but no word in part."""
    return textwrap.shorten(redact(text.partition("\n")[0]), _TOLD_LENGTH, placeholder=" …").rstrip(" .")


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
    return f"does not answer as an MLflow server does ({_whole_words(answer)})"


def _error(uri: str, reason: str, kind: type[TrackingError] = TrackingError) -> TrackingError:
    wait = "; with tracking.may_be_away=true a sweep begins without it" if kind is TrackingAwayError else ""
    return kind(
        f"tracking.uri: {redact(uri)} {reason}. Set tracking.uri, or the variable MLFLOW_TRACKING_URI, to the http(s) "
        "address of a running MLflow server or to sqlite:///<absolute path>/mlflow.db; with neither, irtune keeps an "
        f"SQLite database under storage{wait}"
    )
