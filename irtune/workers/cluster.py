"""The Ray cluster that a sweep runs on: joined or started, and asked what it holds."""

import json
import logging
import math
import os
import secrets
import shlex
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants

from irtune.config.engine_schema import EngineConfig
from irtune.config.load import Config, ConfigError, apply_overrides, build, explicit, relative_paths
from irtune.workers import ray_messages

WORKER_ENVIRONMENT = {
    # Paths in a configuration mean the same in the driver and in its workers.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # Reports of Train workers are fetched this often; every one waits for it.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # Workers import for a while, and longer where several start at once.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",
    # A process more for each worker group, which tells it of nodes that are about to go; trials have checkpoints.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # The metric is absent from the last report of a trial that failed by itself.
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    # CSV, JSON and TensorBoard files beside the record, and a semaphore for each trial, which Python misses at its end.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TOKENIZERS_PARALLELISM": "false",
    # Threads that wait for each other by counting all but stop as soon as the machine does anything else.
    "OMP_WAIT_POLICY": "passive",
    "PYTHONWARNINGS": "ignore",
}
_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
_SCHEME = {"tracking.uri": "sqlite:///"}
"""Prefixes, before the path, of settings that are addresses."""
HEAD_NODE: Mapping[str, float] = {"node:__internal_head__": 0.001}
"""A claim that pins a process to the head node and takes no CPU from workers."""
_AUTH_MODE = "RAY_AUTH_MODE"
REACH_S = 10.0
SHORT_TEMP = "/tmp"
LONGEST_TEMP = (107 if sys.platform == "linux" else 103) - len(
    "/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
)
"""Bytes of the folder in which Ray's folder of temporary files may lie."""
logger = logging.getLogger(__name__)


def in_job() -> bool:
    """Whether this process is the driver of a submitted Ray job."""
    return _JOB in os.environ


def job_id() -> str | None:
    """The id under which this process's job was submitted."""
    job: dict[str, Any] = json.loads(os.environ.get(_JOB, "{}"))
    found = job.get("metadata", {}).get("job_submission_id")
    return None if found is None else str(found)


def joins() -> bool:
    """Whether a sweep joins a cluster that is there already, instead of starting one on this machine."""
    return in_job() or os.environ.get("RAY_ADDRESS", "local") != "local"


def with_absolute_paths(config: Config) -> Config:
    """The configuration with paths that mean the same everywhere.

    In a job a relative path is refused: its working directory is a temporary copy that Ray deletes.

    Raises:
        ConfigError: With the absolute form of every relative path of a job.
    """
    relative = relative_paths(config)
    if in_job() and relative:
        raise ConfigError(
            "job",
            [
                f"{key}: {path!r} is relative, and a job's working directory is Ray's temporary copy of yours; give "
                f"the absolute path on all nodes, such as {key}={_in_shared(path, _SCHEME.get(key, ''))}"
                for key, path in relative.items()
            ],
        )
    # The tracking address is made absolute where it is resolved.
    absolute = {key: _resolved(path) for key, path in relative.items() if key != "tracking.uri"}
    return build(type(config), apply_overrides(explicit(config), absolute), "paths")


def _in_shared(path: str | list[str], scheme: str) -> str:
    """An example of an absolute path."""
    if isinstance(path, list):
        return f"[{', '.join(_in_shared(one, scheme) for one in path)}]"
    return f"{scheme}/shared/{Path(path).name}"


def _resolved(path: str | list[str]) -> str | list[str]:
    found = [str(Path(one).expanduser().resolve()) for one in ([path] if isinstance(path, str) else path)]
    return found[0] if isinstance(path, str) else found


@dataclass(frozen=True)
class Node:
    """A machine of the cluster.

    Args:
        id: As Ray knows it.
        address: Its IP address.
        resources: What it has by name, such as ``CPU`` and ``GPU``, in use or not.
    """

    id: str
    address: str
    resources: Mapping[str, float]

    @property
    def is_head(self) -> bool:
        """Whether the processes run here that drive trials of several workers."""
        return HEAD_NODE.keys() <= self.resources.keys()

    def room(self, engine: EngineConfig) -> int:
        """The number of workers that fit: none spans nodes, and a part of a GPU is a part of one GPU."""
        cpus, gpus = self.resources.get("CPU", 0), math.floor(self.resources.get("GPU", 0))
        room = _times(engine.cpus_per_worker, cpus)
        if engine.gpus_per_worker >= 1:
            room = min(room, _times(engine.gpus_per_worker, gpus))
        elif engine.gpus_per_worker > 0:
            room = min(room, gpus * _times(engine.gpus_per_worker, 1))
        return room


