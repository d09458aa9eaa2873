"""A figure drawn anew, in its place, while training goes on: in a notebook or in a file."""

import io
import logging
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

DRAW_EVERY_S = 2.0
SHARE = 0.05
"""The most of the time that drawing may take."""

Show = Callable[[bytes], None]
"""Puts a PNG in place of the one before."""


def follow(callback: Any, path: str | Path | None, draw: Callable[[], Figure]) -> None:
    """Draw a figure whenever a callback has chosen blocks, though not too often, and when training is over.

    Args:
        callback: An ``IRTuningCallback``.
        path: Where to write the figure; None shows it in the notebook.
        draw: Makes it.

    Raises:
        ValueError: There is neither a notebook nor a path, or what is to be followed is no ``IRTuningCallback``.
    """
    if not hasattr(callback, "viewers"):
        raise ValueError(
            f"live: a {type(callback).__name__} cannot be followed; give the IRTuningCallback, before training starts"
        )
    callback.viewers.append(_Viewer(draw, _in_notebook() if path is None else Path(path).write_bytes))


class _Viewer:
    """Draws now and then; what goes wrong with a drawing does not end training, and is logged once."""

    def __init__(self, draw: Callable[[], Figure], show: Callable[[bytes], Any]) -> None:
        self._draw, self._show = draw, show
        self._draws_at_s, self._failed = 0.0, False

    def __call__(self, is_over: bool) -> None:
        started_s = time.monotonic()
        if self._failed or (started_s < self._draws_at_s and not is_over):
            return
        try:
            picture = io.BytesIO()
            self._draw().savefig(picture, format="png", dpi=80)
            self._show(picture.getvalue())
        except Exception:
            logger.exception("the trace cannot be drawn, and is not any more; training goes on")
            self._failed = True
        now_s = time.monotonic()
        self._draws_at_s = now_s + max(DRAW_EVERY_S, (now_s - started_s) / SHARE)


def _in_notebook() -> Show:
    """A place in the notebook, below the cell that runs."""
    try:
        shell = import_module("IPython").get_ipython()
    except ImportError:
        shell = None
    if not hasattr(shell, "kernel"):
        raise ValueError("live: there is no notebook to draw in; say where to write the picture: path='trace.png'")
    shown: Any = import_module("IPython.display")
    place = shown.display({"text/plain": "no blocks chosen yet"}, raw=True, display_id=True)
    return lambda picture: place.update(shown.Image(data=picture))
