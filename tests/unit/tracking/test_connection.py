import os
import re
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from servers import free_ports

from irtune.tracking.connection import TrackingAwayError, TrackingError, _whole_words, check_tracking, fail_fast

RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"


@contextmanager
def server_that_answers(status: int) -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()

        do_POST = do_GET  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


def test_a_store_that_works_passes(store_uri: str) -> None:
    check_tracking(store_uri)


def test_a_closed_port_is_told_within_seconds() -> None:
    started = time.monotonic()
    told = r"cannot be reached \(.*refused\).* MLFLOW_TRACKING_URI.*tracking\.may_be_away=true"
    with pytest.raises(TrackingAwayError, match=told) as caught:
        check_tracking(f"http://me:secret@127.0.0.1:{free_ports(1)[0]}")
    assert time.monotonic() - started < 5
    assert str(caught.value).startswith("tracking.uri: http://***@127.0.0.1:")
    assert "secret" not in str(caught.value)


def test_a_server_that_accepts_and_never_answers_is_told_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("irtune.tracking.connection._CHECK_TIMEOUT_S", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        with pytest.raises(TrackingAwayError, match=r"cannot be reached .*timed out"):
            check_tracking(f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert 1 <= time.monotonic() - started < 10


@pytest.mark.parametrize(("status", "advice"), [(403, "--allowed-hosts"), (401, "MLFLOW_TRACKING_TOKEN"), (503, "503")])
def test_a_server_that_refuses_is_asked_once_and_its_answer_explained(status: int, advice: str) -> None:
    with server_that_answers(status) as (uri, asked), pytest.raises(TrackingError, match=advice) as caught:
        check_tracking(uri)
    assert len(asked) == 1
    assert isinstance(caught.value, TrackingAwayError) == (status == 503)


@pytest.mark.parametrize("uri", ["./mlruns", "file:///tmp/mlruns", "htp://host", "postgresql://u:secret@db/x"])
def test_other_kinds_of_stores_are_refused(uri: str) -> None:
    with pytest.raises(TrackingError, match=r"tracking\.uri: .*is not an address of a kind") as caught:
        check_tracking(uri)
    assert "secret" not in str(caught.value)


def test_a_file_that_is_no_database_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("these are my notes, and there are a lot of them " * 100)
    started = time.monotonic()
    with pytest.raises(TrackingError, match="cannot be opened"):
        check_tracking(f"sqlite:///{tmp_path}/mlflow.db")
    assert time.monotonic() - started < 10


def test_a_database_where_none_can_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TrackingError, match="cannot be opened"):
        check_tracking(f"sqlite:///{tmp_path}/file/mlflow.db")


def test_the_environment_is_as_before_after_overlapping_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RETRIES, "5")
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with fail_fast(7):
            inside.set()
            leave.wait(5)

    other = threading.Thread(target=hold)
    with fail_fast(3):
        assert os.environ[RETRIES] == "0"
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "3"
        other.start()
        inside.wait(5)
    assert os.environ[RETRIES] == "0"
    leave.set()
    other.join()
    assert os.environ[RETRIES] == "5"
    assert "MLFLOW_HTTP_REQUEST_TIMEOUT" not in os.environ


CHECK = "import sys; from irtune.tracking.connection import check_tracking; check_tracking(sys.argv[1])"


def test_processes_that_make_a_database_at_once_all_do(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CHECK, f"sqlite:///{tmp_path}/storage/mlflow.db"]
    running = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    told = [process.communicate(timeout=110)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], told


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("UPDATE alembic_version SET version_num = '0584bdc529eb'", r"older MLflow.*mlflow db upgrade '?sqlite:///\S"),
        ("UPDATE alembic_version SET version_num = 'fffffffffff0'", r"newer MLflow.*fffffffffff0.*Install the MLflow"),
        ("DELETE FROM alembic_version", r"was interrupted in making\. Move .* out of the way"),
    ],
)
def test_a_database_of_another_mlflow_is_said_whole_with_the_remedy(tmp_path: Path, change: str, told: str) -> None:
    database = tmp_path / "a b@c.db"
    uri = f"sqlite:///{database}"
    check_tracking(uri)
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(change)
    # MLflow does not look again at a database that a process has open.
    asked = [sys.executable, "-c", CHECK, uri]
    (line,) = subprocess.run(asked, capture_output=True, text=True, check=False).stderr.strip().splitlines()[-1:]
    assert re.search(told, line), line
    assert line.startswith(f"irtune.tracking.connection.TrackingError: tracking.uri: {uri} ")
    assert "db upgrade" not in line or line.endswith(f"-m mlflow db upgrade '{uri}'")


def test_what_a_server_says_at_length_is_cut_between_words() -> None:
    shown = _whole_words("tables " * 60 + "\nsecond line")
    assert len(shown) <= 300
    assert set(shown.split()) == {"tables", "…"}
