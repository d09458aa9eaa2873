"""Files as people have them: what is recognised is read as the plain file is, and said; what cannot be is refused."""

import csv
import gzip
import json
import zipfile

import pytest
from saying import says
from table_files import (
    CLASSES,
    HEADER,
    PAIRS,
    compressed,
    delimited,
    frame,
    json_lines,
    records,
    swallowing,
    unquoted,
    with_classes,
    workbook,
    write_plain,
    write_text,
)

from irtune.data.dataset import DataError
from irtune.data.file import FileConfig

PLAIN = sorted((row[:2], row[2]) for row in PAIRS)
NUMBERED = {"before_column": "1", "after_column": "2", "label_column": "3"}
OTHER = {"before_column": "Old", "after_column": "new", "label_column": " why"}
NESTED = {"before_column": "text.old", "after_column": "text.new", "label_column": "meta.why"}
IN_LIST = {"before_column": "texts.0", "after_column": "texts.1"}


def rows(data):
    return sorted((example.texts, example.label) for split in data.splits.values() for example in split)


def pairs(triples):
    return sorted((tuple(row[:2]), row[2]) for row in triples)


def read(path, **options):
    return FileConfig(path=path, **options).load()


def notes(path, **options):
    return "\n".join(read(path, **options).notes)


def refusal(path, **options):
    with pytest.raises(DataError) as error:
        read(path, **options)
    return str(error.value)


KINDS = ["csv", "tsv", "json", "jsonl", "parquet", "feather", "xlsx", "csv.gz", "jsonl.gz", "csv.bz2", "json.xz"]


@pytest.mark.parametrize("kind", [*KINDS, "tsv.zip", "csv.zst", "parquet.gz"])
def test_every_container_gives_the_same(tmp_path, kind):
    data = read(write_plain(tmp_path / f"data.{kind}"))
    assert rows(data) == PLAIN
    assert data.notes == ()


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("semicolon.csv", delimited(delimiter=";"), "delimiter ';' (data.delimiter)"),
        ("pipe.csv", delimited(delimiter="|"), "delimiter '|' (data.delimiter)"),
        ("tab.csv", delimited(delimiter="\t"), "delimiter tab (data.delimiter)"),
        ("tab.txt", delimited(delimiter="\t"), "delimiter tab (data.delimiter)"),
        ("comma.tsv", delimited(), "delimiter ',' (data.delimiter)"),
        ("excel.csv", "sep=;\n" + delimited(delimiter=";"), "delimiter ';' (data.delimiter)"),
        ("no_header.csv", delimited(header=None), "without a header"),
        ("no_header.tsv", delimited(header=None, delimiter="\t"), "without a header"),
        ("spaces.csv", 'before, after, label\n' + "".join(f'"{b}", "{a}", {c}\n' for b, a, c in PAIRS), "data.quoting"),
        ("all_quoted.tsv", delimited(delimiter="\t", quoting=csv.QUOTE_ALL), "quotes around cells (data.quoting)"),
        ("empty_rows.csv", delimited() + ",,\n,,\n", "2 rows of empty cells"),
        ("columns.json", frame().to_json(), "object of columns"),
        ("index.json", frame().to_json(orient="index"), "object of rows"),
        ("split.json", frame().to_json(orient="split"), "list of columns"),
        ("below.json", json.dumps({"version": 1, "data": records()}), "'data'"),
    ],
)  # fmt: skip
def test_a_guess_is_right_and_said(tmp_path, name, text, said):
    data = read(write_text(tmp_path / name, text))
    assert rows(data) == PLAIN
    assert said in "\n".join(data.notes)


