"""Reads Excel workbooks."""

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import BadZipFile

from irtune.data.dataset import DataError
from irtune.data.reading.header import recognise
from irtune.data.reading.table import Columns, Options, Record, Table, fitting

_SAMPLE_ROWS = 200


def read_workbook(raw: bytes, source: str, columns: Columns, options: Options) -> Table:
    """The table of one sheet: the one that ``options`` name, else the first that has the columns.

    Raises:
        DataError: If it is no workbook, or has no such sheet.
    """
    with sheets_of(io.BytesIO(raw), source) as sheets:
        title = _chosen(sheets, source, columns, options)
        others = [other for other in sheets if other != title]
        note = f"{source}: its sheet {title!r} is read, and not {', '.join(map(repr, others))} (data.sheet)"
        named = f"{source}, sheet {title}" if others else source
        notes = [note] if others and options.sheet is None else []
        return _table(rows_of(sheets[title]), named, columns, options, notes)


@contextmanager
def sheets_of(file: Path | BinaryIO, source: str) -> Iterator[dict[str, Any]]:
    """The sheets of a workbook by title, as long as it is open.

    Raises:
        DataError: If it is no workbook.
    """
    import openpyxl

    with warnings.catch_warnings():
        # Workbooks without a style, for one.
        warnings.simplefilter("ignore", UserWarning)
        try:
            workbook = openpyxl.load_workbook(file, read_only=True, data_only=True)
        except (OSError, KeyError, ValueError, BadZipFile) as error:
            raise DataError(
                f"{source}: cannot be read as an Excel workbook: {error}. Save it as .xlsx without a password."
            ) from error
    try:
        yield {sheet.title: sheet for sheet in workbook.worksheets}
    finally:
        workbook.close()


def rows_of(sheet: Any) -> Iterator[tuple[Any, ...]]:
    """The values of its cells; rows end with their last filled cell, so many are shorter than the header."""
    # Some sheets claim to be one cell large, which a read-only workbook believes unless told not to.
    sheet.reset_dimensions()
    found: Iterator[tuple[Any, ...]] = sheet.iter_rows(values_only=True)
    return found


def _chosen(sheets: dict[str, Any], source: str, columns: Columns, options: Options) -> str:
    if options.sheet is not None:
        meant = fitting(options.sheet, list(sheets))
        if len(meant) != 1:
            titles = ", ".join(map(repr, sheets))
            raise DataError(f"{source}: has no sheet {options.sheet!r}. Set data.sheet to one of {titles}.")
        return meant[0]
    if not sheets:
        raise DataError(f"{source}: has no sheet of cells. Give a workbook with a table.")
    found = {title: columns.found_in(_names(next(iter(rows_of(sheet)), ()))) for title, sheet in sheets.items()}
    return max(sheets, key=lambda title: found[title])


def _table(rows: Iterator[tuple[Any, ...]], source: str, columns: Columns, options: Options, notes: list[str]) -> Table:
    cells = [(number, row) for number, row in enumerate(rows, 1) if any(cell is not None for cell in row)]
    if not cells:
        raise DataError(f"{source}: is empty. Give a sheet with a header and a row per example.")
    width = max(len(row) for _, row in islice(cells, _SAMPLE_ROWS))
    sample = [_names((*row, *[None] * (width - len(row)))) for _, row in islice(cells, _SAMPLE_ROWS)]
    # Without the columns on the right that are empty in every row.
    filled = max((place for row in sample for place, cell in enumerate(row, 1) if cell), default=0)
    header = recognise([row[:filled] for row in sample], columns, options.header, source)
    body = cells[1:] if header.is_first_row else cells
    records = (
        Record(number, f"{source}:{number}", dict(zip_longest(header.names, row[: len(header.names)])))
        for number, row in body
    )
    return Table(source, header.names, records, notes=(*notes, *filter(None, [header.note])), hint=header.hint)


def _names(row: Sequence[Any]) -> tuple[str, ...]:
    return tuple("" if cell is None else str(cell) for cell in row)
