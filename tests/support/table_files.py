"""Small files as people have them, of invented text, one oddity each: what they hold is ``PAIRS``, unless said."""

import bz2
import csv
import gzip
import io
import json
import lzma
import zipfile

import datasets
import openpyxl
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

HEADER = ("before", "after", "label")
PAIRS = [(f"the cat number {i} sat", f"the cat number {i} sat down", "abc"[i % 3]) for i in range(60)]
CLASSES = ("clarity", "fluency", "style")


def delimited(rows=PAIRS, header=HEADER, delimiter=",", quoting=csv.QUOTE_MINIMAL):
    """Delimited text after RFC 4180."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n", quoting=quoting)
    writer.writerows([*([header] if header else []), *rows])
    return text.getvalue()


def unquoted(rows=PAIRS, header=HEADER, delimiter="\t"):
    """Delimited text whose writer knows nothing of quotes."""
    return "".join(delimiter.join(row) + "\n" for row in (header, *rows))


def records(rows=PAIRS, header=HEADER):
    return [dict(zip(header, row, strict=True)) for row in rows]


def json_lines(values=None):
    return "".join(json.dumps(value) + "\n" for value in (records() if values is None else values))


def frame(rows=PAIRS):
    return pd.DataFrame(rows, columns=list(HEADER))


def with_classes(rows=PAIRS, names=CLASSES):
    """Rows whose labels are indices of named classes, as ``datasets`` keeps them."""
    text = datasets.Value("string")
    features = datasets.Features({"before": text, "after": text, "label": datasets.ClassLabel(names=list(names))})
    return datasets.Dataset.from_list(
        [{"before": b, "after": a, "label": "abc".index(label)} for b, a, label in rows], features=features
    )


def swallowing():
    """Rows of which two hold a lone quote, and what lies between these looks like one cell."""
    rows = [list(row) for row in PAIRS]
    rows[10][1], rows[31][1] = '"Stop', 'end"'
    return [tuple(row) for row in rows]


def workbook(path, sheets):
    """An Excel workbook of the given sheets."""
    book = openpyxl.Workbook()
    book.remove(book.active)
    for title, rows in sheets.items():
        sheet = book.create_sheet(title)
        for row in rows:
            sheet.append(list(row))
    book.save(path)
    return path


def write_text(path, text, encoding="utf-8", newline="\n"):
    path.write_bytes(text.replace("\n", newline).encode(encoding))
    return path


def write_plain(path):
    """``PAIRS`` in the kind of file that the path's suffixes name."""
    kind = path.name.partition(".")[2]
    text = {"csv": delimited(), "tsv": delimited(delimiter="\t"), "json": json.dumps(records()), "jsonl": json_lines()}
    if kind in text:
        return write_text(path, text[kind])
    if kind == "xlsx":
        return workbook(path, {"Sheet": [HEADER, *PAIRS]})
    if kind in ("parquet", "feather"):
        pq.write_table(pa.Table.from_pylist(records()), path) if kind == "parquet" else frame().to_feather(path)
        return path
    inner, _, compression = kind.rpartition(".")
    raw = write_plain(path.with_name(f"{path.name.partition('.')[0]}-plain.{inner}")).read_bytes()
    path.write_bytes(compressed(raw, compression, f"inner.{inner}"))
    return path


def compressed(raw, compression, name):
    if compression == "zip":
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr(name, raw)
            archive.writestr(f"__MACOSX/._{name}", b"")
        return buffer.getvalue()
    if compression == "zst":
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, "zstd") as stream:
            stream.write(raw)
        return sink.getvalue().to_pybytes()
    return {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}[compression](raw)
