"""Passes the messages of Ray's daemons on to logging, in one line each, so that the terminal is irtune's."""

import logging
from collections.abc import Mapping
from typing import Any

from ray._private import worker

logger = logging.getLogger(__name__)

_OF_NO_USE = "worker processes have been started"
"""Workers are as many as trials need; Ray counts those up that come one after the other."""


def take_over() -> None:
    """Have Ray pass messages on to logging instead of printing them; harmless where it is done already."""
    worker.print_to_stdstream = _log


def _log(message: Mapping[str, Any], ignore_prefix: bool) -> None:
    for text in message["lines"]:
        first, _, rest = str(text).strip().partition("\n")
        # After a daemon's death its last lines follow.
        first = first.partition(" Last 20 lines of")[0]
        logger.log(logging.INFO if _OF_NO_USE in first else logging.WARNING, "Ray: %s", first)
        # Ends of log files, most often.
        logger.debug("%s", rest)
