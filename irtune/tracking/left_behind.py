"""What a driver does at its start for sweeps beside its own whose driver died: send what they left, end their runs."""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from irtune.redaction import public_address
from irtune.tracking.address import ADDRESS
from irtune.tracking.heartbeat import SYNCED
from irtune.tracking.mlflow_tracker import MlflowTracker
from irtune.tracking.outbox import open_tracker, read_address, sync
from irtune.tracking.ownership import why_not_own

logger = logging.getLogger(__name__)

NAMED = 3
"""Sweeps that a warning names."""


def close_dead(storage: Path, uri: str, timeout_s: float = 30.0) -> list[str]:
    """Sync every sweep of this user's on a storage on which nobody is at work and of which MLflow lacks something.

    Runs whose driver died become KILLED; a sweep that has a live driver is left alone. Whatever goes wrong is logged.
    Sweeps of earlier versions, whose runs lie in other files, are only named.
    What a folder's files say decides neither where anything is sent nor with which login: sweeps that belong to
    another address are only named, and folders of other users are not looked into.

    Args:
        storage: The folder of sweeps. A driver's own sweep is left alone once its ``Heartbeat`` runs.
        uri: The driver's own address of MLflow, with its login.
        timeout_s: Wait no longer. What is under way then goes on behind, and begins no further run.

    Returns:
        The names of the sweeps of which everything is in MLflow now, and was not before.
    """
    settled: list[str] = []
    deadline_s = time.monotonic() + timeout_s
    task = (storage, uri, deadline_s, settled)
    worker = threading.Thread(target=_close_dead, args=task, name="irtune-left", daemon=True)
    worker.start()
    worker.join(timeout_s)
    if worker.is_alive():
        logger.warning(
            "%s: sending what dead drivers left takes longer than %g s and goes on behind", storage, timeout_s
        )
    return list(settled)


def _close_dead(storage: Path, uri: str, deadline_s: float, settled: list[str]) -> None:
    open_once = _without_second_try(uri)
    left: dict[str, str] = {}
    try:
        for folder in sorted(file.parent for file in storage.glob(f"*/{ADDRESS}")):
            left_s = deadline_s - time.monotonic()
            if left_s <= 0 or (folder / SYNCED).exists():
                continue
            foreign = why_not_own(folder)
            if foreign is not None:
                logger.info("%s %s, and is left alone", folder, foreign)
                continue
            result = sync(folder, open_once, left_s)
            if result.left:
                left[folder.name] = str(result)
            elif result.num_runs:
                logger.info("%s: %s", folder.name, result)
                settled.append(folder.name)
    # The new sweep is worth more than the old ones.
    except Exception:
        logger.exception("%s: what dead drivers left could not be looked at", storage)
    if left:
        named = "; ".join(f"{name}: {why}" for name, why in list(left.items())[:NAMED])
        more = f"; and {len(left) - NAMED} more" if len(left) > NAMED else ""
        logger.warning(
            "of %d earlier sweeps MLflow still lacks something (%s%s); `irtune sync %s` tries again",
            len(left),
            named,
            more,
            storage,
        )


def _without_second_try(uri: str) -> Callable[[Path], MlflowTracker]:
    """An opener for sweeps of this address that waits for it only once, however many belong there."""
    failures: list[Exception] = []

    def open_once(folder: Path) -> MlflowTracker:
        own = public_address(read_address(folder).uri)
        if own != public_address(uri):
            raise ValueError(f"its runs belong to {own}, and not to this sweep's MLflow")
        if failures:
            raise failures[0]
        try:
            return open_tracker(folder, uri)
        except Exception as error:
            failures.append(error)
            raise

    return open_once
