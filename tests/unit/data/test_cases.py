"""Every file of the table of cases, and what a user gets for it: rows, labels, texts, what is said or refused."""

from collections import Counter

import pytest
from case_files import CLASSES, ROWS, write_cases
from saying import says

from irtune.config.schema import ModelConfig
from irtune.data.dataset import SPLITS, DataError
from irtune.data.encode import encode
from irtune.data.file import FileConfig
from irtune.training.pretrained import materialize
from irtune.training.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cases")
    write_cases(folder)
    return folder


@pytest.fixture
def tokenizer(tmp_path, monkeypatch):
    """A token per byte."""
    monkeypatch.setenv("IRTUNE_HOME", str(tmp_path))
    return load_tokenizer(materialize(ModelConfig(name="tiny-random")))


def read(path, **options):
    return FileConfig(path=path, **options).load()


def rows(data):
    return sorted((*example.texts, example.label) for split in SPLITS for example in data.splits[split])


def said(data):
    return "\n".join(data.notes)


def inputs(data, tokenizer, length):
    """What the model reads, and the tokens."""
    encoded = encode(data, tokenizer, length)
    parts = [encoded.splits[split] for split in SPLITS]
    ids = [part.token_ids[part.offsets[i] : part.offsets[i + 1]] for part in parts for i in range(len(part))]
    return tokenizer.batch_decode(ids), encoded


def test_there_is_a_case_for_each_line_of_the_table(cases):
    assert len(list(cases.iterdir())) == 35


@pytest.mark.parametrize(
    ("name", "options", "note"),
    [
        ("plain.csv", {}, ""),
        ("bom_crlf.csv", {}, ""),
        ("utf16.csv", {}, "data.encoding"),
        ("semicolon.csv", {}, "data.delimiter"),
        ("tab.txt", {}, "data.delimiter"),
        ("no_header.csv", {}, "data.header"),
        (
            "no_header.csv",
            {"header": False, "before_column": "1", "after_column": "2", "label_column": "3"},
            "",
        ),
        ("header_spaces.csv", {}, ""),
        ("array.json", {}, ""),
        ("lines.ndjson", {}, ""),
        ("lines.jsonl.gz", {}, ""),
        ("plain.xlsx", {}, ""),
        (
            "nested.jsonl",
            {"before_column": "text.before", "after_column": "text.after", "label_column": "meta.label"},
            "",
        ),
        ("split_names.csv", {"split_column": "split"}, "'dev' in the column 'split' is read as validation (12 rows)"),
        ("label_spelling.csv", {"label_map": {"A": "a", "B": "b", "C": "c"}}, ""),
    ],
)
def test_what_reads_like_the_plain_file(cases, name, options, note):
    data = read(cases / name, **options)
    assert rows(data) == sorted(ROWS)
    assert data.labels == ("a", "b", "c")
    assert note in said(data)
    if not note:
        assert not data.notes


@pytest.mark.parametrize("name", ["class_label.parquet", "saved_dataset"])
def test_names_of_classes_are_read(cases, name):
    names = dict(zip("abc", CLASSES, strict=True))
    data = read(cases / name)
    assert rows(data) == sorted((before, after, names[label]) for before, after, label in ROWS)
    if name == "saved_dataset":
        assert [len(data.splits[split]) for split in SPLITS] == [36, 12, 12]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("cp1252.csv", ["cp1252.csv:2", "data.encoding=cp1252"]),
        ("duplicate_header.csv", ["columns 3 and 4", "'label'", "data.label_column"]),
        ("label_nan.csv", ["missing label, 6 rows", "label_nan.csv:2"]),
        ("label_list.jsonl", ["several labels in one row", "60 rows"]),
    ],
)
def test_what_is_refused_names_place_and_setting(cases, name, told):
    with pytest.raises(DataError) as refused:
        read(cases / name)
    assert all(part in str(refused.value) for part in told)


def test_an_encoding_is_never_offered_to_be_skipped(cases):
    for skips in (False, True):
        with pytest.raises(DataError) as refused:
            read(cases / "cp1252.csv", skip_bad_rows=skips)
        assert "skip_bad_rows" not in str(refused.value)
    data = read(cases / "cp1252.csv", encoding="cp1252")
    assert Counter(example.label for split in SPLITS for example in data.splits[split]) == {"a": 20, "b": 20, "c": 20}
    assert sum(row[1].endswith("£5") for row in rows(data)) == 20


