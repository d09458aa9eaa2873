"""Nodes are asked whether they share a sweep's storage, and none is waited for without end."""

import time

import pytest
import ray
from saying import each_says, refused

from irtune.config.load import ConfigError
from irtune.workers import cluster, storage_check
from irtune.workers.storage_check import check_shared_storage


@pytest.fixture(scope="module")
def node():
    cluster.connect()
    (node,) = cluster.alive_nodes()
    yield node
    ray.shutdown()


def test_a_node_that_shares_the_storage_passes_and_nothing_is_left(node, tmp_path):
    check_shared_storage(tmp_path / "sweep", [node])
    assert list((tmp_path / "sweep").iterdir()) == []


def test_a_node_whose_answer_does_not_appear_here_is_named(node, tmp_path, monkeypatch):
    monkeypatch.setattr(storage_check, "_answer", lambda meeting, node_id: None)
    with pytest.raises(ConfigError) as caught:
        check_shared_storage(tmp_path, [node])
    assert each_says(caught.value.mistakes, (f"storage: node {node.address} … {tmp_path}", "mount it", "set storage="))


def test_a_node_that_does_not_answer_is_named_in_time(node, tmp_path, monkeypatch):
    monkeypatch.setattr(storage_check, "_answer", lambda meeting, node_id: time.sleep(60))
    start = time.monotonic()
    with refused(ConfigError, f"storage: node {node.address} … 2 s", "`ray status`"):
        check_shared_storage(tmp_path, [node], timeout_s=2)
    assert time.monotonic() - start < 10


def test_a_node_that_is_gone_or_cannot_run_irtune_is_named_beside_the_others(node, tmp_path, monkeypatch):
    gone = cluster.Node("0" * 55 + "1", "10.0.0.9", {})
    with refused(ConfigError, "storage: node 10.0.0.9 … node"):
        check_shared_storage(tmp_path, [node, gone])

    def broken(meeting, node_id):
        raise ModuleNotFoundError("No module named 'irtune'")

    monkeypatch.setattr(storage_check, "_answer", broken)
    with refused(ConfigError, f"storage: node {node.address} … ModuleNotFoundError: No module"):
        check_shared_storage(tmp_path, [node])
