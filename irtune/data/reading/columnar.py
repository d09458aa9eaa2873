"""Reads what holds typed columns: Parquet, Arrow and Feather files, folders of ``save_to_disk``, and hub data."""

import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from irtune.data.dataset import DataError
from irtune.data.reading.table import Columns, Record, Table

_BATCH_ROWS = 1000


def read_parquet(raw: bytes, source: str, columns: Columns) -> Table:
    """The table of a Parquet file.

    Raises:
        DataError: If it is none.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(io.BytesIO(raw))
        names = _needed(file.schema_arrow.names, columns, source)
        table = file.read(columns=names)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _no_parquet(source, error) from error
    return _of_arrow(table, file.schema_arrow, source)


def parquet_in_batches(path: Path, columns: Columns) -> Table:
    """The table of a Parquet file whose rows are read as they are asked for, a part of a row group at a time.

    Raises:
        DataError: If it is none; also as its rows are read.
    """
    import pyarrow
    from pyarrow import parquet

    source = str(path)

    def batches() -> Iterator[Any]:
        try:
            yield from file.iter_batches(_BATCH_ROWS, columns=names)
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            raise _no_parquet(source, error) from error

    try:
        file = parquet.ParquetFile(path)
        names = _needed(file.schema_arrow.names, columns, source)
    except (pyarrow.ArrowException, OSError) as error:
        raise _no_parquet(source, error) from error
    return Table(source, tuple(names), _records(batches(), source), class_names=_classes_in(file.schema_arrow))


def _no_parquet(source: str, error: Exception) -> DataError:
    return DataError(f"{source}: cannot be read as Parquet: {error}. Fetch or write it anew.")


def read_arrow(raw: bytes, source: str, columns: Columns) -> Table:
    """The table of an Arrow or Feather file, written as a file or as a stream.

    Raises:
        DataError: If it is none.
    """
    import pyarrow
    from pyarrow import feather, ipc

    try:
        if raw.startswith(b"ARROW1"):
            table = ipc.open_file(pyarrow.BufferReader(raw)).read_all()
        elif raw.startswith(b"FEA1"):
            table = feather.read_table(io.BytesIO(raw))
        else:
            table = ipc.open_stream(pyarrow.BufferReader(raw)).read_all()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{source}: cannot be read as Arrow: {error}. Fetch or write it anew.") from error
    return _of_arrow(table.select(_needed(table.column_names, columns, source)), table.schema, source)


def is_saved(folder: Path) -> bool:
    """Return whether a folder was written by ``save_to_disk`` of the library ``datasets``."""
    return (folder / "dataset_dict.json").is_file() or (
        (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()
    )


def read_saved(folder: Path, columns: Columns) -> list[Table]:
    """The tables of a folder that was written by ``save_to_disk``.

    Raises:
        DataError: If it cannot be read.
    """
    import datasets

    try:
        found = datasets.load_from_disk(str(folder))
    except Exception as error:
        # What the library raises on damaged folders depends on which of its files is damaged.
        raise DataError(f"{folder}: cannot be read as a saved dataset: {error}. Save it anew.") from error
    return of_datasets(found if isinstance(found, Mapping) else {"": found}, str(folder), columns)


def of_datasets(splits: Mapping[str, Any], source: str, columns: Columns) -> list[Table]:
    """One table per split of a ``datasets.DatasetDict``.

    Raises:
        DataError: If a column is absent.
    """
    tables = []
    for split, dataset in splits.items():
        place = f"{source} {split}".rstrip()
        names = _needed(dataset.column_names, columns, place)
        # As Arrow, so that nothing is decoded that is not text.
        batches = dataset.select_columns(names).with_format("arrow").iter(_BATCH_ROWS)
        records = _records(batches, place)
        class_names = dict(_class_names(dataset.features.to_dict()))
        tables.append(Table(place, tuple(names), records, split=split, class_names=class_names))
    return tables


def _of_arrow(table: Any, schema: Any, source: str) -> Table:
    records = _records(table.to_batches(_BATCH_ROWS), source)
    return Table(source, tuple(table.column_names), records, class_names=_classes_in(schema))


def _classes_in(schema: Any) -> dict[str, list[str]]:
    """The names of classes that files which ``datasets`` writes have in their metadata."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    return dict(_class_names(features))


def _records(batches: Iterable[Any], source: str) -> Iterator[Record]:
    number = 0
    for batch in batches:
        for cells in batch.to_pylist():
            number += 1
            yield Record(number, f"{source}:{number}", cells)


def _needed(names: Sequence[str], columns: Columns, source: str) -> list[str]:
    """The columns to read; the others may hold anything, images say."""
    return list(dict.fromkeys(path[0] for path in columns.paths(names, source).values()))


def _class_names(features: Any, prefix: str = "") -> Iterator[tuple[str, list[str]]]:
    """The names of classes by dotted name of the feature that has them; of a list's elements under the list's name."""
    if not isinstance(features, dict):
        return
    for name, feature in features.items():
        if isinstance(feature, list) and feature:
            feature = feature[0]
        if not isinstance(feature, dict):
            continue
        kind = feature.get("_type")
        if not isinstance(kind, str):
            yield from _class_names(feature, f"{prefix}{name}.")
            continue
        inner = feature.get("feature") if kind in ("List", "LargeList", "Sequence") else feature
        if isinstance(inner, dict) and inner.get("_type") == "ClassLabel":
            yield prefix + name, list(inner["names"])
