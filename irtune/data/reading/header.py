"""The header of a table that may have none."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from irtune.data.dataset import DataError
from irtune.data.reading.table import Columns

NO_HEADER = "If the first row is no header, set data.header=false, and the options to the columns' numbers: 1, 2, …"


@dataclass(frozen=True)
class Header:
    """Names of the columns; whether the first row holds them, what was guessed to say so, and what if it is wrong."""

    names: tuple[str, ...]
    is_first_row: bool
    note: str = ""
    hint: str = ""


def recognise(rows: Sequence[Sequence[str]], columns: Columns, option: bool | None, source: str) -> Header:
    """The header of a table whose first rows are ``rows``.

    Unless ``option`` says it, the first row is a header if it holds the name of a column that is looked for, and is
    none if the columns are looked for by number, or if the user named no columns, there are as many as are needed, and
    the first row's label is one of other rows too.

    Raises:
        DataError: If a name that is looked for stands in the header twice.
    """
    first = tuple(rows[0]) if rows else ()
    numbered = tuple(str(number) for number in range(1, len(first) + 1))
    if option is True or (option is None and columns.found_in(first)):
        _refuse_twins(first, columns, source)
        return Header(first, is_first_row=True)
    by_number = columns.found_in(numbered) == len(columns.names)
    wanted = list(columns.names.values())
    fills = columns.are_defaults and len(first) == len(wanted)
    if by_number and not columns.are_defaults:
        note = "" if option is False else f"{source}: its first row is read as a row, not as a header (data.header)"
        return Header(numbered, is_first_row=False, note=note)
    if fills and (option is False or _label_recurs(rows, wanted)):
        order = ", ".join(wanted)
        note = f"{source}: read without a header, its columns in the order {order} (data.header, data.label_column, …)"
        return Header(tuple(wanted), is_first_row=False, note=note)
    if option is False:
        return Header(numbered, is_first_row=False)
    return Header(first, is_first_row=True, hint=NO_HEADER)


def _label_recurs(rows: Sequence[Sequence[str]], wanted: Sequence[str]) -> bool:
    """Whether the last of the first row's cells, where the label stands by default, is a class and no column's name."""
    position = len(wanted) - 1
    counts = Counter(row[position] for row in rows if len(row) == len(wanted))
    return counts[rows[0][position]] > 1 and len(counts) <= max(2, len(rows) // 2)


def _refuse_twins(names: Sequence[str], columns: Columns, source: str) -> None:
    for option, name in columns.names.items():
        places = [str(place) for place, column in enumerate(names, 1) if column == name]
        if len(places) > 1:
            raise DataError(
                f"{source}: columns {' and '.join(places)} are both called {name!r} (data.{option}). Give each column "
                "a name of its own."
            )
