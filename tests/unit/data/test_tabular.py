"""What files and hub data have in common: one text or two, labels, splits that are found or drawn, bad rows."""

from collections import Counter
from dataclasses import replace

import datasets
import pytest
from pydantic import ValidationError
from saying import says
from table_files import HEADER, PAIRS, delimited, frame, json_lines, records, with_classes, write_text

from irtune.data.dataset import DataError
from irtune.data.file import FileConfig


def read(path, **options):
    return FileConfig(path=path, **options).load()


def refusal(path, **options):
    with pytest.raises(DataError) as error:
        read(path, **options)
    return str(error.value)


def counted(data):
    return Counter(example.label for split in data.splits.values() for example in split)


def sizes(data):
    return {split: len(examples) for split, examples in data.splits.items()}


def labelled(tmp_path, labels, kind="csv"):
    """A file whose label column holds ``labels``."""
    table = frame()
    table["label"] = labels
    path = tmp_path / f"data.{kind}"
    write = {"csv": table.to_csv, "jsonl": table.to_json, "parquet": table.to_parquet, "xlsx": table.to_excel}[kind]
    write(path, **{"jsonl": {"orient": "records", "lines": True}, "parquet": {}}.get(kind, {"index": False}))
    return path


# Texts


def test_a_single_text_has_a_prompt_without_before_and_after(tmp_path):
    path = write_text(tmp_path / "data.csv", delimited([row[1:] for row in PAIRS], header=["text", "label"]))
    data = read(path, text_column="text")
    assert {example.texts for example in data.splits["test"]} <= {(row[1],) for row in PAIRS}
    shown = data.prompt.render(replace(data.prompt, instruction="auto").asked(data.labels), ("A text.",))
    assert shown == "Which label fits this text: a, b, c?\nA text."
    assert "data.text_column" in refusal(path)


def test_pairs_that_are_no_revisions_are_not_called_so(tmp_path):
    data = read(write_text(tmp_path / "data.csv", delimited()), pairs="texts")
    shown = data.prompt.render(replace(data.prompt, instruction="auto").asked(data.labels), ("One.", "Two."))
    assert "revision" not in shown
    assert "Before" not in shown
    assert "Text 1: One.\nText 2: Two." in shown


def test_texts_are_read_as_they_stand(tmp_path):
    odd = [("  ", " "), ("a  b", "a b"), (" x", "x"), ("", "y"), ("NA", "null"), ("1.50", "2")]
    rows = [(*odd[i % 6], "ab"[i % 2]) for i in range(60)]
    for name, text in (("data.csv", delimited(rows)), ("data.jsonl", json_lines(records(rows)))):
        data = read(write_text(tmp_path / name, text))
        assert {example.texts for split in data.splits.values() for example in split} == set(odd)


def test_numbers_are_texts_and_lists_are_none(tmp_path):
    rows = [{"before": i, "after": i + 0.5, "label": "ab"[i % 2]} for i in range(30)]
    data = read(write_text(tmp_path / "data.jsonl", json_lines(rows)))
    assert ("1", "1.5") in {example.texts for example in data.splits["train"]}
    path = write_text(tmp_path / "lists.jsonl", json_lines([*rows, {"before": ["a"], "after": "b", "label": "a"}]))
    assert says(refusal(path), f"'before' … no text, 1 rows: {path}:31")


# Labels


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "xlsx"])
@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([i % 3 for i in range(60)], ("0", "1", "2")),
        ([float(i % 3) for i in range(60)], ("0", "1", "2")),
        ([i % 3 / 2 for i in range(60)], ("0", "0.5", "1")),
        ([i % 2 == 0 for i in range(60)], ("false", "true")),
    ],
    ids=["whole", "float", "half", "bool"],
)
def test_a_label_is_the_same_from_every_container(tmp_path, kind, labels, expected):
    assert read(labelled(tmp_path, labels, kind)).labels == expected


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "xlsx"])
@pytest.mark.parametrize("missing", [None, float("nan"), "NaN", "NA", "null", "None", "", " ", "#N/A"])
def test_a_missing_label_is_no_class(tmp_path, kind, missing):
    labels = [missing if i % 10 == 0 else "abc"[i % 3] for i in range(60)]
    path = labelled(tmp_path, labels, kind)
    text = refusal(path)
    assert "missing label, 6 rows" in text
    assert f"{path}:{2 if kind in ('csv', 'xlsx') else 1}: " in text
    assert "data.labels" in text
    assert counted(read(path, skip_bad_rows=True)).keys() == set("abc")


def test_a_class_may_be_called_as_missing_values_are_if_the_user_says_so(tmp_path):
    path = labelled(tmp_path, [("None", "NA", "x")[i % 3] for i in range(60)])
    assert "missing label, 40 rows" in refusal(path)
    assert counted(read(path, labels=["None", "NA", "x"])) == {"None": 20, "NA": 20, "x": 20}
    assert counted(read(path, label_map={"None": "nothing", "NA": "NA"})) == {"nothing": 20, "NA": 20, "x": 20}
    path = labelled(tmp_path, [("none", "favor", "against")[i % 3] for i in range(60)])
    assert counted(read(path))["none"] == 20
    assert "'none' is read as a class" in "".join(read(path).notes)


