"""What an adapter's folder says of itself: labels, prompt and settings, read without torch."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from irtune.config.schema import ExperimentConfig
from irtune.data.common_tokens import common_tokens
from irtune.data.dataset import LabelledDataset
from irtune.data.encode import EncodedDataset
from irtune.data.prompt import FIELDS, Kind
from irtune.files import read_alone

NOTES = "irtune.json"
TABLES = ("file", "hub")
"""Data sets whose columns are settings."""


class AdapterFolderError(ValueError):
    """A folder holds no adapter that can be applied; the message says what it lacks."""


@dataclass(frozen=True)
class AdapterNotes:
    """What an adapter's folder says of it beside its weights, in ``irtune.json``.

    Args:
        labels: In order of class.
        kind: What an example's texts are to each other.
        instruction: What every example asks; None if nothing.
        template: The text that the model reads, with places for instruction and texts.
        max_length: The most tokens of an example.
        shared_prefix: Token ids that all examples of the run's data begin with.
        settings: The run's settings as a tree.
    """

    labels: tuple[str, ...]
    kind: Kind
    instruction: str | None
    template: str
    max_length: int
    shared_prefix: tuple[int, ...]
    settings: Mapping[str, Any]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of an example's texts: those of the run's own table, where it read one."""
        data = self.settings.get("data", {})
        named = data if data.get("name") in TABLES else {}
        return tuple(named.get(f"{field}_column") or field for field in FIELDS[self.kind])

    @classmethod
    def read(cls, folder: Path) -> "AdapterNotes":
        """The notes in an adapter's folder.

        Raises:
            AdapterFolderError: There are none, an earlier version wrote them, or they are damaged.
        """
        file = folder / NOTES
        try:
            tree = json.loads(read_alone(file))
        except FileNotFoundError as error:
            raise AdapterFolderError(
                f"{folder}: holds no {NOTES}, so irtune kept no adapter there; give a trial's adapter/"
            ) from error
        except ValueError as error:
            raise AdapterFolderError(f"{file}: is damaged ({error}); bring it back from a backup") from error
        lacking = [name for name in cls.__dataclass_fields__ if not isinstance(tree, dict) or name not in tree]
        if lacking:
            raise AdapterFolderError(
                f"{file}: an earlier version of irtune wrote it, without {', '.join(lacking)}; train it again "
                "(irtune train --from STUDY:TRIAL)"
            )
        try:
            return TypeAdapter(cls).validate_python({name: tree[name] for name in cls.__dataclass_fields__})
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise AdapterFolderError(f"{file}: {where}: {first['msg']}; bring it back from a backup") from error


def notes_of(config: ExperimentConfig, dataset: LabelledDataset, encoded: EncodedDataset) -> dict[str, Any]:
    """What ``AdapterNotes`` reads, of a run."""
    return {
        "data": dataset.name,
        "labels": list(dataset.labels),
        "kind": dataset.prompt.kind,
        "instruction": encoded.instruction,
        "template": dataset.prompt.template_used,
        "max_length": encoded.max_length,
        "shared_prefix": common_tokens(encoded).tolist(),
        "settings": config.model_dump(mode="json"),
    }