@pytest.mark.parametrize(
    ("name", "text", "options"),
    [
        ("caret.csv", delimited(delimiter="^"), {"delimiter": "^"}),
        ("tab.csv", delimited(delimiter="\t"), {"delimiter": "\\t"}),
        ("no_header.csv", delimited(header=None), {"header": False}),
        ("numbered.csv", delimited(header=None), {"header": False, **NUMBERED}),
        ("recognised.csv", delimited(header=None), NUMBERED),
        ("header.csv", delimited(header=["Before ", " after", "LABEL"]), {}),
        ("other.csv", delimited(header=["old", "new", "why"]), OTHER),
        ("trailing.csv", delimited([(*row, "", "") for row in PAIRS], header=[*HEADER, "", ""]), {}),
        ("cr.csv", delimited().replace("\n", "\r"), {}),
        ("blank.csv", delimited().replace("\n", "\n\n"), {}),
        ("array.json", json.dumps(records(), indent=1), {}),
        ("array.jsonl", json.dumps(records()), {}),
        ("spread.jsonl", "\n".join(json.dumps(record, indent=2) for record in records()), {}),
        ("lines.json", json_lines(), {}),
        ("lines.ndjson", json_lines(), {}),
        ("nested.jsonl", json_lines({"text": {"old": b, "new": a}, "meta": {"why": c}} for b, a, c in PAIRS), NESTED),
        ("list.jsonl", json_lines({"texts": [b, a], "label": c} for b, a, c in PAIRS), IN_LIST),
    ],
)  # fmt: skip
def test_settings_and_variants_give_the_same(tmp_path, name, text, options):
    assert rows(read(write_text(tmp_path / name, text), **options)) == PLAIN


def test_a_first_row_that_is_unlike_the_others_is_a_header_of_other_names(tmp_path):
    path = write_text(tmp_path / "data.csv", delimited(header=["old", "new", "why"]))
    text = refusal(path)
    for part in ("'before' (data.before_column)", "'label' (data.label_column)", "'old'", "data.header=false"):
        assert part in text


def test_a_delimiter_that_is_none_of_the_usual_is_asked_for(tmp_path):
    assert "Set data.delimiter" in refusal(write_text(tmp_path / "data.csv", delimited(delimiter="^")))


def test_a_name_that_stands_twice_in_the_header_is_refused(tmp_path):
    four = [(*row, "x") for row in PAIRS]
    twice = write_text(tmp_path / "data.csv", delimited(four, header=[*HEADER, "label"]))
    assert says(refusal(twice), "columns 3 and 4 … 'label' … data.label_column")
    similar = write_text(tmp_path / "two.csv", delimited(four, header=[*HEADER[:2], "Label", "LABEL"]))
    assert "'Label', 'LABEL'" in refusal(similar)
    assert rows(read(similar, label_column="Label")) == PLAIN
    same_key = write_text(tmp_path / "data.jsonl", '{"before": "x", "after": "y", "label": "a", "label": "b"}\n' * 9)
    assert says(refusal(same_key), f"'label' … twice, 9 rows: {same_key}:1")


# Quotes


def test_quotes_between_tabs_are_text(tmp_path):
    stray = [(f"he said {i}", f'"Hi there {i}, he said', row[2]) for i, row in enumerate(PAIRS)]
    whole = [(f"he said {i}", f'"Hi {i}."', row[2]) for i, row in enumerate(PAIRS)]
    for number, triples in enumerate((stray, swallowing(), whole)):
        path = write_text(tmp_path / f"{number}.tsv", unquoted(triples))
        assert rows(read(path)) == pairs(triples)
        assert "data.quoting" in notes(path)
    assert rows(read(path, quoting="csv"))[0][0][1][0] == "H"


@pytest.mark.parametrize("text", ['he said "{}" then', "a tab\there {}", "two lines\nhere {}"])
def test_a_properly_quoted_table_between_tabs_is_recognised(tmp_path, text):
    triples = [(b, text.format(i) if i % 4 else a, label) for i, (b, a, label) in enumerate(PAIRS)]
    path = write_text(tmp_path / "pandas.tsv", frame(triples).to_csv(sep="\t", index=False))
    assert rows(read(path)) == pairs(triples)
    assert "quotes around cells (data.quoting)" in notes(path)


def test_no_row_is_swallowed_by_a_quote(tmp_path):
    path = write_text(tmp_path / "data.csv", unquoted(swallowing(), delimiter=","))
    assert rows(read(path)) == pairs(swallowing())
    assert says(notes(path), "line 12 … quote … data.quoting")
    # Where other rows need quotes, nothing reads all of them.
    unquoted_once = unquoted(swallowing(), delimiter=",").replace("the cat number 3 sat,", '"the cat, number 3",')
    path.write_text(unquoted_once)
    text = refusal(path, skip_bad_rows=True)
    assert says(text, f"{path}:12: … quote … lines 12 to 33")
    assert "data.quoting=none" in text
    assert says(notes(path, quoting="csv"), "1 row spans several lines", "lines 12 to 33")
    path.write_text(unquoted_once.replace('end"', "end"))
    assert says(refusal(path), f"{path}:12: … quote … never closed")