def test_names_of_classes_may_be_any_and_no_class_is_a_missing_label(tmp_path):
    named = with_classes(names=("None", "NA", "x"))
    named.to_parquet(str(tmp_path / "data.parquet"))
    assert read(tmp_path / "data.parquet").labels == ("NA", "None", "x")
    hidden = named.map(lambda row, i: {"label": -1 if i % 10 == 0 else row["label"]}, with_indices=True)
    hidden.to_parquet(str(tmp_path / "hidden.parquet"))
    assert "missing label, 6 rows" in refusal(tmp_path / "hidden.parquet")


def test_classes_may_be_in_another_order_in_another_file(tmp_path):
    with_classes(PAIRS[:30]).to_parquet(str(tmp_path / "a.parquet"))
    with_classes(PAIRS[30:], names=("fluency", "style", "clarity")).to_parquet(str(tmp_path / "b.parquet"))
    data = read([tmp_path / "a.parquet", tmp_path / "b.parquet"])
    assert {e.label for split in data.splits.values() for e in split if "number 30 " in e.texts[0]} == {"fluency"}
    assert {e.label for split in data.splits.values() for e in split if "number 0 " in e.texts[0]} == {"clarity"}


def test_the_user_calls_labels_otherwise(tmp_path):
    path = labelled(tmp_path, ["a" if i % 2 else ("A", "b ", "c")[i % 3] for i in range(60)])
    data = read(path, label_map={"A": "a", "c": "other", "b": "other", "x": "a", "y": "b"})
    assert data.labels == ("a", "other")
    assert counted(data) == {"a": 40, "other": 20}
    assert says("".join(data.notes), "data.label_map: … 'x', 'y'")
    numbers = labelled(tmp_path, [float(i % 2) for i in range(60)])
    assert read(numbers, label_map={0: "bad", 1: "good"}).labels == ("bad", "good")
    assert read(numbers, labels=["1.0", "0.0"]).labels == ("1.0", "0.0")


def test_several_labels_in_a_row_are_refused_and_one_in_a_list_is_taken(tmp_path):
    several = [{**record, "label": [record["label"], "d"]} for record in records()]
    path = write_text(tmp_path / "data.jsonl", json_lines(several))
    text = refusal(path)
    assert says(text, f"several labels … 60 rows: {path}:1: ['a', 'd']")
    assert "skip_bad_rows" not in text
    as_text = write_text(tmp_path / "data.csv", delimited([(b, a, f"['{c}', 'd']") for b, a, c in PAIRS]))
    assert says(refusal(as_text), f"several labels … 60 rows: {as_text}:2")
    one = [{**record, "label": [record["label"]]} for record in records()]
    data = read(write_text(tmp_path / "one.jsonl", json_lines(one)))
    assert data.labels == ("a", "b", "c")
    assert "in a list of one" in "".join(data.notes)
    nested = write_text(tmp_path / "dict.jsonl", json_lines({**record, "label": {"x": "a"}} for record in records()))
    assert "label is no text, 60 rows" in refusal(nested)
    assert read(nested, label_column="label.x", labels=["a", "b"]).labels == ("a", "b")


# Splits


def saved(folder, **parts):
    rows = records()
    cut = {name: datasets.Dataset.from_list(rows[start:stop]) for name, (start, stop) in parts.items()}
    datasets.DatasetDict(cut).save_to_disk(str(folder))
    return folder


@pytest.mark.parametrize("name", ["dev", "Val", "valid", "VALIDATION", "eval", "development "])
def test_splits_are_known_by_what_people_call_them(tmp_path, name):
    rows = [(*row, ("Training", name, "TEST")[(i % 10 == 8) + 2 * (i % 10 == 9)]) for i, row in enumerate(PAIRS)]
    data = read(write_text(tmp_path / "data.csv", delimited(rows, header=[*HEADER, "split"])), split_column="split")
    assert sizes(data) == {"train": 48, "validation": 6, "test": 6}
    assert says("\n".join(data.notes), f"'{name.strip()}' … 'split' … validation … 6 rows")
    folder = tmp_path / "saved"
    data = read(saved(folder, **{"Training": (0, 40), name.strip(): (40, 50), "TEST": (50, 60)}))
    assert sizes(data) == {"train": 40, "validation": 10, "test": 10}


def test_a_split_that_is_missing_is_drawn_from_train_and_said(tmp_path):
    data = read(saved(tmp_path / "saved", train=(0, 50), test=(50, 60)))
    num_drawn = sizes(data)["validation"]
    assert 6 <= num_drawn <= 9
    assert sizes(data) == {"train": 50 - num_drawn, "validation": num_drawn, "test": 10}
    assert {example.id for example in data.splits["test"]} == {f"test:{i}" for i in range(1, 11)}
    assert says("".join(data.notes), f"validation … {num_drawn} of 50 rows … train")
    ids = [example.id for split in data.splits.values() for example in split]
    assert len(set(ids)) == 60
    rows = [(*row, "test" if i % 6 == 0 else "train") for i, row in enumerate(PAIRS)]
    path = write_text(tmp_path / "data.csv", delimited(rows, header=[*HEADER, "split"]))
    assert sizes(read(path, split_column="split"))["test"] == 10
    first, second = (write_text(tmp_path / f"{i}.csv", delimited(PAIRS[i * 20 :][:40])) for i in (0, 1))
    assert sizes(read(first, validation_path=second))["validation"] == 40


