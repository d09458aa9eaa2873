"""What has to be undone when training ends, however it ends: a Trainer tells its callbacks nothing of exceptions.

``Trainer.train`` is wrapped once per process, since all that comes later is too late: a running method cannot be
wrapped, and a traceback (which a notebook keeps) keeps alive whatever the method holds. Trainers without anything to
undo notice nothing.
"""

import functools
from collections.abc import Callable
from contextlib import ExitStack
from contextvars import ContextVar
from typing import Any

_METHODS = ("train", "_inner_training_loop")
"""The second one too, since under ``auto_find_batch_size`` the first tries again after a lack of memory."""
_TRAINING: ContextVar[ExitStack | None] = ContextVar("irtune_training", default=None)
"""What is to be undone at the end of the innermost training that runs."""


def watch_training(trainer_class: type[Any]) -> None:
    """Have ``at_end_of_training`` work for this class and what is made of it; a second call does nothing."""
    for name in _METHODS:
        method = getattr(trainer_class, name, None)
        if method is not None and not hasattr(method, "irtune_watches"):
            setattr(trainer_class, name, _watched(method))


def at_end_of_training(undo: Callable[[], None]) -> bool:
    """Call ``undo`` when the training that runs ends, returns or raises; False if none runs that is watched."""
    running = _TRAINING.get()
    if running is None:
        return False
    running.callback(undo)
    return True


def _watched(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def run(*args: Any, **kwargs: Any) -> Any:
        with ExitStack() as running:
            running.callback(_TRAINING.reset, _TRAINING.set(running))
            return method(*args, **kwargs)

    run.irtune_watches = True  # type: ignore[attr-defined]
    return run
