"""What holds for every dataset: caps, empty splits, the fingerprint, the registry and light imports."""

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Literal

import pytest
from pydantic import ValidationError
from saying import refused

from irtune.data import DATASETS, DataError, DatasetConfig, Example, LabelledDataset


def revisions(split, labels):
    return tuple(Example(f"{split}-{i}", (f"before {i}", f"after {i}"), label) for i, label in enumerate(labels))


class Toy(DatasetConfig):
    name: Literal["toy"] = "toy"
    other_path: Path | None = None
    train_labels: str = "aaaaaabbb"
    test_labels: str = "ab"

    def read(self):
        parts = {"train": self.train_labels, "validation": "ab", "test": self.test_labels}
        splits = {split: revisions(split, labels) for split, labels in parts.items()}
        labels = tuple(sorted(set(self.train_labels)))
        return LabelledDataset(self.name, labels, splits, self.prompt("revisions", "Which"), 3)


def test_the_registry_knows_every_dataset_by_the_name_it_gives_itself():
    assert {"synthetic", "argrewrite", "iterater", "file", "hub"} <= set(DATASETS)
    for name, cls in DATASETS.items():
        assert cls.model_fields["name"].default == name


def test_a_cap_keeps_the_shares_of_the_labels_and_is_seeded():
    capped = Toy(max_train=3, max_validation=100).load()
    assert Counter(revision.label for revision in capped.splits["train"]) == {"a": 2, "b": 1}
    assert len(capped.splits["validation"]) == 2
    assert capped.num_skipped == 3
    assert capped == Toy(max_train=3, max_validation=100).load()
    assert len({Toy(max_train=3, seed=seed).load().splits["train"] for seed in range(8)}) > 1


def test_a_cap_takes_the_first_to_come_in_the_order_of_the_data():
    ids = [int(revision.id.removeprefix("train-")) for revision in Toy(max_train=5).load().splits["train"]]
    assert ids == sorted(ids)


def test_an_empty_split_is_refused():
    with refused(DataError, "'toy':", "no examples in test", "train 9, validation 2, test 0", "3 rows skipped"):
        Toy(test_labels="").load()


def test_a_single_label_is_refused():
    with refused(DataError, "two labels … ['a']"):
        Toy(train_labels="aaa").load()


def test_a_cap_of_nothing_is_refused():
    with pytest.raises(ValidationError, match="max_test"):
        Toy(max_test=0)


def test_path_fields_are_those_set():
    assert Toy().path_fields() == {}
    assert Toy(other_path="x/y.csv").path_fields() == {"other_path": "x/y.csv"}
    file = DATASETS["file"](path="a.csv", validation_path="b.csv", test_path="/c.csv")
    assert file.path_fields() == {"path": "a.csv", "validation_path": "b.csv", "test_path": "/c.csv"}
    assert DATASETS["file"](path=["a.csv", "b/*.csv"]).path_fields() == {"path": ["a.csv", "b/*.csv"]}


def test_the_fingerprint_changes_with_anything_a_model_could_learn_from():
    fingerprints = [
        config.load().fingerprint()
        for config in (Toy(), Toy(max_train=5), Toy(train_labels="aaaaaabba"), Toy(instruction="auto"))
    ]
    assert len(set(fingerprints)) == 4
    assert Toy().load().fingerprint() == fingerprints[0]
    assert len(fingerprints[0]) == 16


def test_importing_the_package_loads_no_heavy_library():
    heavy = ("datasets", "pandas", "pyarrow", "openpyxl", "sklearn", "torch", "transformers", "huggingface_hub")
    code = f"import sys, irtune.data; print([name for name in {heavy!r} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