def test_cells_that_span_lines_are_read_and_said(tmp_path):
    triples = [(b, f"{a},\nand then, again", label) for b, a, label in PAIRS]
    path = write_text(tmp_path / "data.csv", delimited(triples))
    assert rows(read(path)) == pairs(triples)
    assert says(notes(path), "60 rows span several lines", "lines 2 to 3, 4 to 5")


def test_quotes_that_are_escaped_by_a_backslash_are_recognised(tmp_path):
    triples = [(b, f'he said "{i}", then', label) for i, (b, _, label) in enumerate(PAIRS)]
    lines = (",".join('"' + cell.replace('"', '\\"') + '"' for cell in row) for row in (HEADER, *triples))
    path = write_text(tmp_path / "data.csv", "\n".join(lines))
    assert rows(read(path)) == pairs(triples)
    assert "backslash (data.quoting)" in notes(path)


def test_a_long_cell_is_read(tmp_path):
    triples = [("word " * 40_000, *PAIRS[0][1:]), *PAIRS[1:]]
    former = csv.field_size_limit()
    assert rows(read(write_text(tmp_path / "data.csv", delimited(triples)))) == pairs(triples)
    assert csv.field_size_limit() == former


# Files that are not what they are called


@pytest.mark.parametrize(
    ("name", "raw", "said"),
    [
        ("data.csv", gzip.compress(delimited().encode(), mtime=0), "holds gzip"),
        ("data.csv.gz", gzip.compress(delimited().encode(), mtime=0)[:60], "cannot be decompressed"),
        ("data.csv.gz", delimited().encode(), "cannot be decompressed"),
        ("data.csv", b"<!DOCTYPE html>\n<html>", "a web page"),
        ("data.parquet", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("data.parquet", b"PAR1", "cannot be read as Parquet"),
        ("data.xlsx", b"PK", "cannot be read as an Excel workbook"),
        ("data.arrow", b"x", "cannot be read as Arrow"),
        ("data.json", json.dumps(records(), indent=1).encode()[:-50], "is no JSON"),
        ("data.pkl", b"x", "It may run code"),
        ("data.xls", b"x", "Save it as .xlsx or .csv"),
        ("data", delimited().encode(), "no suffix"),
        ("data.csv", b"", "is empty"),
        ("data.json", b" \n", "is empty"),
        ("data.jsonl", b"[]", "holds no rows"),
    ],
)
def test_a_file_that_is_no_table_is_refused_by_what_it_is(tmp_path, name, raw, said):
    (tmp_path / name).write_bytes(raw)
    text = refusal(tmp_path / name, skip_bad_rows=True)
    assert said in text
    assert str(tmp_path / name) in text


def test_an_archive_of_several_files_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.writestr("a.csv", delimited())
        archive.writestr("b.csv", delimited())
    assert "holds 2 files (a.csv, b.csv)" in refusal(tmp_path / "data.zip")
    (tmp_path / "one.zip").write_bytes(compressed(delimited().encode(), "zip", "inner/data.csv"))
    assert rows(read(tmp_path / "one.zip")) == PLAIN


def test_the_sheet_of_a_workbook_is_found_said_and_settable(tmp_path):
    path = workbook(tmp_path / "data.xlsx", {"About": [["read me"]], "Data": [HEADER, *PAIRS, ()], "Old": [HEADER]})
    assert rows(read(path)) == PLAIN
    assert says(notes(path), "'Data' is read", "not 'About', 'Old'", "data.sheet")
    assert rows(read(path, sheet="data")) == PLAIN
    assert "sheet Old: holds no rows" in refusal(path, sheet="Old")
    assert says(refusal(path, sheet="New"), "data.sheet … 'About', 'Data', 'Old'")


def test_names_of_classes_are_read_where_the_library_datasets_keeps_them(tmp_path):
    named = with_classes()
    named.to_parquet(str(tmp_path / "data.parquet"))
    named.save_to_disk(str(tmp_path / "saved"))
    for place in ("data.parquet", "saved"):
        assert read(tmp_path / place).labels == CLASSES
    assert rows(read(tmp_path / "saved", label_map=dict(zip(CLASSES, "abc", strict=True)))) == PLAIN
