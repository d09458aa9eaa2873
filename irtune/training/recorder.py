"""What a run tells others as it goes: its measurements, and how it goes; imports nothing heavy."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol


class Recorder(Protocol):
    """Where a run's measurements go as they are made. Only rank 0 writes."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Values after ``step`` optimizer steps."""
        ...

    def params(self, values: Mapping[str, Any]) -> None:
        """Settings, by dotted key."""
        ...

    def tags(self, values: Mapping[str, Any]) -> None:
        """Facts about the run."""
        ...

    def artifact(self, path: Path, artifact_folder: str) -> None:
        """A file or folder to keep."""
        ...

    def selection(self, record: Mapping[str, Any]) -> None:
        """One refresh."""
        ...

    def resumed(self, step: int) -> None:
        """The run goes on from a checkpoint after ``step`` optimizer steps."""
        ...

    def result(self, values: Mapping[str, Any]) -> None:
        """What the finished run found: what it reported at its end; nothing is recorded after it."""
        ...


class Report(Protocol):
    """Tells whoever started the run how it goes; called by every rank, and may raise to end the run."""

    def __call__(self, metrics: Mapping[str, Any]) -> None:
        """Take the metrics of one evaluation."""
        ...


class NoRecorder:
    """Takes every measurement and keeps none; what ranks above 0 record to."""

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: None