@pytest.mark.parametrize("name", ["stray_quotes.tsv", "swallowing_quotes.tsv"])
def test_between_tabs_no_row_is_lost_to_a_quote(cases, name):
    data = read(cases / name)
    assert len(rows(data)) == 60
    assert "data.quoting" in said(data)


def test_labels_that_are_whole_numbers(cases):
    assert read(cases / "label_float.parquet").labels == ("0", "1", "2")


@pytest.mark.parametrize(
    ("name", "notes"),
    [
        ("label_spelling.csv", ["'A'/'a'", "data.label_map"]),
        ("label_symbols.csv", ["'style!'", "'style?'", "data.label_map"]),
        ("label_score.csv", ["60 labels", "scores"]),
        ("rare_classes.csv", ["validation has 3 of 4 classes and lacks single", "test has 3 of 4 classes"]),
        ("duplicates.csv", ["240 of 300 rows", "60 texts"]),
        ("contradictions.csv", ["60 rows share 1 text and carry 3 labels"]),
    ],
)
def test_what_is_doubtful_is_said(cases, name, notes):
    data = read(cases / name)
    assert all(note in said(data) for note in notes), data.notes


@pytest.mark.parametrize("seed", range(30))
def test_a_class_of_five_rows_is_in_every_split(cases, seed):
    data = read(cases / "rare_classes.csv", seed=seed)
    assert all("rare" in {example.label for example in data.splits[split]} for split in SPLITS)
    assert "single" in {example.label for example in data.splits["train"]}


@pytest.mark.parametrize("seed", range(5))
def test_equal_texts_stay_in_one_drawn_split(cases, seed):
    data = read(cases / "duplicates.csv", seed=seed)
    held = [{example.texts for example in data.splits[split]} for split in SPLITS]
    assert not held[0] & held[1]
    assert not held[0] & held[2]
    assert not held[1] & held[2]


def test_an_edit_of_spaces_is_an_edit(cases, tokenizer):
    data = read(cases / "whitespace_edits.csv")
    assert len(rows(data)) == 60
    assert ("  ", " ") in {row[:2] for row in rows(data)}
    texts, _ = inputs(data, tokenizer, "auto")
    assert all(
        text.partition("\nAfter: ")[0].removeprefix("Before: ") != text.partition("\nAfter: ")[2] for text in texts
    )


def test_no_text_is_lost_to_a_list_of_labels(cases, tokenizer):
    data = read(cases / "many_classes.csv", instruction="auto")
    texts, encoded = inputs(data, tokenizer, "auto")
    assert len(set(texts)) == 1200
    assert encoded.num_cut == 0


@pytest.mark.parametrize("length", [64, 96, 128])
def test_a_change_is_in_the_input(cases, tokenizer, length):
    texts, encoded = inputs(read(cases / "change_at_the_end.csv"), tokenizer, length)
    assert all("old" in text.partition("After:")[0] and "new" in text.partition("After:")[2] for text in texts)
    assert len(set(texts)) == 60
    assert says(encoded.in_words(), f"{length} tokens", "60 of 60 examples cut", "0 without their change")
    texts, encoded = inputs(read(cases / "long_before.csv"), tokenizer, length)
    assert all(text.partition("After: ")[2].startswith("after ") for text in texts)
    assert encoded.num_without_change == 60


def test_a_long_cell_is_trimmed_like_any_text(cases, tokenizer):
    data = read(cases / "long_cell.csv")
    assert len(rows(data)) == 60
    _, encoded = inputs(data, tokenizer, "auto")
    assert encoded.num_cut == 1


def test_single_texts(cases, tokenizer):
    data = read(cases / "single_text.csv", text_column="text")
    assert rows(data) == sorted((row[0], row[2]) for row in ROWS)
    texts, _ = inputs(data, tokenizer, "auto")
    assert not [text for text in texts if "Before" in text or "After" in text]


def test_six_rows_are_refused_before_anything_starts(cases, capsys, tmp_path, monkeypatch):
    from irtune.cli import main

    monkeypatch.setenv("IRTUNE_HOME", str(tmp_path))
    file = tmp_path / "run.yaml"
    file.write_text(f"model: {{name: tiny-random}}\ndata: {{name: file, path: {cases / 'six_rows.csv'}}}\n")
    assert main(["validate", str(file)]) == 2
    assert "training.micro_batch_size: 8" in capsys.readouterr().err
