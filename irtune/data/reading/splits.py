"""What people call the splits of their data."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from irtune.data.dataset import SPLITS, DataError, Split
from irtune.data.reading.table import Table, plain

CALLED: Mapping[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "development", "devel", "eval", "evaluation"),
    "test": ("test", "testing"),
}
"""Names of a split in any case, the usual one first."""


def split_called(name: str) -> Split | None:
    """The split that a name means; None where it means none."""
    return next((split for split, names in CALLED.items() if plain(name) in names), None)


def as_splits(tables: Sequence[Table], source: str, remedy: str) -> tuple[list[Table], list[str]]:
    """Tables with the splits that their names mean, and notes on what was guessed or left out.

    A single part whatever its name, or parts without a name, are not divided yet: their split is empty.

    Args:
        tables: Each with the name of its part as its split.
        source: The data, as messages name it.
        remedy: How the user says which part is which.

    Raises:
        DataError: If it cannot be told which part is which.
    """
    named = {table.split: table for table in tables if table.split}
    if not named:
        return list(tables), []
    if len(named) == 1 and len(tables) == 1:
        name = tables[0].split
        note = (
            []
            if split_called(name) == "train"
            else [f"{source}: has one part, {name!r}, from which all splits are drawn"]
        )
        return [replace(tables[0], split="")], note
    chosen = {split: _named(split, named, source, remedy) for split in SPLITS}
    if chosen["train"] is None:
        raise DataError(f"{source}: has the parts {', '.join(named)}, and none of them is called train. {remedy}.")
    parts = {split: name for split, name in chosen.items() if name is not None}
    notes = [f"{source}: {name!r} is read as {split}" for split, name in parts.items() if name != split]
    others = [name for name in named if name not in parts.values()]
    if others:
        notes.append(f"{source}: left out, as its name means no split: {', '.join(map(repr, others))}")
    return [
        replace(table, split=split) for split, name in parts.items() for table in tables if table.split == name
    ], notes


def only_part(tables: Sequence[Table], split: Split, source: str, remedy: str) -> tuple[list[Table], list[str]]:
    """The part of a container that the user gives for one split: its only one, or the one of that name.

    Raises:
        DataError: If it has several, and none or several of that name.
    """
    names = {table.split: table for table in tables}
    if len(names) == 1:
        return [replace(table, split=split, is_chosen=True) for table in tables], []
    name = _named(split, names, source, remedy)
    if name is None:
        raise DataError(
            f"{source}: has the parts {', '.join(names)}, and none of them is {split}. Name the folder of one."
        )
    others = ", ".join(repr(other) for other in names if other != name)
    note = f"{source}: its part {name!r} is read as {split}, and not {others}"
    return [replace(table, split=split, is_chosen=True) for table in tables if table.split == name], [note]


def _named(split: Split, names: Iterable[str], source: str, remedy: str) -> str | None:
    """The name that means a split; the usual one where several do."""
    meant = [name for name in names if split_called(name) == split]
    if len(meant) > 1:
        usual = [name for name in meant if plain(name) == split]
        if len(usual) != 1:
            raise DataError(f"{source}: {' and '.join(meant)} may both be {split}. {remedy}.")
        meant = usual
    return meant[0] if meant else None
