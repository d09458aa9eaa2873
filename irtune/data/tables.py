"""Reads CSV, TSV, JSON-lines and Parquet files into records that remember their row."""

import csv
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TextIO

from irtune.data.base import DataError
from irtune.data.rows import Problem, Row


@dataclass(frozen=True, slots=True)
class Record:
    """The cells of one row by column; ``place`` is file and row as an editor shows them."""

    number: int
    place: str
    cells: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Columns:
    """Which column holds what; None where there is no such column."""

    before: str
    after: str
    label: str
    group: str | None = None
    split: str | None = None

    def named(self) -> dict[str, str]:
        """The columns that must be there, by the field of ``Row`` that they fill."""
        fields = {"before": self.before, "after": self.after, "label": self.label}
        return fields | {k: v for k, v in (("group", self.group), ("split", self.split)) if v is not None}


def read_rows(path: Path, columns: Columns, prefix: str, problems: list[Problem]) -> list[Row]:
    """Rows of one file; those that cannot be read as such are added to ``problems``.

    Args:
        path: The file; its suffix says how it is read.
        columns: Which column holds what.
        prefix: Begins the ids of the rows, which do not depend on where the file lies.
        problems: Grows by the rows that lack a column or hold something other than text.

    Raises:
        DataError: If the file is missing, is of an unknown kind, cannot be parsed, or has a column in no row at all.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: unknown kind of file {path.suffix!r}; allowed: {', '.join(READERS)}")
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    return rows_of(str(path), reader(path, problems), columns, prefix, problems)


def rows_of(source: str, records: list[Record], columns: Columns, prefix: str, problems: list[Problem]) -> list[Row]:
    """The records of ``source`` as rows; those that lack a column or hold no text are added to ``problems``.

    Raises:
        DataError: If a column is in no record at all.
    """
    present = {name: None for record in records for name in record.cells}
    missing = [f"{name!r} (data.{field}_column)" for field, name in columns.named().items() if name not in present]
    if missing and records:
        raise DataError(f"{source}: no column {', '.join(missing)}; found the columns {', '.join(map(ascii, present))}")
    return [row for record in records if (row := _row(record, columns, prefix, problems)) is not None]


def _row(record: Record, columns: Columns, prefix: str, problems: list[Problem]) -> Row | None:
    texts: dict[str, str] = {}
    for field, name in columns.named().items():
        if name not in record.cells:
            found = f"only {', '.join(map(repr, record.cells))}"
            problems.append(Problem(f"missing column {name!r}", record.place, found, "every named column in every row"))
            return None
        value = record.cells[name]
        if not isinstance(value, str | int | None):
            kind = f"column {name!r} holds no text"
            problems.append(Problem(kind, record.place, repr(value)[:40], "text, a whole number, or nothing"))
            return None
        texts[field] = "" if value is None else str(value).strip()
    both = (texts.pop("before"), texts.pop("after"))
    return Row(id=f"{prefix}:{record.number}", place=record.place, texts=both, **texts)


def _read_delimited(path: Path, problems: list[Problem], delimiter: str) -> list[Record]:
    records = []
    with _open_text(path, newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        try:
            header = next(reader, [])
            # A quoted cell may hold line breaks, so a row begins after the line where the one before it ended.
            number = reader.line_num + 1
            for cells in reader:
                place = f"{path}:{number}"
                if len(cells) > len(header):
                    allowed = f"{len(header)} cells a row; quote a text that holds {delimiter!r}"
                    problems.append(Problem("too many cells", place, str(len(cells)), allowed))
                elif cells:
                    records.append(Record(number, place, dict(zip(header, cells, strict=False))))
                number = reader.line_num + 1
        except csv.Error as error:
            raise DataError(f"{path}:{reader.line_num}: cannot be read as delimited text: {error}") from error
    return records


def _read_json_lines(path: Path, problems: list[Problem]) -> list[Record]:
    records = []
    with _open_text(path, newline="\n") as file:
        for number, line in enumerate(file, 1):
            place = f"{path}:{number}"
            if not line.strip():
                continue
            try:
                cells = json.loads(line)
            except json.JSONDecodeError:
                cells = None
            if isinstance(cells, dict):
                records.append(Record(number, place, cells))
            else:
                problems.append(Problem("not a JSON object", place, ascii(line[:40]), "one JSON object a line"))
    return records


def _read_parquet(path: Path, problems: list[Problem]) -> list[Record]:
    import pyarrow
    from pyarrow import parquet

    try:
        rows = parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as Parquet: {error}") from error
    return [Record(number, f"{path}:{number}", cells) for number, cells in enumerate(rows, 1)]


def _open_text(path: Path, newline: str) -> TextIO:
    # Bytes that are no UTF-8 become lone surrogates, so that they are found and named row by row.
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline=newline)


Reader = Callable[[Path, list[Problem]], list[Record]]
READERS: Mapping[str, Reader] = MappingProxyType(
    {
        ".csv": partial(_read_delimited, delimiter=","),
        ".tsv": partial(_read_delimited, delimiter="\t"),
        ".jsonl": _read_json_lines,
        ".json": _read_json_lines,
        ".parquet": _read_parquet,
    }
)
