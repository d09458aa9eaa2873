"""A file that is read in parts gives the rows that it gives when it is read whole."""

import random

import pandas as pd
import pyarrow
import pytest
from saying import refused

from irtune.data.cells import LabelReader
from irtune.data.dataset import DataError
from irtune.data.file import FileConfig
from irtune.data.reading import in_parts
from irtune.data.reading.kinds import read_tables
from irtune.data.reading.table import Options
from irtune.data.records import each_row
from irtune.data.rows import Problem, Row
from irtune.data.to_predict import RowsToPredict

CLASSES = ("a", "b")


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(in_parts, "LINES", 7)
    monkeypatch.setattr(in_parts, "MOST_LINES", 28)


def frame():
    """Texts with quotes, commas and line breaks, so that rows go on over the end of a part."""
    draw = random.Random(0)
    texts = [f'a "{i}", x' if i % 3 else f"two\nlines {i}" for i in range(60)]
    return pd.DataFrame(
        {"before": texts, "after": [f"ä {i}" for i in range(60)], "label": [draw.choice("ab") for _ in texts]}
    )


def as_zst(table, path):
    with pyarrow.CompressedOutputStream(pyarrow.OSFile(str(path), "wb"), "zstd") as opened:
        opened.write(table.to_csv(index=False).encode())


WRITE = {
    "a.csv": lambda t, f: t.to_csv(f, index=False),
    "a.csv.gz": lambda t, f: t.to_csv(f, index=False),
    "a.csv.zst": as_zst,
    "a.csv.zip": lambda t, f: t.to_csv(f, index=False),
    "crlf.csv": lambda t, f: t.to_csv(f, index=False, lineterminator="\r\n"),
    "semicolon.csv": lambda t, f: t.to_csv(f, index=False, sep=";"),
    "wide.csv": lambda t, f: t.to_csv(f, index=False, encoding="utf-16"),
    "a.tsv": lambda t, f: t.to_csv(f, index=False, sep="\t"),
    "a.jsonl.xz": lambda t, f: t.to_json(f, orient="records", lines=True),
    "lines.json": lambda t, f: t.to_json(f, orient="records", lines=True),
    "array.json": lambda t, f: t.to_json(f, orient="records"),
    "a.parquet": lambda t, f: t.to_parquet(f, row_group_size=11),
    "a.xlsx": lambda t, f: t.to_excel(f, index=False),
}


@pytest.mark.parametrize("name", WRITE)
def test_rows_and_their_places_are_those_of_the_whole_file(name, tmp_path):
    file = tmp_path / name
    WRITE[name](frame(), file)
    config = FileConfig(path=file)
    (whole,) = read_tables(file, config.columns(), Options())
    expected = list(each_row(whole, config.columns(), LabelReader(CLASSES), "row"))
    rows = RowsToPredict(file, config, CLASSES)
    assert list(rows) == expected
    assert len(expected) == 60
    assert list(rows) == expected

    without = tmp_path / f"without_{name}"
    WRITE[name](frame().drop(columns="label"), without)
    found = list(RowsToPredict(without, FileConfig(path=without), CLASSES))
    assert [(row.texts, row.label) for row in found] == [(row.texts, "") for row in expected]
    with refused(DataError, "label"):
        list(RowsToPredict(without, FileConfig(path=without), CLASSES, needs_labels=True))


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl.xz"])
def test_no_more_than_a_part_is_held(name, tmp_path):
    WRITE[name](frame(), tmp_path / name)
    tables = in_parts.read_in_parts(tmp_path / name, FileConfig(path=tmp_path / name).columns(), Options())
    assert max(len(list(table.records)) for table in tables) <= in_parts.LINES


def test_quotes_that_come_late_are_recognised_then(tmp_path):
    file = tmp_path / "late.csv"
    lines = [
        "text,label",
        *(f"t{i},a" for i in range(20)),
        '"he said ""no"", twice",b',
        '"over\ntwo lines",b',
        "last,a",
    ]
    file.write_text("\n".join(lines))
    rows = list(RowsToPredict(file, FileConfig(path=file, text_column="text"), CLASSES))
    assert [row.texts[0] for row in rows[-3:]] == ['he said "no", twice', "over\ntwo lines", "last"]
    assert [row.id for row in rows[-3:]] == ["row:22", "row:23", "row:25"]


def test_what_is_wrong_far_down_is_named_by_its_line_in_the_file(tmp_path):
    file = tmp_path / "bad.csv"
    lines = ["text,label", *(f"t{i},a" for i in range(20)), "one,two,three", ",b", "last,a"]
    file.write_text("\n".join(lines))
    config = FileConfig(path=file, text_column="text")
    problems = [row for row in RowsToPredict(file, config, CLASSES) if isinstance(row, Problem)]
    assert [(problem.kind, problem.place) for problem in problems] == [
        ("too many cells", f"{file}:22"),
        ("empty text", f"{file}:23"),
    ]
    with file.open("a") as opened:
        opened.write('\n"never closed,a\n' + "x,a\n" * 40)
    with refused(DataError, f"{file}:25", "never closed", "data.quoting"):
        list(RowsToPredict(file, config, CLASSES))
    file.write_bytes(b"text,label\n" + b"t,a\n" * 50 + b"caf\xe9,a\n")
    with refused(DataError, f"{file}:52", "data.encoding=cp1252"):
        list(RowsToPredict(file, config, CLASSES))


def test_lines_of_json_may_have_a_label_or_not(tmp_path):
    file = tmp_path / "some.jsonl"
    file.write_text(
        "\n".join('{"text": "t"}' if i % 9 else '{"text": "t", "label": "a"}' for i in range(30)) + "\nno\n"
    )
    rows = list(RowsToPredict(file, FileConfig(path=file, text_column="text"), CLASSES))
    assert [row.label for row in rows if isinstance(row, Row)] == ["" if i % 9 else "a" for i in range(30)]
    assert rows[-1].place == f"{file}:31"


@pytest.mark.parametrize("content", ["", "text,label\n"])
def test_a_file_without_rows_is_refused(content, tmp_path):
    file = tmp_path / "none.csv"
    file.write_text(content)
    with refused(DataError, str(file)):
        list(RowsToPredict(file, FileConfig(path=file, text_column="text"), CLASSES))
