"""IteraTeR from a folder and from the hub, whose absence is told at once."""

import json
import time

import pytest
from saying import refused

from irtune.data.dataset import DataError
from irtune.data.iterater import IteraterConfig


def row(label, i=0):
    return {
        "before_sent_with_intent": f"<{label}>  Before {i}.",
        "before_sent": f" Before {i}.",
        "after_sent": f" After {i}.",
        "labels": label,
        "doc_id": "hep-1",
        "revision_depth": 1,
    }


SPLITS = {
    "train": [row("clarity"), row("others"), row("meaning-changed", 1)],
    "dev": [row("fluency")],
    "test": [row("style"), row("coherence", 2)],
}


def write(folder, splits, suffix=".json"):
    for name, rows in splits.items():
        (folder / f"{name}{suffix}").write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return folder


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_a_folder_is_read_without_those_labelled_others(tmp_path, suffix):
    data = IteraterConfig(path=write(tmp_path, SPLITS, suffix)).load()
    assert data.labels == ("clarity", "fluency", "coherence", "style", "meaning-changed")
    read = {split: [(r.texts[0], r.texts[1], r.label) for r in part] for split, part in data.splits.items()}
    assert read == {
        "train": [(" Before 0.", " After 0.", "clarity"), (" Before 1.", " After 1.", "meaning-changed")],
        "validation": [(" Before 0.", " After 0.", "fluency")],
        "test": [(" Before 0.", " After 0.", "style"), (" Before 2.", " After 2.", "coherence")],
    }
    assert data.num_skipped == 0
    assert (data.grouped_by, {one.group for part in data.splits.values() for one in part}) == ("document", {"hep-1"})


def test_a_copy_without_documents_has_no_groups(tmp_path):
    bare = {name: [{k: v for k, v in one.items() if k != "doc_id"} for one in rows] for name, rows in SPLITS.items()}
    assert IteraterConfig(path=write(tmp_path, bare)).load().grouped_by == ""


def test_a_missing_file_is_named(tmp_path):
    write(tmp_path, {"train": SPLITS["train"]})
    with refused(DataError, "neither dev.json nor dev.jsonl", "neither test.json"):
        IteraterConfig(path=tmp_path).load()


def test_bad_rows_stop_or_are_counted(tmp_path):
    write(tmp_path, {**SPLITS, "dev": [row("fluency"), row("tone")]})
    with refused(DataError, "unknown label, 1 rows: … dev.json:2: 'tone' … clarity, fluency"):
        IteraterConfig(path=tmp_path).load()
    data = IteraterConfig(path=tmp_path, skip_bad_rows=True).load()
    assert data.num_skipped == 1
    assert len(data.splits["validation"]) == 1


@pytest.fixture
def hub(monkeypatch):
    """A hub that has the rows above; without network."""
    import datasets
    import huggingface_hub

    asked = []
    named = {"train": SPLITS["train"], "validation": SPLITS["dev"], "test": SPLITS["test"]}
    published = datasets.DatasetDict({split: datasets.Dataset.from_list(rows) for split, rows in named.items()})

    def info(self, name, revision, timeout):
        asked.append(("info", timeout))

    def load(name, config, revision):
        asked.append(("load", name))
        return published

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", info)
    monkeypatch.setattr(datasets, "load_dataset", load)
    return asked


def test_the_hub_gives_the_same_as_its_files(tmp_path, hub):
    from_hub = IteraterConfig().load()
    assert hub[-1] == ("load", "wanyu/IteraTeR_human_sent")
    assert from_hub.fingerprint() == IteraterConfig(path=write(tmp_path, SPLITS)).load().fingerprint()


def test_without_a_network_the_remedy_comes_at_once(hub, monkeypatch):
    import huggingface_hub

    def unreachable(self, name, revision, timeout):
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", unreachable)
    start = time.perf_counter()
    with refused(DataError, "wanyu/IteraTeR_human_sent", "no network", "data.path"):
        IteraterConfig().load()
    assert time.perf_counter() - start < 1
    assert not any(what == "load" for what, _ in hub)


def test_a_cached_copy_is_used_where_the_hub_is_switched_off(hub, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "is_offline_mode", lambda: True)
    assert len(IteraterConfig().load().splits["train"]) == 2
    assert [what for what, _ in hub] == ["load"]
