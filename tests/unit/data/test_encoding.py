"""Encodings of files: which are recognised, and what is said of the others."""

import pytest
from saying import says
from table_files import PAIRS, delimited, json_lines, records, write_text

from irtune.data.dataset import DataError
from irtune.data.file import FileConfig

PLAIN = sorted((row[:2], row[2]) for row in PAIRS)


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


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig"])
@pytest.mark.parametrize("name", ["data.csv", "data.jsonl"])
def test_a_byte_order_mark_says_the_encoding(tmp_path, name, encoding):
    text = delimited() if name == "data.csv" else json_lines()
    data = read(write_text(tmp_path / name, text, encoding, "\r\n"))
    assert rows(data) == PLAIN
    assert ("data.encoding" in "".join(data.notes)) == (encoding != "utf-8-sig")


FRENCH, JAPANESE, CHINESE = (
    "café où ça",
    "これは日本語の文章です。今日は天気がいい。",
    "今天天气很好，我们去公园散步吧。",
)


@pytest.mark.parametrize(
    ("encoding", "sign", "looks_like"),
    [
        ("cp1252", " £5", "cp1252"),
        ("cp1252", "“quoted” – it’s", "cp1252"),
        ("latin-1", FRENCH, "cp1252"),
        ("mac_roman", FRENCH, "mac_roman"),
        ("shift_jis", JAPANESE, "cp932"),
        ("euc_jp", JAPANESE, "euc_jp"),
        ("gbk", CHINESE, "gb18030"),
        ("utf-16-le", "", "utf-16-le"),
        ("utf-32-be", "", "utf-32-be"),
    ],
)
def test_another_encoding_is_named_and_its_rows_never_skipped(tmp_path, encoding, sign, looks_like):
    triples = [(b, a + sign * (label == "a"), label) for b, a, label in PAIRS]
    path = write_text(tmp_path / "data.csv", delimited(triples), encoding)
    text = refusal(path, skip_bad_rows=True)
    assert f"{path}:2: is not UTF-8" in text or f"{path}: is not UTF-8" in text
    assert f"data.encoding={looks_like}" in text
    assert "skip_bad_rows" not in text
    assert rows(read(path, encoding=looks_like)) == pairs(triples)


def test_two_encodings_in_one_file_are_told_apart(tmp_path):
    lines = delimited([(b, a + " café", label) for b, a, label in PAIRS]).splitlines()
    raw = b"\n".join(line.encode("utf-8" if i % 2 else "cp1252") for i, line in enumerate(lines))
    (tmp_path / "data.csv").write_bytes(raw)
    assert says(refusal(tmp_path / "data.csv"), "30 lines … cp1252 … 30 … UTF-8")


def test_what_an_encoding_does_to_texts_is_said(tmp_path):
    path = write_text(tmp_path / "data.csv", delimited([(b, a + " é", label) for b, a, label in PAIRS]))
    assert "though it is valid UTF-8" in notes(path, encoding="latin-1")
    assert "Leave data.encoding out" in refusal(path, encoding="ascii")
    lost = write_text(tmp_path / "lost.csv", delimited([(b, a + "\ufffd", label) for b, a, label in PAIRS]))
    assert "60 rows hold U+FFFD" in notes(lost)
    # Half a character, as where a text was cut, would stop a tokenizer.
    half = write_text(tmp_path / "half.jsonl", json_lines(records([(b, a + "\ud83d", c) for b, a, c in PAIRS])))
    assert "60 rows hold U+FFFD" in notes(half)
