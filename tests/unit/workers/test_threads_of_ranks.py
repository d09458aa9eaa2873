"""A rank is told how many threads its machine has for it, whatever else runs on other machines."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from irtune.config import load
from irtune.training.record import NoRecorder
from irtune.workers import cluster, worker
from irtune.workers.cluster import HEAD_NODE, Node
from irtune.workers.worker import TrialSetup, train_rank

NODES = [Node("a", "10.0.0.1", {"CPU": 8, **HEAD_NODE}), Node("b", "10.0.0.2", {"CPU": 4})]


@pytest.mark.parametrize(
    ("at_once", "engine", "node", "threads"),
    [
        # One trial of one worker has the cores of whichever machine it is on.
        (1, {}, "a", 8),
        (1, {}, "b", 4),
        (3, {"cpus_per_worker": 0.5}, "b", 1),
        # Several may all come onto one machine, as far as they fit.
        (2, {}, "a", 4),
        (2, {"num_workers": 2}, "a", 2),
        (12, {}, "a", 1),
        (12, {}, "b", 1),
        (12, {"cpus_per_worker": 4}, "a", 4),
        (None, {"cpus_per_worker": 2}, "a", 2),
        (1, {"threads_per_worker": 3}, "a", 3),
    ],
)
def test_cores_are_shared_by_as_many_workers_as_may_be_here(
    at_once: int | None, engine: dict[str, int], node: str, threads: int, tmp_path: Path, monkeypatch: Any
) -> None:
    told: list[Any] = []
    here = SimpleNamespace(get_node_id=lambda: node)
    fake = SimpleNamespace(
        get=lambda reference: None,
        get_runtime_context=lambda: here,
        util=SimpleNamespace(get_node_ip_address=lambda: "10.0.0.1"),
    )
    monkeypatch.setattr(worker, "ray", fake)
    monkeypatch.setattr(worker, "RecordWriter", lambda folder: NoRecorder())
    monkeypatch.setattr(cluster, "alive_nodes", lambda: NODES)
    monkeypatch.setattr(load, "num_cores", lambda: 8)
    setup = TrialSetup({"engine": engine}, tmp_path, None, lambda config, **_: told.append(config), at_once=at_once)  # type: ignore[arg-type]
    train_rank("trial_0001", {}, setup, lambda metrics: None)
    assert [config.engine.threads_per_worker for config in told] == [threads]


def test_threads_of_workers_sleep_while_they_wait() -> None:
    """By default OpenMP's count instead, and on a busy machine a step then takes ten times as long."""
    assert cluster.WORKER_ENVIRONMENT["OMP_WAIT_POLICY"] == "passive"
