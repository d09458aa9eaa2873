"""Reads delimited text: .csv, .tsv, .tab, .txt and the like."""

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from irtune.data.dataset import DataError
from irtune.data.reading.header import Header, recognise
from irtune.data.reading.quoting import Parsed, parse, parse_as_quoted
from irtune.data.reading.table import Columns, Options, Record, Table
from irtune.data.rows import Problem

DELIMITERS = (",", "\t", ";", "|")
"""What is tried where the file's usual delimiter does not find the columns."""

_USUAL = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
_NAMES = {"\t": "tab"}
_SAMPLE_LINES = 200
_SEP_LINE = re.compile(r"\A[\"']?sep=(.)[\"']?\r?\n", re.IGNORECASE)


@dataclass(frozen=True)
class Form:
    """Dialect of a delimited text.

    Args:
        delimiter: What stands between cells.
        quoting: The rule of quoting; None as long as no quote was met.
        header: The names of its columns.
    """

    delimiter: str
    quoting: str | None
    header: Header


def read_delimited(text: str, suffix: str, source: str, columns: Columns, options: Options) -> Table:
    """The table in ``text``.

    Raises:
        DataError: If it cannot be told where its cells and rows end, or has no header and is looked up by name.
    """
    return read_first(text, suffix, source, columns, options)[0]


def read_first(text: str, suffix: str, source: str, columns: Columns, options: Options) -> tuple[Table, Form]:
    """The table in ``text``, which may be the first part of a longer one, and how that is written.

    Raises:
        DataError: If it cannot be told where its cells and rows end, or has no header and is looked up by name.
    """
    notes = []
    # Excel's own hint on the delimiter; it is a line of the file, but none of the table.
    said = _SEP_LINE.match(text)
    body, lines_before = (text[said.end() :], 1) if said else (text, 0)
    delimiter = options.delimiter or (said[1] if said else _recognise_delimiter(body, suffix, columns))
    if options.delimiter is None and delimiter != _USUAL.get(suffix):
        notes.append(f"{source}: read with delimiter {_NAMES.get(delimiter, repr(delimiter))} (data.delimiter)")
    parsed, quoting_notes = parse_as_quoted(body, delimiter, options.quoting, source, lines_before)
    if not any(parsed.rows):
        raise DataError(f"{source}: is empty. Give a file with a header and a row per example.")
    header = recognise([row for row in islice(parsed.rows, _SAMPLE_LINES) if row], columns, options.header, source)
    notes += [*quoting_notes, *filter(None, [header.note])]
    # As spreadsheets write them below a table.
    num_empty = sum(len(row) > 1 and not any(row) for row in parsed.rows)
    if num_empty:
        notes.append(f"{source}: {num_empty} rows of empty cells are left out")
    form = Form(delimiter, _rule(parsed, body, options), replace(header, is_first_row=False))
    rows = _records(parsed, header, delimiter, source)
    hint = "Is there another delimiter? Set data.delimiter." if len(header.names) == 1 else header.hint
    return Table(source, header.names, rows, notes=tuple(notes), hint=hint), form


def read_next(text: str, form: Form, source: str, options: Options, before: int) -> tuple[Table, Form]:
    """The rows of a further part of a text, and how that is written as far as it is known by now.

    Args:
        text: The part, which begins and ends with a row.
        form: How the parts before it are written.
        source: The file, as messages name it.
        options: As for the first part.
        before: Lines of the file before ``text``.

    Raises:
        DataError: If the part is not written like those before it.
    """
    if form.quoting is None:
        parsed, notes = parse_as_quoted(text, form.delimiter, options.quoting, source, before)
        form = replace(form, quoting=_rule(parsed, text, options))
    else:
        parsed, notes = parse(text, form.delimiter, form.quoting, before), []
    if parsed.fault:
        raise DataError(
            f"{source}:{parsed.fault_line}: {parsed.fault}, and the rows before are written otherwise. Correct it, or "
            "set data.quoting to another of csv, backslash and none."
        )
    rows = _records(parsed, form.header, form.delimiter, source)
    return Table(source, form.header.names, rows, notes=tuple(notes)), form


def _rule(parsed: Parsed, text: str, options: Options) -> str | None:
    return parsed.rule if options.quoting != "auto" or '"' in text else None


def _records(parsed: Parsed, header: Header, delimiter: str, source: str) -> Iterator[Record | Problem]:
    # Where a cell spans lines, a row is where it begins.
    width, is_header = len(header.names), header.is_first_row
    for number, cells in zip(parsed.starts, parsed.rows, strict=True):
        if not any(cells) or (len(cells) == 1 < width and cells[0].isspace()):
            continue
        if is_header:
            is_header = False
            continue
        if len(cells) > width and not any(cells[width:]):
            cells = cells[:width]
        if len(cells) == width:
            yield Record(number, f"{source}:{number}", dict(zip(header.names, cells, strict=True)))
        else:
            few = len(cells) < width
            allowed = f"{width} cells a row" + ("" if few else f"; quote a text that holds {delimiter!r}")
            yield Problem(f"too {'few' if few else 'many'} cells", f"{source}:{number}", str(len(cells)), allowed)


def _recognise_delimiter(text: str, suffix: str, columns: Columns) -> str:
    """The usual delimiter of the suffix, unless another one finds more columns or evener rows."""
    usual = _USUAL.get(suffix)
    tried = [usual, *(other for other in DELIMITERS if other != usual)] if usual else list(DELIMITERS)
    sample = "".join(islice(io.StringIO(text, newline=""), _SAMPLE_LINES))
    rows = {delimiter: _sampled(sample, delimiter) for delimiter in tried}
    named = max(tried, key=lambda delimiter: columns.found_in(rows[delimiter][0]) if rows[delimiter] else 0)
    if rows[named] and columns.found_in(rows[named][0]) and len(rows[named][0]) > 1:
        return named
    return max(tried, key=lambda delimiter: _evenness(rows[delimiter]))


def _sampled(sample: str, delimiter: str) -> list[list[str]]:
    quoted = parse(sample, delimiter, "csv")
    rows = quoted.rows if not quoted.fault else parse(sample, delimiter, "none").rows
    return [row for row in rows if row]


def _evenness(rows: Sequence[Sequence[str]]) -> float:
    """Share of rows that have the commonest number of cells, 0 where that is one."""
    if not rows:
        return 0.0
    width, count = Counter(map(len, rows)).most_common(1)[0]
    return count / len(rows) if width > 1 else 0.0


def check_delimiter(delimiter: str) -> str:
    """``delimiter`` as one character; a tab may be written as such or as ``\\t``.

    Raises:
        ValueError: If it is more than one character, or cannot delimit cells.
    """
    named = {"\\t": "\t", "tab": "\t"}.get(delimiter.lower(), delimiter)
    if len(named) != 1 or named in '"\r\n':
        raise ValueError(f"must be one character, as ',', ';', '|' or '\\t', not {delimiter!r}")
    csv.reader([], delimiter=named)
    return named
