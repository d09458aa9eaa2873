"""Data sets of the hub by name: splits, class names, and what is said where there is none."""

import time

import datasets
import huggingface_hub
import pytest
from saying import refused
from table_files import CLASSES, records, with_classes

from irtune.data.dataset import DataError
from irtune.data.hub import HubConfig


def part(start, stop):
    return with_classes().select(range(start, stop))


@pytest.fixture
def hub(monkeypatch):
    """A hub with one data set, which a test fills; without network."""
    published, asked = {}, []
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *_, **options: asked.append(options))

    def load(repo, config, revision):
        asked.append((repo, config, revision))
        return datasets.DatasetDict(published)

    monkeypatch.setattr(datasets, "load_dataset", load)
    load.published, load.asked = published, asked
    return load


def sizes(data):
    return {split: len(examples) for split, examples in data.splits.items()}


def test_a_data_set_is_read_by_name_configuration_and_revision(hub):
    hub.published.update(train=part(0, 40), dev=part(40, 50), test=part(50, 60))
    data = HubConfig(repo="owner/name", config="sub", revision="v1").load()
    assert hub.asked[0]["revision"] == "v1"
    assert hub.asked[1] == ("owner/name", "sub", "v1")
    assert sizes(data) == {"train": 40, "validation": 10, "test": 10}
    assert data.labels == CLASSES
    assert "'dev' is read as validation" in "".join(data.notes)
    data = HubConfig(repo="owner/name", text_column="after", label_map={"style": "fluency"}).load()
    assert data.labels == ("clarity", "fluency")
    assert len(data.splits["test"][0].texts) == 1


def test_splits_are_chosen_by_name(hub):
    hub.published.update(train=part(0, 30), validation_matched=part(30, 40), validation=part(40, 50), test=part(50, 60))
    data = HubConfig(repo="o/n", validation_split="validation_matched", test_split="validation").load()
    assert [example.id for example in data.splits["test"]] == [f"test:{i}" for i in range(1, 11)]
    assert data.splits["test"][0].texts[0] == "the cat number 40 sat"
    assert data.splits["validation"][0].texts[0] == "the cat number 30 sat"
    assert "'test' are left out" in "".join(data.notes)
    with refused(DataError, "'dev' (data.test_split)", "train, validation_matched"):
        HubConfig(repo="o/n", test_split="dev").load()
    with pytest.raises(DataError, match="given twice"):
        HubConfig(repo="o/n", test_split="train", train_split="train").load()


def test_what_is_missing_is_drawn_from_train(hub):
    hub.published.update(train=part(0, 60))
    assert sum(sizes(HubConfig(repo="o/n").load()).values()) == 60
    hub.published.update(train=part(0, 50), test=part(50, 60))
    data = HubConfig(repo="o/n").load()
    assert sizes(data)["train"] + sizes(data)["validation"] == 50
    assert 6 <= sizes(data)["validation"] <= 9
    assert sizes(data)["test"] == 10
    assert "no validation split" in "".join(data.notes)


def test_columns_that_are_not_there_are_named_with_those_that_are(hub):
    hub.published.update(train=part(0, 60))
    with refused(DataError, "o/n train: … 'intent' (data.label_column)", "'before', 'after', 'label'"):
        HubConfig(repo="o/n", label_column="intent").load()


def test_without_a_network_the_remedy_comes_at_once(hub, monkeypatch):
    def unreachable(self, repo, revision, timeout):
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", unreachable)
    started = time.perf_counter()
    with refused(DataError, "o/n cannot be read", "no network", "data.repo", "HF_HUB_OFFLINE=1"):
        HubConfig(repo="o/n").load()
    assert time.perf_counter() - started < 1
    assert not hub.asked


def test_a_copy_in_the_local_cache_is_used_where_the_hub_is_switched_off(hub, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "is_offline_mode", lambda: True)
    hub.published.update(train=part(0, 60))
    assert HubConfig(repo="o/n").load().labels == CLASSES
    assert hub.asked == [("o/n", None, None)]


def test_a_local_folder_is_read_as_the_library_reads_it(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "data").mkdir()
    datasets.Dataset.from_list(records()[:40]).to_csv(tmp_path / "data" / "train.csv")
    datasets.Dataset.from_list(records()[40:]).to_csv(tmp_path / "data" / "test.csv")
    data = HubConfig(repo=str(tmp_path / "data")).load()
    assert sizes(data)["test"] == 20
    assert sum(sizes(data).values()) == 60
    with pytest.raises(DataError, match=r"data\.repo: no such folder"):
        HubConfig(repo=str(tmp_path / "none")).load()
