"""Revisions from the user's own files: every format, every way of splitting, and what is said of unusable rows."""

import json

import pyarrow
import pyarrow.parquet
import pytest
from pydantic import ValidationError
from saying import says

from irtune.data.dataset import DataError
from irtune.data.file import FileConfig

ROWS = [
    {"before": "He go home.", "after": "He goes home.", "label": "fluency", "split": "train"},
    {"before": "  ", "after": "A new fact, “quoted”.", "label": "meaning", "split": "train"},
    {"before": "It is late\nnow.", "after": "It is late.", "label": "fluency", "split": "validation"},
    {"before": "Gone.", "after": "", "label": "meaning", "split": "test"},
]


def write_csv(path, rows, delimiter=","):
    def cell(text):
        return '"' + text.replace('"', '""') + '"'

    lines = [delimiter.join(rows[0])] + [delimiter.join(cell(value) for value in row.values()) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_rows(path, rows):
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    else:
        write_csv(path, rows, {".csv": ",", ".tsv": "\t"}[path.suffix])
    return path


def many_rows(num_rows=100):
    return [
        {"before": f"b{i}", "after": f"a{i}", "label": "xy"[i % 4 == 0], "document": f"d{i // 5}"}
        for i in range(num_rows)
    ]


def texts(data, split):
    return [(revision.texts[0], revision.texts[1], revision.label) for revision in data.splits[split]]


def message(**options):
    with pytest.raises(DataError) as error:
        FileConfig(**options).load()
    return str(error.value)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_every_format_gives_the_same_revisions(tmp_path, suffix):
    path = write_rows(tmp_path / f"data{suffix}", ROWS)
    data = FileConfig(path=path, split_column="split").load()
    assert data.labels == ("fluency", "meaning")
    assert texts(data, "train") == [
        ("He go home.", "He goes home.", "fluency"),
        ("  ", "A new fact, “quoted”.", "meaning"),
    ]
    assert texts(data, "validation") == [("It is late\nnow.", "It is late.", "fluency")]
    assert texts(data, "test") == [("Gone.", "", "meaning")]
    assert data.prompt.question == "What is the intention of this revision"
    assert data.prompt.instruction is None


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path):
    path = write_csv(tmp_path / "data.csv", ROWS)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(FileConfig(path=path, split_column="split").load().splits["train"]) == 2


def test_named_columns_order_of_labels_and_instruction(tmp_path):
    rows = [{"alt": r["before"], "neu": r["after"], "why": r["label"], "part": r["split"]} for r in ROWS]
    path = write_rows(tmp_path / "data.jsonl", rows)
    columns = {"before_column": "alt", "after_column": "neu", "label_column": "why", "split_column": "part"}
    data = FileConfig(path=path, labels=("meaning", "fluency", "style"), instruction="Why?", **columns).load()
    assert data.labels == ("meaning", "fluency", "style")
    assert data.prompt.asked(data.labels) == "Why?"
    assert len(data.splits["train"]) == 2


def test_labels_may_be_whole_numbers(tmp_path):
    rows = [{"before": f"b {i}", "after": "a", "label": i % 2} for i in range(20)]
    for suffix in (".jsonl", ".parquet"):
        assert FileConfig(path=write_rows(tmp_path / f"data{suffix}", rows)).load().labels == ("0", "1")


def test_three_files_need_not_be_of_one_format(tmp_path):
    rows = [{k: row[k] for k in ("before", "after", "label")} for row in ROWS]
    paths = {
        "path": write_rows(tmp_path / "a.csv", rows),
        "validation_path": write_rows(tmp_path / "b.jsonl", rows[:1]),
        "test_path": write_rows(tmp_path / "c.parquet", rows[1:]),
    }
    data = FileConfig(**paths).load()
    assert {split: len(data.splits[split]) for split in data.splits} == {"train": 4, "validation": 1, "test": 3}
    assert data.splits["test"][0].id == "test:1"


