"""What nodes do is recorded at evaluations, once per node, and costs no trial whatever goes wrong."""

import time
from pathlib import Path
from typing import Any

import pytest
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor

from irtune.tracking import node_metrics
from irtune.tracking.node_metrics import NodeMetrics, with_node_metrics
from irtune.training.record import NoRecorder, RecordReader, RecordWriter

MEMORY = "system_memory_usage_megabytes"


def test_each_evaluation_has_what_every_node_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = {f"system/10.0.0.2/{MEMORY}": 7.0}
    monkeypatch.setattr(node_metrics, "gather", lambda own: [own, {}, other])
    told: list[Any] = []
    recorder = RecordWriter(tmp_path)
    with with_node_metrics(told.append, recorder, ["10.0.0.1", "10.0.0.1", "10.0.0.2"]) as report:
        for metrics in ({"step": 3, "final": False}, {"step": 9, "final": True}):
            report(metrics)
    recorder.close()
    (record,) = RecordReader(tmp_path).poll()
    assert (record["kind"], record["step"]) == ("metrics", 3)
    assert record["values"][f"system/10.0.0.1/{MEMORY}"] > 0
    assert other.items() <= record["values"].items()
    assert [metrics["step"] for metrics in told] == [3, 9]


def test_of_ranks_on_one_node_one_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    gathered: list[Any] = []
    monkeypatch.setattr(node_metrics, "gather", lambda own: gathered.append(own) or [own])
    monkeypatch.setattr(node_metrics, "rank", lambda: 1)
    for nodes in (["a", "a"], ["a", "b"]):
        with with_node_metrics(lambda metrics: None, NoRecorder(), nodes) as report:
            report({"step": 1, "final": False})
    assert gathered[0] == {}
    assert f"system/b/{MEMORY}" in gathered[1]


def test_samples_between_evaluations_are_averaged(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []

    def collect(self: CPUMonitor) -> None:
        seen.append(float(len(seen)))
        self.metrics["load"].append(seen[-1])

    monkeypatch.setattr(CPUMonitor, "collect_metrics", collect)
    with NodeMetrics("a", interval_s=0.01) as metrics:
        deadline = time.monotonic() + 10
        while len(seen) < 5:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        mean = metrics.take()["system/a/load"]
        # The sample at the start, 0, has nothing before it, and is left out.
        assert mean in [round(sum(seen[1:end]) / (end - 1), 1) for end in range(6, len(seen) + 1)]


def test_what_cannot_be_measured_costs_no_trial(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(self: CPUMonitor) -> None:
        raise PermissionError("/proc/stat")

    monkeypatch.setattr(CPUMonitor, "collect_metrics", fails)
    with NodeMetrics("a") as metrics:
        found = metrics.take()
        metrics.take()
    assert found
    assert not [name for name in found if "memory" in name]
    assert caplog.text.count("/proc/stat") == 1