def test_parts_that_cannot_be_told_apart_are_refused(tmp_path):
    twice = saved(tmp_path / "1", train=(0, 40), val=(40, 50), dev=(50, 60))
    assert says(refusal(twice), "val and dev … validation")
    assert "none of them is called train" in refusal(saved(tmp_path / "2", val=(0, 40), test=(40, 60)))
    data = read(saved(tmp_path / "3", train=(0, 40), validation=(40, 45), test=(45, 50), extra=(50, 60)))
    assert says("".join(data.notes), "left out … 'extra'")
    assert sizes(read(saved(tmp_path / "4", all=(0, 60)))) == {"train": 42, "validation": 9, "test": 9}
    rows = [(*row, "dev") for row in PAIRS]
    path = write_text(tmp_path / "data.csv", delimited(rows, header=[*HEADER, "split"]))
    assert "none of train" in refusal(path, split_column="split")


def test_a_split_without_any_label_is_left_out(tmp_path):
    rows = [*records()[:50], *({**record, "label": None} for record in records()[50:])]
    parts = {"train": rows[:50], "test": rows[50:]}
    datasets.DatasetDict({name: datasets.Dataset.from_list(part) for name, part in parts.items()}).save_to_disk(
        str(tmp_path / "saved")
    )
    data = read(tmp_path / "saved")
    assert sum(sizes(data).values()) == 50
    assert says("".join(data.notes), "test split … label")
    first, second = (write_text(tmp_path / f"{name}.jsonl", json_lines(part)) for name, part in parts.items())
    assert "missing label, 10 rows" in refusal(first, test_path=second)


# Bad rows


def test_skipped_rows_are_counted_by_label_and_said(tmp_path):
    rows = [("", "", c) if c == "a" and i < 36 else (b, a, c) for i, (b, a, c) in enumerate(PAIRS)]
    rows = [("", "", c) if c == "b" and i < 5 else (b, a, c) for i, (b, a, c) in enumerate(rows)]
    path = write_text(tmp_path / "data.csv", delimited(rows) + "one,two\n")
    data = read(path, skip_bad_rows=True)
    assert data.num_skipped == 15
    said = "\n".join(data.notes)
    assert says(said, "15 rows … 12 'a', 2 'b', 1 without")
    assert says(said, "class 'a' loses 12 of 20")
    assert "class 'b'" not in said
    gone = [("", "", c) if c == "a" else (b, a, c) for b, a, c in PAIRS]
    data = read(write_text(tmp_path / "gone.csv", delimited(gone)), skip_bad_rows=True)
    assert says("\n".join(data.notes), "class 'a' loses all")


def test_mistakes_of_several_files_are_reported_together(tmp_path):
    first = write_text(tmp_path / "a.csv", delimited(header=["old", "after", "label"]))
    second = write_text(tmp_path / "b.csv", delimited(PAIRS[:9], header=["before", "after", "why"]))
    third = write_text(tmp_path / "c.csv", "before,after,label\ncaf\xe9,b,c\n", "latin-1")
    text = refusal(first, validation_path=second)
    assert says(text, f"{first}: … 'before' (data.before_column)")
    assert says(text, f"{second}: … 'label' (data.label_column)")
    fourth = write_text(tmp_path / "d.xls", "x")
    text = refusal(third, validation_path=fourth)
    assert f"{third}:2: is not UTF-8" in text
    assert f"{fourth}: unknown kind of file" in text


def test_a_nested_key_that_is_in_no_row_is_named_with_what_is_there(tmp_path):
    rows = [{"text": {"old": b}, "after": a, "label": c} for b, a, c in PAIRS]
    path = write_text(tmp_path / "data.jsonl", json_lines(rows))
    text = refusal(path, before_column="text.before")
    assert "'text.before' (data.before_column)" in text
    assert "only 'text.old'" in text


def test_contradicting_options_are_reported_together():
    with pytest.raises(ValidationError) as error:
        FileConfig(path="a.csv", text_column="t", before_column="b", after_column="a", pairs="texts")
    for option in ("data.before_column", "data.after_column", "data.pairs"):
        assert option in str(error.value)


def test_names_may_be_numbers():
    config = FileConfig(path="a.csv", before_column=1, after_column=2, label_column=3, label_map={0: 1}, labels=[1, 2])
    assert (config.before_column, config.label_map, config.labels) == ("1", {"0": "1"}, ("1", "2"))
    with pytest.raises(ValidationError, match="label_map"):
        FileConfig(path="a.csv", label_map={True: "x"})
