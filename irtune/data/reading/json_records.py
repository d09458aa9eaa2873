"""Reads JSON: an array of objects, one object a line, objects one after another, or one object of columns."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from irtune.data.dataset import DataError
from irtune.data.reading.table import Columns, Record, Table
from irtune.data.rows import Problem

Item = tuple[int, Any]
"""A value of a JSON text, and the line in which it begins."""

_SPACE = " \t\r\n"


class _TwiceError(ValueError):
    """A key stands twice in one object."""


def read_json(text: str, source: str, columns: Columns) -> list[Table]:
    """The tables in ``text``: one, or one per split where an object names several lists.

    Raises:
        DataError: If it is no JSON of the kinds that are read, where no single row is to blame.
    """
    start = len(text) - len(text.lstrip(_SPACE))
    if start == len(text):
        raise DataError(f"{source}: is empty. Give a file with a JSON object per row.")
    if text[start] == "[":
        return [_table(source, _in_array(_elements(text, start, source), source))]
    if text[start] == "{" and not is_lines(text, start):
        items = _values(text, start, source)
        if len(items) == 1:
            return _of_object(items[0][1], source, columns)
        return [_table(source, _in_array(items, source))]
    return [table_of_lines(text, source)]


def is_lines(text: str, start: int = 0) -> bool:
    """Return whether the first line is an object by itself and more follow.

    Args:
        text: A file's, or its first lines.
        start: Where its first value begins.
    """
    line, _, rest = text[start:].partition("\n")
    try:
        json.loads(line)
    except ValueError:
        # A line that is broken is a bad row, if the next is whole; else an object spans lines.
        following = next((other for other in rest.split("\n", 3) if other.strip(_SPACE)), "")
        return following.startswith("{")
    return bool(rest.strip(_SPACE))


def table_of_lines(text: str, source: str, before: int = 0) -> Table:
    """The table of text with an object a line, before which the file has so many lines."""
    return _table(source, _lines(text, source, before))


def _lines(text: str, source: str, before: int) -> Iterator[Record | Problem]:
    for number, line in enumerate(text.split("\n"), before + 1):
        if not line.strip(_SPACE):
            continue
        place = f"{source}:{number}"
        try:
            cells = _DECODER.decode(line)
        except _TwiceError as error:
            yield Problem(f"key {error} stands twice", place, ascii(line[:40]), "each key once an object")
            continue
        except (ValueError, RecursionError):
            cells = None
        yield _record(number, place, cells, line)


def _in_array(items: Iterable[Item], source: str) -> Iterator[Record | Problem]:
    for number, (line, value) in enumerate(items, 1):
        yield _record(number, f"{source}:{line} (item {number})", value, None)


def _record(number: int, place: str, value: Any, shown: str | None) -> Record | Problem:
    if isinstance(value, dict):
        return Record(number, place, value)
    found = ascii((json.dumps(value) if shown is None else shown)[:40])
    return Problem("not a JSON object", place, found, "one JSON object a row")


def _table(source: str, records: Iterable[Record | Problem], notes: Sequence[str] = (), split: str = "") -> Table:
    kept = list(records)
    columns = dict.fromkeys(key for record in kept if isinstance(record, Record) for key in record.cells)
    return Table(source, tuple(columns), kept, split=split, notes=tuple(notes))


def _elements(text: str, start: int, source: str) -> list[Item]:
    """The elements of the array that begins at ``start``, and nothing after it."""
    items: list[Item] = []
    at, counted = _after_space(text, start + 1), start + 1
    line = 1 + text.count("\n", 0, counted)
    while at < len(text) and text[at] != "]":
        line, counted = line + text.count("\n", counted, at), at
        value, at = _decode(text, at, source)
        items.append((line, value))
        at = _after_space(text, at)
        if text[at : at + 1] == ",":
            at = _after_space(text, at + 1)
        elif text[at : at + 1] != "]":
            break
    if text[at : at + 1] != "]" or _after_space(text, at + 1) != len(text):
        where = 1 + text.count("\n", 0, at)
        raise DataError(f"{source}:{where}: is no JSON array: it breaks off, or goes on after an item. Write it anew.")
    return items


def _values(text: str, at: int, source: str) -> list[Item]:
    """JSON values one after another, each over several lines maybe."""
    items: list[Item] = []
    line, counted = 1, 0
    while at < len(text):
        line, counted = line + text.count("\n", counted, at), at
        value, at = _decode(text, at, source)
        items.append((line, value))
        at = _after_space(text, at)
    return items


def _decode(text: str, at: int, source: str) -> tuple[Any, int]:
    try:
        return _DECODER.raw_decode(text, at)
    except _TwiceError as error:
        line = 1 + text.count("\n", 0, at)
        raise DataError(f"{source}:{line}: key {error} stands twice in one object. Give each key once.") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{source}:{error.lineno}: is no JSON: {error.msg}. Correct the file there.") from error
    except RecursionError as error:
        raise DataError(f"{source}: is nested too deeply. Write one flat object per row.") from error


def _of_object(value: dict[str, Any], source: str, wanted: Columns) -> list[Table]:
    """The tables of a file that is one object: of columns, of rows, of both named, or of lists of rows."""
    if set(value) >= {"columns", "data"} and isinstance(value["columns"], list) and isinstance(value["data"], list):
        names = [str(name) for name in value["columns"]]
        if all(isinstance(row, list) and len(row) == len(names) for row in value["data"]):
            rows = (dict(zip(names, row, strict=True)) for row in value["data"])
            return [_numbered(source, rows, [f"{source}: read as rows below a list of columns"])]
    lists = {key: rows for key, rows in value.items() if isinstance(rows, list) and rows and isinstance(rows[0], dict)}
    if lists:
        taken = ", ".join(map(repr, lists))
        notes = [f"{source}: its rows are taken from {taken}"]
        many = len(lists) > 1
        return [
            _numbered(source, rows, notes if key == next(iter(lists)) else [], key * many)
            for key, rows in lists.items()
        ]
    inner = next(iter(value.values()), None)
    if isinstance(inner, dict) and wanted.found_in(list(inner)) > wanted.found_in(list(value)):
        return [_numbered(source, value.values(), [f"{source}: read as one object of rows by name"])]
    columns = _as_columns(value)
    if columns:
        rows = (dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True))
        return [_numbered(source, rows, [f"{source}: read as one object of columns"])]
    return [_numbered(source, [value], [])]


def _as_columns(value: dict[str, Any]) -> dict[str, list[Any]] | None:
    """Columns of equal length, as lists or as pandas writes them, by row name; None where these are none."""
    columns = list(value.values())
    if len(columns) > 1 and all(isinstance(column, list) for column in columns):
        return value if len(set(map(len, columns))) == 1 else None
    if len(columns) < 2 or not all(isinstance(column, dict) and len(column) > 1 for column in columns):
        return None
    if any(column.keys() != columns[0].keys() for column in columns):
        return None
    return {name: list(column.values()) for name, column in value.items()}


def _numbered(source: str, rows: Iterable[Any], notes: Sequence[str], split: str = "") -> Table:
    named = f"{source} {split}".rstrip()
    records = (_record(number, f"{named}, item {number}", row, None) for number, row in enumerate(rows, 1))
    return _table(source, records, notes, split)


def _after_space(text: str, at: int) -> int:
    while at < len(text) and text[at] in _SPACE:
        at += 1
    return at


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _TwiceError(repr(Counter(key for key, _ in pairs).most_common(1)[0][0]))
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_each_key_once)
