"""Labelled texts and revisions from the Hugging Face hub."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from irtune.data.dataset import SPLITS, DataError, Split
from irtune.data.reading.columnar import of_datasets
from irtune.data.reading.splits import as_splits, split_called
from irtune.data.reading.table import Columns, Table
from irtune.data.tabular import TableConfig

REACHABLE_WITHIN_S = 5.0


class HubConfig(TableConfig):
    """Labelled texts or revisions from a dataset of the Hugging Face hub, or the local cache of it.

    Splits are found by their names (dev is validation), or named in ``train_split`` and so on. With
    ``HF_HUB_OFFLINE=1`` the copy in the local cache is used.
    """

    name: Literal["hub"] = "hub"
    repo: str = Field(min_length=1, description="dataset on the hub, as owner/name")
    config: str | None = Field(None, description="configuration (subset) of the dataset, where it has several")
    revision: str | None = Field(None, description="branch, tag or commit on the hub")
    train_split: str | None = Field(None, description="split to train on; default: train")
    validation_split: str | None = Field(None, description="default: validation or dev; drawn where there is none")
    test_split: str | None = Field(None, description="default: test; drawn where there is none")

    def tables(self, columns: Columns) -> tuple[list[Table], list[str]]:
        """The splits as tables."""
        found = load_from_hub(self.repo, self.config, self.revision, HUB_REMEDY)
        chosen = {split: name for split in SPLITS if (name := getattr(self, f"{split}_split")) is not None}
        there = ", ".join(found)
        absent = [f"{name!r} (data.{split}_split)" for split, name in chosen.items() if name not in found]
        if absent:
            raise DataError(f"{self.repo}: has no split {', '.join(absent)}. Its splits are {there}.")
        if len(set(chosen.values())) < len(chosen):
            twice = ", ".join(f"data.{split}_split={name}" for split, name in chosen.items())
            raise DataError(
                f"{self.repo}: one split is given twice: {twice}. Give each once; what is left out is drawn."
            )
        tables = of_datasets(found, self.repo, columns)
        if self.split_column is not None:
            return [replace(table, split="") for table in tables], []
        return self._as_chosen(tables, chosen)

    def _as_chosen(self, tables: list[Table], chosen: dict[Split, str]) -> tuple[list[Table], list[str]]:
        """Tables with the splits that the user chose, the others with those that their names mean."""
        called = {name: split for split, name in chosen.items()}
        # A split chosen for one purpose is not found by its name for another, nor one beside it for the same.
        others = [table for table in tables if table.split not in called and split_called(table.split) in chosen]
        kept = [
            replace(table, split=called.get(table.split, table.split), is_chosen=table.split in called)
            for table in tables
            if table not in others
        ]
        left_out = ", ".join(repr(table.split) for table in others)
        notes = [f"{self.repo}: its parts {left_out} are left out"] if others else []
        parts, said = as_splits(kept, self.repo, SPLIT_REMEDY)
        return parts, [*notes, *said]


SPLIT_REMEDY = "Say which is which in data.train_split, data.validation_split and data.test_split"
HUB_REMEDY = (
    "Check data.repo, data.config and the network, or set HF_HUB_OFFLINE=1 to use a copy that is already in the local "
    "cache; a saved copy is read with data.name=file"
)


def load_from_hub(repo: str, config: str | None, revision: str | None, remedy: str) -> Mapping[str, Any]:
    """The splits of a dataset on the hub, by name.

    Raises:
        DataError: If the hub cannot be reached, known after seconds, or has no such dataset; it ends with ``remedy``.
    """
    import datasets
    import huggingface_hub

    folder = Path(repo).expanduser()
    is_local = repo.startswith((".", "~", "/"))
    if is_local and not folder.is_dir():
        raise DataError(f"data.repo: no such folder: {folder.absolute()}. Name a dataset of the hub, as owner/name.")
    try:
        if not is_local and not huggingface_hub.is_offline_mode():
            # load_dataset alone retries for half a minute before it says that there is no network.
            huggingface_hub.HfApi().dataset_info(repo, revision=revision, timeout=REACHABLE_WITHIN_S)
        found: Mapping[str, Any] = datasets.load_dataset(str(folder) if is_local else repo, config, revision=revision)
    except Exception as error:
        # Which exceptions these are changes with the HTTP library below the hub's client.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{repo} cannot be read from the Hugging Face hub ({reason[:400]}). {remedy}.") from error
    return found
