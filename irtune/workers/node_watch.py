"""Notices that Ray's own processes are gone, with which Ray would end the driver without a word."""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Self

import psutil
from ray._private import worker

LOST = 3
"""The exit status of a driver whose Ray has died."""

_ANSWER_S = 2.0
_FORCED_AFTER_S = 30.0
"""What the main thread has for its end."""
_PATIENCE_S = {True: 3.0, False: 40.0}
"""How long the head may not answer, by whether it is on this machine; a distant one may be started again. Ray itself
ends every process after a minute."""


class NodeWatch:
    """Interrupts the main thread when Ray's node dies; a context manager, around what needs Ray.

    The main thread gets a SIGTERM, whose handler should raise ``SystemExit``. If that does not end the process, this
    does: a call into Ray may never return.

    Args:
        tell: Called with what happened, before anything else is.
        interval_s: Seconds between two looks.
    """

    def __init__(self, tell: Callable[[str], None], interval_s: float = 0.5) -> None:
        self._tell, self._interval_s = tell, interval_s
        self._lost: str | None = None
        self._lock = threading.Lock()
        self._over = threading.Event()
        node = worker.global_worker.node
        # Only processes of Ray have its sockets among their arguments.
        self._raylet = _process_with(node.raylet_socket_name)
        host, _, port = node.gcs_address.rpartition(":")
        self._head = host.strip("[]"), int(port)
        self._patience_s = _PATIENCE_S[node.head]
        self._answered_at = time.monotonic()
        self._thread = threading.Thread(target=self._watch, name="irtune-node-watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or not self.lost():
            self.stop()

    def stop(self) -> None:
        """Look no more: Ray is about to be ended. A look that is under way is waited for."""
        with self._lock:
            self._over.set()

    def lost(self) -> bool:
        """Look whether Ray's node is gone; the first to see it says so."""
        with self._lock:
            if self._lost is None and not self._over.is_set():
                self._lost = self._look()
                if self._lost is not None:
                    self._tell(self._lost)
            return self._lost is not None

    def _look(self) -> str | None:
        if self._raylet is not None and not _lives(self._raylet):
            return f"Ray's process on this node (raylet, {self._raylet.pid}) is gone"
        with contextlib.suppress(OSError):
            socket.create_connection(self._head, _ANSWER_S).close()
            self._answered_at = time.monotonic()
        silent_s = time.monotonic() - self._answered_at
        if silent_s > self._patience_s:
            return f"Ray's head ({':'.join(map(str, self._head))}) has not answered for {silent_s:.0f} s"
        return None

    def _watch(self) -> None:
        while not self.lost():
            if self._over.wait(self._interval_s):
                return
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, signal.SIGTERM)
        if not self._over.wait(_FORCED_AFTER_S):
            sys.stdout.flush()
            os._exit(LOST)


def _process_with(argument: str) -> psutil.Process | None:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.name() == "raylet" and any(argument in each for each in process.cmdline()):
                return process
    return None


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
