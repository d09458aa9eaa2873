"""Tables as containers give them, the columns that are looked for in them, and how their names are matched."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from irtune.data.dataset import DataError
from irtune.data.rows import Problem

Quoting = Literal["auto", "csv", "backslash", "none"]


@dataclass(frozen=True, slots=True)
class Record:
    """The cells of one row by column; ``place`` is file and row as an editor or a spreadsheet numbers it."""

    number: int
    place: str
    cells: Mapping[str, object]


@dataclass(frozen=True)
class Table:
    """One table of a container.

    Args:
        source: The file, as messages name it.
        columns: Every column that a record may have.
        records: Its rows in order, and in the place of a row that cannot be read what is wrong with it.
        split: What the container calls this part of the data; empty where it has one part.
        is_chosen: Whether the user gave this part for its split by an option of its own.
        class_names: Names of the classes of columns that hold class indices.
        notes: What was guessed in reading it.
        hint: What may be wrong if its columns are not those that are looked for.
    """

    source: str
    columns: tuple[str, ...]
    records: Iterable[Record | Problem]
    split: str = ""
    is_chosen: bool = False
    class_names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    hint: str = ""


@dataclass(frozen=True)
class Columns:
    """Which column holds what.

    Args:
        names: Name of a column by the option that gives it, such as ``label_column``.
        are_defaults: Whether the user named none of them.
    """

    names: Mapping[str, str]
    are_defaults: bool = False

    def paths(self, columns: Sequence[str], source: str, hint: str = "") -> dict[str, tuple[str, ...]]:
        """Return where each column lies: a column of the table, and the keys that lead on from there.

        Args:
            columns: Those that there are.
            source: The file, as messages name it.
            hint: What else may be wrong if one is absent.

        Raises:
            DataError: With every name that is absent or fits several columns, and the columns that there are.
        """
        found = {option: _path(name, columns) for option, name in self.names.items()}
        wrong = [
            f"{self.names[option]!r} (data.{option}) is the name of {len(heads)} columns, {', '.join(map(repr, heads))}"
            for option, (heads, _) in found.items()
            if len(heads) > 1
        ]
        absent = [f"{self.names[option]!r} (data.{option})" for option, (heads, _) in found.items() if not heads]
        if absent:
            wrong.append(f"no column {', '.join(absent)}; found the columns {', '.join(map(ascii, columns)) or 'none'}")
        if wrong:
            remedy = "Set these options to columns that are there" if absent else "Give each column a name of its own"
            single = "; for one text in a row there is data.text_column" if self.are_defaults and absent else ""
            more = f" {hint}" if hint and absent else ""
            raise DataError(f"{source}: {'; '.join(wrong)}. {remedy}{single}.{more}")
        return {option: (heads[0], *rest) for option, (heads, rest) in found.items()}

    def found_in(self, cells: Sequence[str]) -> int:
        """Return how many of the columns are among ``cells``."""
        return sum(bool(_path(name, cells)[0]) for name in self.names.values())


@dataclass(frozen=True)
class Options:
    """How files are read where their content does not say it, or says it wrongly; None and ``auto`` recognise it."""

    delimiter: str | None = None
    encoding: str | None = None
    header: bool | None = None
    quoting: Quoting = "auto"
    sheet: str | None = None


def _path(name: str, columns: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """The columns that ``name`` fits, and the keys after it where it leads into nested values."""
    heads = fitting(name, columns)
    if heads:
        return heads, ()
    parts = name.split(".")
    for depth in range(len(parts) - 1, 0, -1):
        heads = fitting(".".join(parts[:depth]), columns)
        if heads:
            return heads, tuple(parts[depth:])
    return [], ()


def fitting(name: str, names: Sequence[str]) -> list[str]:
    """Those of ``names`` that are ``name``; else those that differ from it in what is easily overlooked."""
    return [one for one in names if one == name] or [one for one in names if plain(one) == plain(name)]


def plain(name: str) -> str:
    """A name without what is easily overlooked: case, and white space and byte order marks around it."""
    return name.strip("\ufeff\u200b \t\r\n\xa0").casefold()
