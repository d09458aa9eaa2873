"""Predictions as files, written as they are found: whole under their name, or not there."""

import csv
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from irtune.files import appearing

SUFFIXES = (".csv", ".jsonl", ".parquet")

Write = Callable[[Sequence[str], Sequence[str], np.ndarray], None]
"""Takes the ids of rows, their predicted labels, and the probabilities ``(N, C)`` of all classes."""


def check_out(out: Path, file: Path) -> None:
    """Refuse a place that predictions cannot be written to.

    Raises:
        ValueError: If it is a folder or the file that is read, or its suffix says no format.
    """
    if out.suffix.lower() not in SUFFIXES:
        raise ValueError(f"--out: {out} ends with none of {', '.join(SUFFIXES)}, which say what is written")
    if out.is_dir() or (out.exists() and out.samefile(file)):
        what = "a folder" if out.is_dir() else "the file that is read"
        raise ValueError(f"--out: {out} is {what}; name another file")


@contextmanager
def predictions_to(out: Path | None, classes: Sequence[str]) -> Iterator[Write]:
    """What takes predictions inside the context: a file by its suffix, which appears as that ends well; None: stdout.

    The columns are ``id``, ``label`` and ``probability/CLASS`` of every class.

    Args:
        out: The file.
        classes: The labels in order of class.
    """
    columns = ["id", "label", *(f"probability/{label}" for label in classes)]
    if out is None:
        yield _csv(sys.stdout, columns)
        return
    with appearing(out) as partial:
        if out.suffix.lower() == ".parquet":
            with _parquet(partial, columns) as write:
                yield write
        else:
            make = _csv if out.suffix.lower() == ".csv" else _jsonl
            with partial.open("w", encoding="utf-8", newline="") as opened:
                yield make(opened, columns)


def _rows(ids: Sequence[str], labels: Sequence[str], probabilities: np.ndarray) -> Iterator[list[Any]]:
    for one, label, of_classes in zip(ids, labels, probabilities.tolist(), strict=True):
        yield [one, label, *of_classes]


def _csv(opened: TextIO, columns: Sequence[str]) -> Write:
    writer = csv.writer(opened, lineterminator="\n")
    writer.writerow(columns)
    return lambda ids, labels, probabilities: writer.writerows(_rows(ids, labels, probabilities))


def _jsonl(opened: TextIO, columns: Sequence[str]) -> Write:
    def write(ids: Sequence[str], labels: Sequence[str], probabilities: np.ndarray) -> None:
        for row in _rows(ids, labels, probabilities):
            opened.write(json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False) + "\n")

    return write


@contextmanager
def _parquet(file: Path, columns: Sequence[str]) -> Iterator[Write]:
    import pyarrow
    from pyarrow import parquet

    kinds = [pyarrow.string()] * 2 + [pyarrow.float64()] * (len(columns) - 2)
    schema = pyarrow.schema(list(zip(columns, kinds, strict=True)))
    with parquet.ParquetWriter(file, schema) as writer:

        def write(ids: Sequence[str], labels: Sequence[str], probabilities: np.ndarray) -> None:
            arrays = [list(ids), list(labels), *probabilities.T]
            writer.write_batch(pyarrow.record_batch(list(map(pyarrow.array, arrays)), schema=schema))

        yield write
