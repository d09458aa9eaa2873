"""Seconds that optimizer steps take where they are computed, without making the host wait for the device."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch


class Mark(Protocol):
    """A point in the work of a device."""

    def is_past(self) -> bool:
        """Whether the device has come to it."""

    def wait(self) -> None:
        """Have the host wait until it has."""

    def seconds_since(self, earlier: "Mark") -> float:
        """From an earlier mark to this one, both past."""


class HostMark:
    """Now, on a device that is the host itself."""

    def __init__(self) -> None:
        self._at = time.perf_counter()

    def is_past(self) -> bool:
        """It is."""
        return True

    def wait(self) -> None:
        """There is nothing to wait for."""

    def seconds_since(self, earlier: "Mark") -> float:
        """By the host's clock."""
        assert isinstance(earlier, HostMark)
        return self._at - earlier._at


class CudaMark:
    """After all that the current stream of a GPU was given so far."""

    def __init__(self) -> None:
        event: Any = torch.cuda.Event
        self._event = event(enable_timing=True)
        self._event.record()

    def is_past(self) -> bool:
        """Whether the GPU has come to it."""
        return bool(self._event.query())

    def wait(self) -> None:
        """Have the host wait until it has."""
        self._event.synchronize()

    def seconds_since(self, earlier: "Mark") -> float:
        """By the GPU's clock."""
        assert isinstance(earlier, CudaMark)
        return float(earlier._event.elapsed_time(self._event)) / 1e3


def marks_of(device: torch.device) -> Callable[[], Mark]:
    """What marks a point in the work of this device."""
    return CudaMark if device.type == "cuda" else HostMark


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on a device, which a GPU copies when it comes to it, while the host goes on."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


@dataclass
class StepClock:
    """Times the steps of a run one by one, and tells their seconds when they are known.

    A GPU computes a step after the host has gone on to the next. A step's time is from the mark at its beginning to
    that at its end, in the order of the device's work: what lies between steps (logging, evaluation, checkpoints) is in
    none, however often that is.

    Args:
        mark: Marks the device's work up to now.
    """

    mark: Callable[[], Mark]
    _began: Mark | None = None
    _pending: deque[tuple[Mark, Mark]] = field(default_factory=deque)

    def start(self) -> None:
        """A step begins."""
        self._began = self.mark()

    def stop(self) -> None:
        """It has been given to the device whole."""
        assert self._began is not None, "start comes first"
        self._pending.append((self._began, self.mark()))
        self._began = None

    def finished(self, *, wait: bool) -> list[float]:
        """Seconds of the steps that have ended since the last call, in order.

        Args:
            wait: Have the host wait for those that have not.
        """
        found = []
        while self._pending:
            began, ended = self._pending[0]
            if wait:
                ended.wait()
            elif not ended.is_past():
                break
            self._pending.popleft()
            found.append(ended.seconds_since(began))
        return found
