"""Whether quotes in a delimited text enclose cells or belong to the texts: told from how the rows come out.

A quote that is read as enclosing and is none swallows every line up to the next one, so where each line is a whole row
by itself, quotes do not enclose line breaks.
"""

import csv
import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from irtune.data.dataset import DataError
from irtune.data.reading.table import Quoting

# Rows that span lines are taken for swallowed ones where more than this share of them is made of lines that are rows.
SWALLOWED_SHARE = 0.1
_FORMATS: dict[str, dict[str, Any]] = {
    "csv": {"strict": True},
    "csv after spaces": {"strict": True, "skipinitialspace": True},
    "backslash": {"strict": True, "doublequote": False, "escapechar": "\\"},
    "none": {"quoting": csv.QUOTE_NONE},
}


@dataclass
class Parsed:
    """The rows of a delimited text under one rule of quoting.

    Args:
        starts: Line of each row, counted from 1.
        ends: Its last line.
        rows: Its cells.
        fault: What is wrong with the text as a whole, and in which line; empty where nothing is.
        rule: Of the quoting that it was read by.
    """

    starts: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    fault: str = ""
    fault_line: int = 0
    rule: str = "none"

    @property
    def is_even(self) -> bool:
        """Return whether the text can be read, and every row has as many cells as the first."""
        width = len(self.rows[0]) if self.rows else 0
        return not self.fault and all(len(row) in (0, width) for row in self.rows)

    def spanning(self) -> list[int]:
        """Return which rows span several lines."""
        return [i for i, (start, end) in enumerate(zip(self.starts, self.ends, strict=True)) if end > start]


Read = Callable[[str], Parsed]
"""A text's rows by a rule of quoting."""


def parse(text: str, delimiter: str, quoting: str, before: int = 0) -> Parsed:
    """The rows of ``text``, before which a file has so many lines; where it breaks off, those before the fault."""
    parsed = Parsed(rule=quoting)
    with _long_cells():
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, **_FORMATS[quoting])
        start = before + 1
        try:
            for row in reader:
                parsed.starts.append(start)
                parsed.ends.append(before + reader.line_num)
                parsed.rows.append(row)
                start = before + reader.line_num + 1
        except csv.Error as error:
            never_closed = "unexpected end of data" in str(error)
            parsed.fault = "a quote is opened and never closed" if never_closed else "a quote within a cell"
            parsed.fault_line = start if never_closed else before + reader.line_num
    return parsed


def parse_as_quoted(
    text: str, delimiter: str, quoting: Quoting, source: str, before: int = 0
) -> tuple[Parsed, list[str]]:
    """The rows of ``text`` under the user's rule of quoting, or the one recognised, and notes on that.

    Args:
        text: A file's text, or a part of it that ends with a row.
        delimiter: What stands between cells.
        quoting: The user's rule.
        source: The file, as messages name it.
        before: Lines of the file before ``text``.

    Raises:
        DataError: If it can be read under none, or rows seem to be swallowed by a quote.
    """
    if '"' not in text and quoting != "backslash":
        return parse(text, delimiter, "none", before), []
    if quoting != "auto":
        parsed = parse(text, delimiter, quoting, before)
        if parsed.fault:
            raise DataError(
                f"{source}:{parsed.fault_line}: {parsed.fault}. Correct it, or set data.quoting to another of csv, "
                "backslash and none."
            )
        return parsed, _note_on_spanning(parsed, source)
    read = _tabbed if delimiter == "\t" else _comma
    return read(partial(parse, text, delimiter, before=before), text, delimiter, source)


def _tabbed(read: Read, text: str, delimiter: str, source: str) -> tuple[Parsed, list[str]]:
    """Text between tabs has no quoting, unless it comes out even only with it, or cells that hold quotes show it."""
    lines = read("none")
    kept = f"{source}: quotes are read as part of the texts, as usual between tabs (data.quoting)"
    opened = [cell for row in lines.rows for cell in row if _is_enclosed(cell)]
    if lines.is_even and not opened:
        return lines, [kept]
    quoted = read("csv")
    if not quoted.is_even or _swallowed(lines, quoted):
        return lines, [kept]
    shows_it = any('""' in cell[1:-1] for cell in opened) or all(map(_is_enclosed, lines.rows[0]))
    if shows_it or not lines.is_even:
        return quoted, [f"{source}: read with quotes around cells (data.quoting)", *_note_on_spanning(quoted, source)]
    return lines, [f"{kept}; {len(opened)} cells begin and end with one, which data.quoting=csv takes off"]


