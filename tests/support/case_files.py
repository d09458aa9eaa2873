"""Small files of invented text as people have them, one oddity each; ``write_cases(folder)`` writes them all."""

import csv
import gzip
import io
import json
from pathlib import Path

import datasets
import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq

HEADER = ("before", "after", "label")
ROWS = tuple((f"the cat number {i} sat", f"the cat number {i} sat down", "abc"[i % 3]) for i in range(60))
CLASSES = ("clarity", "fluency", "style")


def write_cases(folder: Path) -> None:
    """Write every case into ``folder``."""
    for writer in (text_files, containers, labels, texts):
        writer(folder)


def table(rows, header=HEADER, delimiter=",", quoting=csv.QUOTE_MINIMAL):
    out = io.StringIO()
    options = {"quotechar": None} if quoting == csv.QUOTE_NONE else {}
    lines = csv.writer(out, delimiter=delimiter, lineterminator="\n", quoting=quoting, **options)
    lines.writerows([header, *rows] if header else rows)
    return out.getvalue()


def with_label(label):
    """The rows with another label each."""
    return [(before, after, label(i, old)) for i, (before, after, old) in enumerate(ROWS)]


def records(rows=ROWS):
    return [dict(zip(HEADER, row, strict=True)) for row in rows]


def json_lines(values):
    return "".join(f"{json.dumps(value)}\n" for value in values)


def text_files(folder):
    pound = [(before, after + " £5" * (label == "a"), label) for before, after, label in ROWS]
    swallow = [[f"plain before {i}", f"plain after {i}", row[2]] for i, row in enumerate(ROWS)]
    swallow[10][1], swallow[31][1] = '"Stop', 'end"'
    stray = [(f"he said {i}", f'"Hi there {i}, he said', row[2]) for i, row in enumerate(ROWS)]
    long = [(before + " word" * 40_000 * (i == 5), after, label) for i, (before, after, label) in enumerate(ROWS)]
    contents = {
        "plain.csv": (table(ROWS), "utf-8"),
        "bom_crlf.csv": (table(ROWS).replace("\n", "\r\n"), "utf-8-sig"),
        "utf16.csv": (table(ROWS), "utf-16"),
        "cp1252.csv": (table(pound), "cp1252"),
        "semicolon.csv": (table(ROWS, delimiter=";"), "utf-8"),
        "tab.txt": (table(ROWS, delimiter="\t"), "utf-8"),
        "no_header.csv": (table(ROWS, header=None), "utf-8"),
        "header_spaces.csv": (table(ROWS, header=("Before ", " after", "Label")), "utf-8"),
        "duplicate_header.csv": (
            table([(*row, "xy"[i % 2]) for i, row in enumerate(ROWS)], header=(*HEADER, "label")),
            "utf-8",
        ),
        "stray_quotes.tsv": (table(stray, delimiter="\t", quoting=csv.QUOTE_NONE), "utf-8"),
        "swallowing_quotes.tsv": (table(swallow, delimiter="\t", quoting=csv.QUOTE_NONE), "utf-8"),
        "long_cell.csv": (table(long), "utf-8"),
    }
    for name, (text, encoding) in contents.items():
        (folder / name).write_bytes(text.encode(encoding))


def containers(folder):
    (folder / "array.json").write_text(json.dumps(records(), indent=1))
    (folder / "lines.ndjson").write_text(json_lines(records()))
    with gzip.open(folder / "lines.jsonl.gz", "wt") as file:
        file.write(json_lines(records()))
    nested = ({"text": {"before": before, "after": after}, "meta": {"label": label}} for before, after, label in ROWS)
    (folder / "nested.jsonl").write_text(json_lines(nested))
    book = openpyxl.Workbook()
    for row in (HEADER, *ROWS):
        book.active.append(list(row))
    book.save(folder / "plain.xlsx")
    text = datasets.Value("string")
    features = datasets.Features(before=text, after=text, label=datasets.ClassLabel(names=list(CLASSES)))
    numbered = [{**record, "label": "abc".index(record["label"])} for record in records()]
    named = datasets.Dataset.from_list(numbered, features=features)
    named.to_parquet(str(folder / "class_label.parquet"))
    parts = {"train": range(36), "validation": range(36, 48), "test": range(48, 60)}
    saved = {split: named.select(rows) for split, rows in parts.items()}
    datasets.DatasetDict(saved).save_to_disk(str(folder / "saved_dataset"))


def labels(folder):
    spelled = with_label(lambda i, label: label.upper() if i % 7 == 0 else label + " " * (i % 5 == 0))
    write = {
        "label_spelling.csv": spelled,
        "label_nan.csv": with_label(lambda i, label: "NaN" if i % 10 == 0 else label),
        "label_symbols.csv": with_label(lambda i, _: ("style?", "style!", "fluency")[i % 3]),
        "label_score.csv": with_label(lambda i, _: f"{i * 0.137:.3f}"),
        "rare_classes.csv": [
            *((f"old {i}", f"new {i}", "ab"[i % 2]) for i in range(200)),
            *((f"odd {i}", f"even {i}", "rare") for i in range(5)),
            ("solo one", "solo two", "single"),
        ],
        "many_classes.csv": [(f"old {i}", f"new {i}", f"class_name_{i % 300}") for i in range(1200)],
    }
    for name, rows in write.items():
        (folder / name).write_text(table(rows))
    listed = ({**record, "label": [record["label"], "d"]} for record in records())
    (folder / "label_list.jsonl").write_text(json_lines(listed))
    numbers = [{**record, "label": float("abc".index(record["label"]))} for record in records()]
    pq.write_table(pa.Table.from_pylist(numbers), folder / "label_float.parquet")


def texts(folder):
    spaces = [("  ", " ") if i % 2 else (f"the cat,  number {i} sat", f"the cat, number {i} sat") for i in range(60)]
    long = " ".join(f"word{i}" for i in range(300))
    steady = "steady " * 200
    write = {
        "duplicates.csv": ROWS * 5,
        "contradictions.csv": [("same text", "same text too", row[2]) for row in ROWS],
        "whitespace_edits.csv": [(*pair, row[2]) for pair, row in zip(spaces, ROWS, strict=True)],
        "long_before.csv": [(long, f"after {i} {row[2]}", row[2]) for i, row in enumerate(ROWS)],
        "change_at_the_end.csv": [(f"{steady}old{i}", f"{steady}new{i}", row[2]) for i, row in enumerate(ROWS)],
        "six_rows.csv": ROWS[:6],
    }
    for name, rows in write.items():
        (folder / name).write_text(table(rows))
    (folder / "single_text.csv").write_text(table([(row[0], row[2]) for row in ROWS], header=("text", "label")))
    named = [(*row, ("Train", "train", "train", "dev", "test")[i % 5]) for i, row in enumerate(ROWS)]
    (folder / "split_names.csv").write_text(table(named, header=(*HEADER, "split")))
