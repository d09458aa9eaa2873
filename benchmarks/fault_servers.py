"""An MLflow server that can be killed, behind a proxy that can be slow or refuse."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType

SLOW_S = 3.0


class Tracker:
    """A server on a database of its own, and a proxy in front of it, both on loopback.

    Args:
        folder: Where its database and artifacts lie.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.database = folder / "mlflow.db"
        self._port = _free_port()
        self._trouble: str | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._proxy = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.uri = f"http://127.0.0.1:{self._proxy.server_address[1]}"
        threading.Thread(target=self._proxy.serve_forever, daemon=True).start()

    def __enter__(self) -> "Tracker":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._proxy.shutdown()
        self.stop()

    def start(self) -> None:
        """Start the server and wait until it answers."""
        command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{self.database}"]
        command += ["--artifacts-destination", str(self.folder / "artifacts"), "--host", "127.0.0.1"]
        command += ["--port", str(self._port), "--workers", "1"]
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            )
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.target}/health", timeout=2):
                return
            time.sleep(0.2)
        raise TimeoutError("the MLflow server does not answer")

    def stop(self) -> None:
        """Kill the server."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    @property
    def target(self) -> str:
        """The server's own address."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def answer(self) -> str | None:
        """``slow``, or the status that every request is answered with."""
        return self._trouble

    @contextlib.contextmanager
    def trouble(self, kind: str) -> Iterator[None]:
        """Answer slowly, or with a status such as 403, meanwhile."""
        self._trouble = kind
        try:
            yield
        finally:
            self._trouble = None


def _handler(tracker: Tracker) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if tracker.answer == "slow":
                time.sleep(SLOW_S)
            elif tracker.answer is not None:
                self.send_error(int(tracker.answer))
                return
            headers = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "connection")}
            request = urllib.request.Request(tracker.target + self.path, body or None, headers, method=self.command)
            try:
                with urllib.request.urlopen(request, timeout=60) as response:
                    self._answer(response.status, response.headers.get("Content-Type", ""), response.read())
            except urllib.error.HTTPError as error:
                self._answer(error.code, error.headers.get("Content-Type", ""), error.read())
            except OSError:
                # As a client sees a server that is gone.
                self.close_connection = True

        def _answer(self, status: int, content_type: str, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
        setattr(Handler, f"do_{method}", Handler._forward)
    return Handler


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