def connect() -> None:
    """Join the cluster that ``RAY_ADDRESS`` or the job names, or start one on this machine.

    A cluster that is joined says by itself whether it wants a token, and ``RAY_AUTH_MODE`` whether this process has
    one; one that is started here wants one, unless ``RAY_AUTH_MODE`` is ``disabled``.

    Raises:
        ConnectionError: If the named cluster cannot be reached, or wants another token.
    """
    os.environ.update({name: os.environ.get(name, value) for name, value in WORKER_ENVIRONMENT.items()})
    options: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": "ERROR",
        "runtime_env": {"env_vars": {name: os.environ[name] for name in WORKER_ENVIRONMENT}},
    }
    # Ray starts workers through a shell and does not quote the interpreter, which may lie in a path with spaces.
    quoted = shlex.quote(sys.executable)
    ray_messages.take_over()
    if joins():
        if quoted != sys.executable and not in_job():
            options["runtime_env"]["py_executable"] = quoted
        _join(options)
    else:
        # By default Ray's workers give way to every other process, and a worker whose threads wait for each other then
        # all but stops as soon as the machine does anything else.
        os.environ.setdefault("RAY_worker_niceness", "0")
        options["runtime_env"]["py_executable"] = quoted
        if not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
            # Ray would leave one in ~/.ray, and then clusters that are started by hand want it too.
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        # On Linux Ray else takes the network's address in place of 127.0.0.1, and opens all ports to it.
        before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
        try:
            # A cluster that another program left on this machine is not ours to load.
            ray.init(
                address="local",
                include_dashboard=False,
                _node_ip_address="127.0.0.1",
                _temp_dir=session_folder(os.environ),
                **options,
            )
        finally:
            ray_constants.ENABLE_RAY_CLUSTER = before


def session_folder(environment: Mapping[str, str]) -> str | None:
    """Return the folder for the files of a Ray that is started here; None leaves it to Ray.

    Ray takes ``RAY_TMPDIR``, else ``TMPDIR``, whose path may be too long for Unix sockets in it.

    Args:
        environment: With these two variables or without.

    Raises:
        ConfigError: If ``RAY_TMPDIR``, which is for nothing but Ray, is too long.
    """
    named = environment.get("RAY_TMPDIR")
    length = len((named or environment.get("TMPDIR", "")).encode())
    if length <= LONGEST_TEMP:
        return None
    if named:
        told = f"{length} bytes are too long for Ray's sockets; set it to a folder of at most {LONGEST_TEMP}"
        raise ConfigError("RAY_TMPDIR", [f"{named}: {told}, such as {SHORT_TEMP}"])
    logger.warning("TMPDIR is too long for Ray's sockets (%d bytes): Ray keeps its files in %s/ray", length, SHORT_TEMP)
    return f"{SHORT_TEMP}/ray"


def describe() -> str:
    """The cluster that this process is connected to, in a line."""
    nodes = alive_nodes()
    count = "1 node" if len(nodes) == 1 else f"{len(nodes)} nodes"
    mode = f"RAY_AUTH_MODE is {os.environ.get(_AUTH_MODE, 'unset')}" if joins() else "started for this study alone"
    return f"{count} with {_amounts(ray.cluster_resources())}; {mode}"


def alive_nodes() -> list[Node]:
    """The nodes of the cluster that are alive."""
    return [
        Node(node["NodeID"], node["NodeManagerAddress"], node["Resources"]) for node in ray.nodes() if node["Alive"]
    ]


def future_nodes() -> list[Node]:
    """The nodes that a sweep will find; a cluster on this machine is not started for that.

    Raises:
        ConnectionError: If a named cluster cannot be reached.
    """
    if not joins():
        # Processes that only pass messages on import this file too.
        from irtune.training.distributed import num_gpus

        here = {"CPU": float(os.cpu_count() or 1), "GPU": float(num_gpus()), **HEAD_NODE}
        return [Node("", "this machine", here)]
    connect()
    try:
        return alive_nodes()
    finally:
        ray.shutdown()


def concurrency(engine: EngineConfig, nodes: Sequence[Node]) -> int:
    """The number of trials that fit onto nodes at once.

    Raises:
        ConfigError: If not even one does, with what each node has.
    """
    room = sum(node.room(engine) for node in nodes)
    if room < engine.num_workers:
        worker = _amounts({"CPU": engine.cpus_per_worker, "GPU": engine.gpus_per_worker})
        have = "; ".join(f"{node.address} has {_amounts(node.resources)}" for node in nodes)
        mistake = (
            f"engine.num_workers: a trial needs {engine.num_workers}, each with {worker} of one node, and the cluster "
            f"has room for {room}: {have}; ask for less, or add nodes"
        )
        raise ConfigError("cluster", [mistake])
    return room // engine.num_workers


def _join(options: Mapping[str, Any]) -> None:
    address, mode = os.environ.get("RAY_ADDRESS", "unset"), os.environ.get(_AUTH_MODE, "unset")
    host, _, port = address.rpartition(":")
    try:
        if port.isdecimal() and "/" not in host:
            # Ray itself tries for minutes where nobody listens.
            socket.create_connection((host.strip("[]"), int(port)), REACH_S).close()
        ray.init(**options)
    except (OSError, ray.exceptions.AuthenticationError) as error:
        raise ConnectionError(
            f"RAY_ADDRESS is {address}, and no cluster could be joined: {error}. Is it running? {_AUTH_MODE} is {mode} "
            f"here: a cluster with token authentication needs {_AUTH_MODE}=token, and the token that `ray "
            "get-auth-token` prints on its head in ~/.ray/auth_token, or in the file that RAY_AUTH_TOKEN_PATH names"
        ) from error


def _times(need: float, available: float) -> int:
    # 3 CPUs hold thirty workers with 0.1 CPU each, whatever the rounding of floats says.
    return math.floor(available / need + 1e-9)


def _amounts(resources: Mapping[str, float]) -> str:
    return " and ".join(f"{resources.get(name, 0):g} {name}s" for name in ("CPU", "GPU"))
