"""What the processors, memory, disk and network of each node do while a trial runs, by MLflow's own monitors."""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, Self

from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

from irtune.layers.collectives import gather, rank
from irtune.training.record import Recorder, Report

logger = logging.getLogger(__name__)

_MONITORS: tuple[Callable[[], Any], ...] = (CPUMonitor, DiskMonitor, NetworkMonitor, GPUMonitor)
INTERVAL_S = 10.0
"""Seconds between two samples, as in MLflow itself."""


class NodeMetrics:
    """Samples this node from a thread; a context manager. A node that cannot be measured costs no trial.

    Args:
        node: Its name, as a part of the metrics' names.
        interval_s: Seconds between two samples.
    """

    def __init__(self, node: str, interval_s: float = INTERVAL_S) -> None:
        self._prefix = f"system/{node}/"
        self._interval_s = interval_s
        self._monitors: list[Any] = []
        for monitor in _MONITORS:
            # Where there is no GPU, or nothing to ask it with.
            with suppress(ImportError, RuntimeError):
                self._monitors.append(monitor())
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep_sampling, name="irtune-node-metrics", daemon=True)

    def __enter__(self) -> Self:
        # How busy processors are is measured since the last sample, of which there is none before this one.
        self.take()
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join(self._interval_s)

    def take(self) -> dict[str, float]:
        """The means since the last call, by name: ``system/NODE/cpu_utilization_percentage`` and others."""
        found: dict[str, float] = {}
        with self._lock:
            self._sample()
            for monitor in self._monitors:
                found |= monitor.aggregate_metrics()
                monitor.clear_metrics()
        return {self._prefix + name: float(value) for name, value in found.items()}

    def _keep_sampling(self) -> None:
        while not self._over.wait(self._interval_s):
            with self._lock:
                self._sample()

    def _sample(self) -> None:
        for monitor in list(self._monitors):
            try:
                monitor.collect_metrics()
            except Exception as error:
                logger.warning("%s measures no more of this node: %s", type(monitor).__name__, error)
                self._monitors.remove(monitor)


@contextmanager
def with_node_metrics(report: Report, recorder: Recorder, nodes: Sequence[str]) -> Iterator[Report]:
    """A report that first records what every node did since the last one.

    Args:
        report: As a run calls it at each evaluation, on every rank.
        recorder: Of rank 0.
        nodes: The node of each rank; its lowest rank measures it.
    """
    own = NodeMetrics(nodes[rank()]) if nodes.index(nodes[rank()]) == rank() else None

    def record(metrics: Mapping[str, Any]) -> None:
        if not metrics.get("final"):
            of_nodes = gather({} if own is None else own.take())
            recorder.metrics(metrics["step"], {name: value for found in of_nodes for name, value in found.items()})
        report(metrics)

    with nullcontext() if own is None else own:
        yield record
