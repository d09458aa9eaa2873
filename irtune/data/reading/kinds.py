"""Which reader reads a file, by its suffix."""

from dataclasses import replace
from pathlib import Path

from irtune.data.dataset import DataError
from irtune.data.reading.columnar import is_saved, read_arrow, read_parquet, read_saved
from irtune.data.reading.contents import COMPRESSED, read_contents, refuse_other_kinds
from irtune.data.reading.delimited import read_delimited
from irtune.data.reading.encoding import decode
from irtune.data.reading.json_records import read_json
from irtune.data.reading.table import Columns, Options, Table
from irtune.data.reading.workbook import read_workbook

DELIMITED = (".csv", ".tsv", ".tab", ".txt")
JSON = (".json", ".jsonl", ".ndjson")
BINARY = {".parquet": read_parquet, ".pq": read_parquet, ".arrow": read_arrow, ".feather": read_arrow}
EXCEL = (".xlsx", ".xlsm")
SUFFIXES = (*DELIMITED, *JSON, *BINARY, *EXCEL)

_ELSEWHERE = {
    **dict.fromkeys((".xls", ".xlsb", ".ods", ".numbers"), "Save it as .xlsx or .csv"),
    **dict.fromkeys((".pkl", ".pickle", ".pt", ".npy", ".joblib"), "It may run code when read: save it as .parquet"),
}


def read_tables(path: Path, columns: Columns, options: Options) -> list[Table]:
    """The tables of a file or of a folder of ``save_to_disk``.

    Raises:
        DataError: If it is of an unknown kind, or cannot be read as what it is called.
    """
    if path.is_dir() and is_saved(path):
        return read_saved(path, columns)
    source = str(path)
    raw, suffix = read_contents(path)
    if suffix in BINARY:
        return [BINARY[suffix](raw, source, columns)]
    if suffix in EXCEL:
        return [read_workbook(raw, source, columns, options)]
    if suffix not in SUFFIXES:
        found = f"unknown kind of file {suffix!r}" if suffix else "its name has no suffix that says what it is"
        remedy = _ELSEWHERE.get(suffix, "Rename or save it as one of these")
        known = f"{', '.join(SUFFIXES)}, each also compressed ({', '.join(COMPRESSED)})"
        raise DataError(f"{source}: {found}; known: {known}. {remedy}.")
    refuse_other_kinds(raw, source)
    text, note = decode(raw, source, options.encoding)
    del raw
    tables = (
        read_json(text, source, columns) if suffix in JSON else [read_delimited(text, suffix, source, columns, options)]
    )
    if note:
        tables[0] = replace(tables[0], notes=(note, *tables[0].notes))
    return tables
