"""Where files are: lists, patterns, folders, the home folder; what is not there, and what is given twice."""

from collections import Counter

import datasets
import pytest
from saying import says
from table_files import PAIRS, delimited, json_lines, records, write_text

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


def test_lists_patterns_folders_and_the_home_folder(tmp_path, monkeypatch):
    folder = tmp_path / "parts"
    folder.mkdir()
    for name, (start, stop) in {"train": (0, 40), "dev": (40, 50), "test": (50, 60)}.items():
        write_text(folder / f"{name}.csv", delimited(PAIRS[start:stop]))
    monkeypatch.setenv("HOME", str(tmp_path))
    everything = read(f"{folder}/*.csv")
    assert counted(everything) == {"a": 20, "b": 20, "c": 20}
    assert len({example.id for split in everything.splits.values() for example in split}) == 60
    assert sizes(read("~/parts")) == {"train": 40, "validation": 10, "test": 10}
    data = read(["~/parts/train.csv", folder / "test.csv"], validation_path="~/parts/d*.csv")
    assert sizes(data)["validation"] == 10
    odd = write_text(tmp_path / "[a]*.csv", delimited())
    assert sum(sizes(read(odd)).values()) == 60


def test_a_folder_of_pieces_and_what_is_beside_them(tmp_path):
    for i in range(4):
        write_text(tmp_path / f"train-0000{i}-of-00004.csv", delimited(PAIRS[i * 10 :][:10]))
    write_text(tmp_path / "test.csv", delimited(PAIRS[40:]))
    write_text(tmp_path / "extra.csv", delimited(PAIRS[40:]))
    data = read(tmp_path)
    assert sizes(data)["test"] == 20
    assert sum(sizes(data).values()) == 60
    assert "extra.csv" in "".join(data.notes)
    write_text(tmp_path / "test.jsonl", json_lines())
    assert "test.csv and test.jsonl" in refusal(tmp_path)


def test_a_split_column_goes_before_the_parts_of_a_folder(tmp_path):
    rows = [{**record, "split": ("train", "dev", "test")[i // 3 % 3]} for i, record in enumerate(records())]
    parts = {"train": datasets.Dataset.from_list(rows[:30]), "test": datasets.Dataset.from_list(rows[30:])}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "saved"))
    data = read(tmp_path / "saved", split_column="split")
    assert sizes(data) == {"train": 21, "validation": 21, "test": 18}
    assert len({example.id for split in data.splits.values() for example in split}) == 60


def test_everything_that_is_not_there_is_said_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_text(tmp_path / "train.csv", delimited())
    text = refusal(["trian.csv", "x/*.csv"], validation_path="y/dev.csv")
    assert "data.path: no such file: trian.csv" in text
    assert "did you mean train.csv?" in text
    assert says(text, "data.path: no file … x/*.csv")
    assert "data.validation_path: no such file: y/dev.csv" in text
    (tmp_path / "empty").mkdir()
    assert "data.path=empty/*.csv" in refusal("empty")


def test_one_file_for_two_splits_is_refused_under_any_name(tmp_path):
    path, copy = (write_text(tmp_path / name, delimited()) for name in ("data.csv", "copy.csv"))
    link = tmp_path / "link.csv"
    link.symlink_to(path)
    text = refusal(path, validation_path=link, test_path=copy)
    assert says(text, f"data.validation_path: {link} … same file … {path} … data.path")
    assert says(text, f"data.test_path: {copy} … the same … {path} … data.path")
    spelled = tmp_path / "x" / ".." / "data.csv"
    (tmp_path / "x").mkdir()
    assert "is the same file" in refusal(path, validation_path=spelled)
    assert "is the same file" in refusal(f"{tmp_path}/*.csv", test_path=path)
    assert says(refusal([path, link]), f"data.path: {link} … same file … {path}", "twice")