def _comma(read: Read, text: str, delimiter: str, source: str) -> tuple[Parsed, list[str]]:
    """Text between commas and the like has quoting after RFC 4180, unless every line is a whole row without it."""
    if f'{delimiter} "' in text:
        spaced = read("csv after spaces")
        if spaced.is_even and not spaced.spanning():
            return spaced, [f"{source}: read without the spaces before cells, where quotes begin (data.quoting)"]
    quoted = read("csv")
    if not quoted.fault and not quoted.spanning():
        return quoted, []
    lines = read("none")
    swallowed = [] if quoted.fault else _swallowed(lines, quoted)
    if not quoted.fault and not swallowed:
        return quoted, _note_on_spanning(quoted, source)
    if lines.is_even:
        where = quoted.fault_line if quoted.fault else quoted.starts[swallowed[0]]
        why = quoted.fault or "a quote would enclose several rows"
        return lines, [f"{source}: quotes are read as part of the texts, since in line {where} {why} (data.quoting)"]
    if quoted.fault:
        return _backslash(read, text, quoted, source)
    first = swallowed[0]
    start, end = quoted.starts[first], quoted.ends[first]
    raise DataError(
        f"{source}:{start}: a quote encloses the lines {start} to {end}, each of which looks like a row of its own. "
        "Remove the quote, or set data.quoting=none to read quotes as part of the texts; data.quoting=csv reads it as "
        "it stands."
    )


def _backslash(read: Read, text: str, quoted: Parsed, source: str) -> tuple[Parsed, list[str]]:
    """Text that RFC 4180 cannot read, where quotes in cells are escaped."""
    escaped = read("backslash") if '\\"' in text else quoted
    if escaped.is_even:
        note = f"{source}: read with quotes escaped by a backslash (data.quoting)"
        return escaped, [note, *_note_on_spanning(escaped, source)]
    raise DataError(
        f"{source}:{quoted.fault_line}: {quoted.fault}. Write a quote inside a quoted cell twice, or set "
        "data.quoting=none to read quotes as part of the texts, or data.quoting=backslash."
    )


def _swallowed(lines: Parsed, quoted: Parsed) -> list[int]:
    """Rows of ``quoted`` that span lines which are whole rows without quoting; none where that may be chance."""
    width = len(quoted.rows[0]) if quoted.rows else 0
    rows_in = dict(zip(lines.starts, lines.rows, strict=True))
    spanning = quoted.spanning()
    found = [
        row
        for row in spanning
        if _are_rows([rows_in.get(line, []) for line in range(quoted.starts[row], quoted.ends[row] + 1)], width)
    ]
    return found if width > 1 and len(found) > SWALLOWED_SHARE * len(spanning) else []


def _are_rows(rows: list[list[str]], width: int) -> bool:
    """Whether lines are rows of a table; a space after the delimiter is more often one after a comma of a text."""
    like_text = sum(any(cell[:1] == " " for cell in row[1:]) for row in rows)
    return all(len(row) in (0, width) for row in rows) and 2 * like_text < len(rows)


def _note_on_spanning(parsed: Parsed, source: str) -> list[str]:
    spanning = parsed.spanning()
    if not spanning:
        return []
    shown = ", ".join(f"{parsed.starts[row]} to {parsed.ends[row]}" for row in spanning[:3])
    more = ", …" if len(spanning) > 3 else ""
    rows = "1 row spans" if len(spanning) == 1 else f"{len(spanning)} rows span"
    return [f"{source}: {rows} several lines, in quoted cells (lines {shown}{more}; data.quoting)"]


def _is_enclosed(cell: str) -> bool:
    return len(cell) > 1 and cell[0] == cell[-1] == '"'


@contextmanager
def _long_cells() -> Iterator[None]:
    """Lifts the ``csv`` module's limit on the length of a cell, which is one for the whole process."""
    former = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(former)
