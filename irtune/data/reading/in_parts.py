"""Reads files that are larger than memory: text by lines, Parquet by batches, and all else whole."""

import bz2
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from irtune.data.dataset import DataError
from irtune.data.reading.columnar import parquet_in_batches
from irtune.data.reading.contents import kind_of, refuse_other_kinds
from irtune.data.reading.delimited import read_first, read_next
from irtune.data.reading.encoding import marked_as
from irtune.data.reading.json_records import is_lines, table_of_lines
from irtune.data.reading.kinds import DELIMITED, JSON, read_tables
from irtune.data.reading.table import Columns, Options, Table

LINES = 4096
"""Lines of a part; more where a cell goes on over its end."""

MOST_LINES = 4 * LINES
"""A cell that goes on for longer than this is one whose quote is never closed."""

_HEAD_BYTES = 2**16
_LARGE_BYTES = 64 * 2**20


def read_in_parts(path: Path, columns: Columns, options: Options) -> Iterator[Table]:
    """The tables of a file of any size, one after another, of which each holds as much as is kept in memory at once.

    Delimited text and lines of JSON, also compressed, and Parquet are read in parts; how a text is written is told
    from its first part and kept for the others. Rows are numbered as in the whole file. All else is read whole, and
    a note says so where that is much.

    Args:
        path: A file, or a folder of ``save_to_disk``.
        columns: Those that are looked for.
        options: How to read where the content does not say it.

    Raises:
        DataError: If it cannot be read, also between two parts.
    """
    suffix, compression = kind_of(path)
    if path.is_file() and suffix in (".parquet", ".pq") and not compression:
        return _parquet(path, columns, options)
    if path.is_file() and suffix in (*DELIMITED, *JSON) and compression in _OPEN:
        return _text(path, columns, options)
    return _whole(path, columns, options)


def _whole(path: Path, columns: Columns, options: Options) -> Iterator[Table]:
    tables = read_tables(path, columns, options)
    if path.is_file() and path.stat().st_size > _LARGE_BYTES:
        note = f"{path}: is held in memory as a whole, which .csv, .jsonl and .parquet are not"
        tables[0] = replace(tables[0], notes=(*tables[0].notes, note))
    yield from tables


def _parquet(path: Path, columns: Columns, options: Options) -> Iterator[Table]:
    with path.open("rb") as file:
        is_parquet = file.read(4) == b"PAR1"
    # What else it may be, whoever reads it whole knows to say.
    yield from [parquet_in_batches(path, columns)] if is_parquet else read_tables(path, columns, options)


def _text(path: Path, columns: Columns, options: Options) -> Iterator[Table]:
    suffix, compression = kind_of(path)
    source = str(path)
    try:
        with _OPEN[compression](path) as opened, io.BufferedReader(opened, _HEAD_BYTES) as raw:
            head = raw.peek(_HEAD_BYTES)[:_HEAD_BYTES]
            refuse_other_kinds(head, source)
            marked, note = (None, "") if options.encoding else marked_as(head, source)
            newline = "\n" if suffix in JSON else ""
            text = io.TextIOWrapper(raw, encoding=options.encoding or marked or "utf-8", newline=newline)
            pieces = _Pieces(text)
            tables = _json(pieces, source) if suffix in JSON else _delimited(pieces, suffix, source, columns, options)
            for number, table in enumerate(tables):
                yield replace(table, notes=(note, *table.notes)) if note and not number else table
            if pieces.num_lines:
                return
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
        if isinstance(error, DataError):
            raise
        # Whoever reads it whole can say in which line it is, and what it looks like.
        read_tables(path, columns, options)
        raise DataError(f"{source}: cannot be read: {error}. Fetch or write it anew.") from error
    yield from _whole(path, columns, options)


def _delimited(pieces: "_Pieces", suffix: str, source: str, columns: Columns, options: Options) -> Iterator[Table]:
    rule = None if options.quoting == "auto" else options.quoting
    table, form = read_first(pieces.take(rule), suffix, source, columns, options)
    yield table
    before = pieces.num_lines
    while text := pieces.take(form.quoting):
        table, form = read_next(text, form, source, options, before)
        yield table
        before = pieces.num_lines


def _json(pieces: "_Pieces", source: str) -> Iterator[Table]:
    """Lines of JSON; where the file is none of these, nothing, and no line is counted as taken."""
    text = pieces.take("none")
    start = len(text) - len(text.lstrip())
    if text[start : start + 1] != "{" or not is_lines(text, start):
        pieces.num_lines = 0
        return
    before, names = 0, dict[str, None]()
    while text:
        table = table_of_lines(text, source, before)
        names |= dict.fromkeys(table.columns)
        yield replace(table, columns=tuple(names))
        before = pieces.num_lines
        text = pieces.take("none")


class _Pieces:
    """Cuts a text into parts that end where a row ends.

    Attributes:
        num_lines: Lines taken so far.
    """

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self.num_lines = 0

    def take(self, quoting: str | None) -> str:
        """The next part; empty at the end.

        Args:
            quoting: The rule by which quotes enclose cells; None if it is not known.
        """
        taken = list(islice(self._lines, LINES))
        if taken and not self.num_lines:
            taken[0] = taken[0].removeprefix("\ufeff")
        if quoting != "none":
            is_open = sum(_num_quotes(line, quoting) for line in taken) % 2 == 1
            while is_open and len(taken) < MOST_LINES and (line := next(self._lines, None)) is not None:
                taken.append(line)
                is_open ^= _num_quotes(line, quoting) % 2 == 1
        self.num_lines += len(taken)
        return "".join(taken)


def _num_quotes(line: str, quoting: str | None) -> int:
    return (re.sub(r"\\.", "", line) if quoting == "backslash" else line).count('"')


def _zstandard(path: Path) -> Any:
    import pyarrow

    return pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), "zstd")


_OPEN: dict[str, Callable[[Path], Any]] = {
    "": lambda path: io.FileIO(path),
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": _zstandard,
}
