"""From the records of a table to rows: the cells of the columns that are looked for, as texts and labels."""

from collections.abc import Callable, Iterator, Mapping

from irtune.data.cells import NO_LABEL, LabelReader, text_of
from irtune.data.dataset import DataError
from irtune.data.reading.table import Columns, Record, Table
from irtune.data.rows import Problem, Row

TEXT_COLUMNS = ("before_column", "after_column", "text_column")
_ABSENT = object()
_NO_COLUMN = "missing column"


def rows_of(table: Table, columns: Columns, labels: LabelReader, prefix: str, problems: list[Problem]) -> list[Row]:
    """Rows of a table; those that cannot be read as such are added to ``problems``.

    Args:
        table: The table.
        columns: Which column holds what.
        labels: Reads cells of the label column; a row whose label is missing is a row with an empty label.
        prefix: Begins the ids of the rows, which do not depend on where the file lies.
        problems: Grows by the rows that lack a column or hold something other than text.

    Raises:
        DataError: If a column is in no record at all, or there is none.
    """
    rows, wrong = list[Row](), list[Problem]()
    for read in each_row(table, columns, labels, prefix):
        if isinstance(read, Row):
            rows.append(read)
        else:
            wrong.append(read)
    problems += wrong
    first = next((problem for problem in wrong if problem.kind.startswith(_NO_COLUMN)), None)
    if not rows and first is not None:
        raise DataError(
            f"{first.place}: {first.kind}, as in every row: {first.found}. Correct the option that names it."
        )
    if not rows and not wrong:
        raise DataError(f"{table.source}: holds no rows. Give a file with a row per example.")
    return rows


def each_row(table: Table, columns: Columns, labels: LabelReader, prefix: str) -> Iterator[Row | Problem]:
    """Yield what ``rows_of`` reads, and in the place of a row that cannot be read what is wrong with it.

    Raises:
        DataError: If a column is in no record at all.
    """
    paths = columns.paths(table.columns, table.source, table.hint) if table.columns else {}
    names = table.class_names.get(".".join(paths.get("label_column", ())))
    label_of = labels.of(names)
    for record in table.records:
        yield _row(record, paths, columns, label_of, prefix) if isinstance(record, Record) else record


def _row(
    record: Record,
    paths: Mapping[str, tuple[str, ...]],
    columns: Columns,
    label_of: Callable[[object], tuple[str, str]],
    prefix: str,
) -> Row | Problem:
    cells = {option: _cell(record.cells, path) for option, path in paths.items()}
    label, wrong = "", NO_LABEL
    if cells.get("label_column", _ABSENT) is not _ABSENT:
        label, wrong = label_of(cells["label_column"])
    texts: dict[str, str] = {}
    for option, cell in cells.items():
        if cell is _ABSENT:
            name, found = columns.names[option], _instead(record.cells, paths[option])
            return Problem(
                f"{_NO_COLUMN} {name!r} (data.{option})", record.place, found, "every named column in every row", label
            )
        if option != "label_column":
            text = text_of(cell)
            if text is None:
                kind = f"column {columns.names[option]!r} holds no text"
                return Problem(kind, record.place, repr(cell)[:40], "text, a number, or nothing", label)
            texts[option] = text
    if wrong and wrong != NO_LABEL:
        return Problem(wrong, record.place, repr(cells["label_column"])[:40], "one label in a row")
    return Row(
        id=f"{prefix}:{record.number}",
        place=record.place,
        texts=tuple(texts[option] for option in TEXT_COLUMNS if option in texts),
        label=label,
        group=texts.get("group_column", "").strip(),
        split=texts.get("split_column", "").strip(),
    )


def _cell(cells: Mapping[str, object], path: tuple[str, ...]) -> object:
    value: object = cells
    for key in path:
        if isinstance(value, Mapping):
            value = value.get(key, _ABSENT)
        elif isinstance(value, list) and key.isdigit():
            value = value[int(key)] if int(key) < len(value) else _ABSENT
        elif value is not None:
            return _ABSENT
    return value


def _instead(cells: Mapping[str, object], path: tuple[str, ...]) -> str:
    """Return what stands beside the key where a path breaks off."""
    depth = next(depth for depth in range(len(path)) if _cell(cells, path[: depth + 1]) is _ABSENT)
    inner = _cell(cells, path[:depth])
    if not isinstance(inner, Mapping):
        return f"{'.'.join(path[:depth])} holds {repr(inner)[:40]}"
    return f"only {', '.join(repr('.'.join((*path[:depth], str(key)))) for key in inner) or 'nothing'}"


def note_on_replaced(rows: list[Row]) -> Iterator[str]:
    """A note on rows that hold U+FFFD, which stands where a character was lost in an earlier conversion."""
    found = [row.place for row in rows if any("\ufffd" in text for text in row.texts)]
    if found:
        shown = ", ".join(found[:3]) + (", …" if len(found) > 3 else "")
        yield f"{len(found)} rows hold U+FFFD, where a character was lost in an earlier conversion ({shown})"