def test_ids_do_not_depend_on_where_the_file_lies(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    first = FileConfig(path=write_rows(tmp_path / "data.csv", ROWS), split_column="split").load()
    second = FileConfig(path=write_rows(tmp_path / "elsewhere" / "data.csv", ROWS), split_column="split").load()
    assert first.fingerprint() == second.fingerprint()


def test_a_drawn_split_is_stratified_and_seeded(tmp_path):
    path = write_rows(tmp_path / "data.jsonl", many_rows())
    config = FileConfig(path=path, validation_fraction=0.2, test_fraction=0.12)
    data = config.load()
    assert {split: len(data.splits[split]) for split in data.splits} == {"train": 68, "validation": 20, "test": 12}
    assert sum(revision.label == "y" for revision in data.splits["test"]) == 3
    assert sum(revision.label == "y" for revision in data.splits["validation"]) == 5
    assert len({revision.id for split in data.splits.values() for revision in split}) == 100
    assert config.load().fingerprint() == data.fingerprint()
    assert config.model_copy(update={"seed": 1}).load().fingerprint() != data.fingerprint()


def test_a_drawn_split_keeps_groups_whole(tmp_path):
    rows = many_rows()
    path = write_rows(tmp_path / "data.csv", rows)
    data = FileConfig(path=path, group_column="document").load()
    document = {row["before"]: row["document"] for row in rows}
    held = {split: {document[revision.texts[0]] for revision in data.splits[split]} for split in data.splits}
    assert sum(len(documents) for documents in held.values()) == 20
    assert {split: len(documents) for split, documents in held.items()} == {"train": 14, "validation": 3, "test": 3}
    assert data.grouped_by == "document"
    assert all(document[one.texts[0]] == one.group for split in data.splits.values() for one in split)


def test_groups_are_known_of_splits_that_are_given(tmp_path):
    parts = [("train", 0, 60), ("validation", 60, 80), ("test", 80, 100)]
    paths = {name: write_rows(tmp_path / f"{name}.csv", many_rows()[first:last]) for name, first, last in parts}
    given = {"path": paths["train"], "validation_path": paths["validation"], "test_path": paths["test"]}
    data = FileConfig(**given, group_column="document").load()
    assert (data.grouped_by, len(data.splits["test"])) == ("document", 20)
    assert {one.group for one in data.splits["test"]} == {row["document"] for row in many_rows()[80:]}
    assert FileConfig(**given).load().fingerprint() == data.fingerprint()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"validation_path": "b", "test_path": "c", "split_column": "s"}, "both say how to split"),
        ({"validation_path": ()}, "at least one file"),
        ({"text_column": "t", "after_column": "a"}, "data.after_column and data.text_column exclude each other"),
        ({"text_column": "t", "pairs": "texts"}, "data.pairs"),
        ({"label_map": {"x": "z"}, "labels": ("x", "y")}, "data.label_map leads to 'z'"),
        ({"delimiter": ",,"}, "one character"),
        ({"encoding": "utf-99"}, "unknown encoding 'utf-99'"),
        ({"labels": ("only",)}, "labels"),
        ({"test_fraction": 1.0}, "test_fraction"),
        ({"leaves": 1}, "leaves"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, expected):
    with pytest.raises(ValidationError, match=expected):
        FileConfig(path="a.csv", **options)


def test_every_kind_of_bad_row_is_named_with_its_line(tmp_path):
    path = tmp_path / "data.csv"
    path.write_bytes(
        b"before,after,label,split\n"
        b"a,b,fluency,train\n"
        b"a,b,fluensy,train\n"  # line 3
        b'"two\nlines",b,meaning,train\n'
        b",,meaning,train\n"  # line 6
        b"a\0,b,meaning,train\n"  # line 7
        b"a,b,fluency\n"  # line 8
        b"a,b,c,fluency,test\n"  # line 9
        b"a,b,,test\n"  # line 10
        b"a,b,fluency,later\n"  # line 11
    )
    text = message(path=path, split_column="split", labels=("fluency", "meaning"))
    assert text.splitlines()[0].startswith("7 of 9 rows cannot be used")
    assert says(text, f"unknown label, 1 rows: {path}:3: 'fluensy' … fluency, meaning")
    assert says(text, f"before and after … empty, 1 rows: {path}:6:")
    assert f"- NUL character, 1 rows: {path}:7:" in text
    assert says(text, f"too few cells, 1 rows: {path}:8: 3 … 4 cells")
    assert says(text, f"too many cells, 1 rows: {path}:9: 5 … 4 cells … quote … ','")
    assert says(text, f"missing label, 1 rows: {path}:10:")
    assert says(text, f"unknown split, 1 rows: {path}:11: 'later' … train, training, validation")
    assert says(text, "data.skip_bad_rows=true")


