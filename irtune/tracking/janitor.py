"""What a driver does at its start for sweeps beside its own whose driver died: send what they left, end their runs."""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from irtune.tracking.heartbeat import SYNCED
from irtune.tracking.mlflow_tracker import MlflowTracker
from irtune.tracking.sync import ADDRESS, read_address, try_sync

logger = logging.getLogger(__name__)

OpenTracker = Callable[[Path], MlflowTracker]
"""From a sweep's folder to the tracker that its runs belong to."""


def close_dead(storage: Path, open_tracker: OpenTracker, timeout_s: float = 30.0) -> list[str]:
    """Sync every sweep on a storage on which nobody is at work and of which MLflow lacks something.

    Runs whose driver died become KILLED; a sweep that has a live driver is left alone. Whatever goes wrong is logged.

    Args:
        storage: The folder of sweeps. A driver's own sweep is left alone once its ``Heartbeat`` runs.
        open_tracker: From a sweep's folder to the tracker that its runs belong to.
        timeout_s: Wait no longer. What is under way then goes on behind, and begins no further run.

    Returns:
        The names of the sweeps of which everything is in MLflow now, and was not before.
    """
    settled: list[str] = []
    deadline_s = time.monotonic() + timeout_s
    worker = threading.Thread(
        target=_close_dead, args=(storage, open_tracker, deadline_s, settled), name="irtune-janitor", daemon=True
    )
    worker.start()
    worker.join(timeout_s)
    if worker.is_alive():
        logger.warning(
            "%s: sending what dead drivers left takes longer than %g s and goes on behind", storage, timeout_s
        )
    return list(settled)


def _close_dead(storage: Path, open_tracker: OpenTracker, deadline_s: float, settled: list[str]) -> None:
    open_once = _without_second_try(open_tracker)
    left: dict[str, str] = {}
    try:
        for folder in sorted(file.parent for file in storage.glob(f"*/{ADDRESS}")):
            left_s = deadline_s - time.monotonic()
            if left_s <= 0 or (folder / SYNCED).exists():
                continue
            result = try_sync(folder, open_once, left_s)
            if result.left:
                left[folder.name] = str(result)
            elif result.num_runs:
                logger.info("%s: %s", folder.name, result)
                settled.append(folder.name)
    # The new sweep is worth more than the old ones.
    except Exception:
        logger.exception("%s: what dead drivers left could not be looked at", storage)
    if left:
        name, why = next(iter(left.items()))
        logger.warning(
            "of %d earlier sweeps MLflow still lacks something (%s: %s); `irtune sync %s` tries again",
            len(left),
            name,
            why,
            storage,
        )


def _without_second_try(open_tracker: OpenTracker) -> OpenTracker:
    """An opener that waits for an address only once, however many sweeps belong there."""
    failures: dict[str, Exception] = {}

    def open_once(folder: Path) -> MlflowTracker:
        uri = read_address(folder).uri
        if uri in failures:
            raise failures[uri]
        try:
            return open_tracker(folder)
        except Exception as error:
            failures[uri] = error
            raise

    return open_once
