"""Policies as a user would bring them, which misbehave on purpose."""

import os
import signal
import time
from pathlib import Path
from typing import Any

from irtune.selection.top_k import TopK


class RaisesAtSecondRefresh(TopK):
    """A bug in a user's policy."""

    name: str  # type: ignore[assignment]

    def select(self, context: Any) -> Any:
        """Raise once training has begun."""
        if context.step > 0:
            raise RuntimeError("a bug in a user's policy")
        return super().select(context)


class KillsItsWorkerOnce(TopK):
    """Top-k, but the worker that decides is killed at the third refresh, once."""

    name: str  # type: ignore[assignment]

    def select(self, context: Any) -> Any:
        """Choose like top-k; the flag file in ``IRTUNE_TEST_FLAGS`` says whether the worker was killed before."""
        flag = Path(os.environ["IRTUNE_TEST_FLAGS"]) / "killed"
        if context.step >= 6 and not flag.exists():
            flag.write_text("killed")
            os.kill(os.getpid(), signal.SIGKILL)
        return super().select(context)


class WaitsForASecondDriver(TopK):
    """Top-k, but at the third refresh it waits to be killed, unless ``go`` lies in ``IRTUNE_TEST_FLAGS``."""

    name: str  # type: ignore[assignment]

    def select(self, context: Any) -> Any:
        """Choose like top-k; the file ``waiting`` says that it waits."""
        flags = Path(os.environ["IRTUNE_TEST_FLAGS"])
        if context.step >= 6 and not (flags / "go").exists():
            (flags / "waiting").touch()
            time.sleep(300)
        return super().select(context)


class Telling(TopK):
    """Fails with a login in its message, and says what the environment holds."""

    name: str  # type: ignore[assignment]

    def select(self, context: Any) -> Any:
        """Raise once training has begun."""
        if context.step > 0:
            secret = os.environ["SOME_SERVICE_PASSWORD"]
            raise RuntimeError(f"no answer from https://me:planted-login-2@host with {secret}")
        return super().select(context)


class RaisesThenIsKilled(TopK):
    """Top-k that never gets beyond its second refresh: it raises at first, and is killed whenever it is tried again.

    Args:
        flags: A folder; the files ``raised`` and ``killed`` in it say what happened.
    """

    name: str  # type: ignore[assignment]
    flags: str

    def select(self, context: Any) -> Any:
        """Choose like top-k at first."""
        raised, killed = Path(self.flags) / "raised", Path(self.flags) / "killed"
        if context.step > 0 and raised.exists():
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if context.step > 0:
            raised.touch()
            raise RuntimeError("a bug in a user's policy")
        return super().select(context)