def test_bad_rows_are_skipped_and_counted_on_request(tmp_path):
    path = write_rows(
        tmp_path / "data.jsonl", [*ROWS, {**ROWS[0], "label": "?"}, {**ROWS[0], "before": "", "after": ""}]
    )
    options = {"path": path, "split_column": "split", "labels": ("fluency", "meaning")}
    assert message(**options).startswith("2 of 6 rows")
    data = FileConfig(**options, skip_bad_rows=True).load()
    assert data.num_skipped == 2
    assert data.splits == FileConfig(**{**options, "path": write_rows(tmp_path / "good.jsonl", ROWS)}).load().splits


def test_only_the_first_rows_of_a_kind_are_shown(tmp_path):
    text = message(path=write_rows(tmp_path / "data.csv", many_rows(40)), labels=("x", "z"))
    assert "unknown label, 10 rows" in text
    assert ":34" not in text
    assert "; and 5 more. Allowed: x, z." in text


def test_a_label_that_train_lacks_is_unknown_elsewhere(tmp_path):
    path = write_rows(tmp_path / "data.csv", [*ROWS, {**ROWS[3], "label": "style"}])
    assert says(
        message(path=path, split_column="split"), f"unknown label, 1 rows: {path}:7: 'style' … fluency, meaning"
    )


def test_json_lines_that_are_none_and_cells_that_hold_no_text(tmp_path):
    path = tmp_path / "data.jsonl"
    lines = [json.dumps(row) for row in many_rows(8)] + [
        "{broken",
        "[1]",
        json.dumps({**many_rows(1)[0], "after": ["x"]}),
    ]
    path.write_text("\n\n".join(lines))
    text = message(path=path)
    assert text.startswith("3 of 11 rows")
    assert says(text, f"not a JSON object, 2 rows: {path}:17: '{{broken'; {path}:19: '[1]' … JSON object")
    assert says(text, f"'after' … no text, 1 rows: {path}:21: ['x']")


def test_files_that_cannot_be_read_at_all_stop_even_when_rows_are_skipped(tmp_path):
    path = write_rows(tmp_path / "data.csv", ROWS)
    skip = {"skip_bad_rows": True}
    missing = message(path=path, label_column="intent", before_column="old", **skip)
    assert says(missing, f"{path}: … 'old' (data.before_column), 'intent' (data.label_column)", "found the columns")
    assert "data.path: no such file" in message(path=tmp_path / "none.csv", **skip)
    (tmp_path / "x.docx").write_text("x")
    assert says(message(path=tmp_path / "x.docx", **skip), "'.docx'", ".csv, .tsv")
    path.write_text('before,after,label\na,"b, c",x\n"never closed,b,c\n')
    assert says(message(path=path, **skip), f"{path}:3: … quote … never closed")
    path.write_bytes(b"before,after,label\na,caf\xe9,c\n")
    text = message(path=path, **skip)
    assert f"{path}:2: is not UTF-8" in text
    assert "data.encoding=cp1252" in text
    assert "skip_bad_rows" not in text
    broken = tmp_path / "data.parquet"
    broken.write_bytes(b"nothing of the kind")
    assert f"{broken}: cannot be read as Parquet" in message(path=broken, **skip)
    path.write_text("")
    assert f"{path}: is empty" in message(path=path, **skip)
    path.write_text("before,after,label\n")
    assert f"{path}: holds no rows" in message(path=path, **skip)
