"""The Ray cluster that a sweep runs on: joined or started, and asked what it holds."""

import json
import math
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
import torch

from irtune.config.load import Config, ConfigError, apply_overrides, build, explicit, relative_paths
from irtune.config.schema import EngineConfig

WORKER_ENVIRONMENT = {
    # Paths in a configuration mean the same in the driver and in its workers.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # Reports of Train workers are fetched this often; every one waits for it.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # The metric is absent from the last report of a trial that failed by itself.
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONWARNINGS": "ignore",
}
_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
_SCHEME = {"tracking.uri": "sqlite:///"}
"""What stands before the path in settings that are addresses."""
HEAD_NODE: Mapping[str, float] = {"node:__internal_head__": 0.001}
"""A claim that pins a process to the head node and takes no CPU from workers."""


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
                f"the absolute path on all nodes, such as {key}={_SCHEME.get(key, '')}/shared/{Path(path).name}"
                for key, path in relative.items()
            ],
        )
    # The tracking address is made absolute where it is resolved.
    absolute = {key: str(Path(path).expanduser().resolve()) for key, path in relative.items() if key != "tracking.uri"}
    return build(type(config), apply_overrides(explicit(config), absolute), "paths")


def connect() -> None:
    """Join the cluster that ``RAY_ADDRESS`` or the job names, or start one on this machine, on loopback.

    Raises:
        ConnectionError: If the named cluster cannot be reached.
    """
    os.environ.update({name: os.environ.get(name, value) for name, value in WORKER_ENVIRONMENT.items()})
    options: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": "ERROR",
        "runtime_env": {"env_vars": {name: os.environ[name] for name in WORKER_ENVIRONMENT}},
    }
    if joins():
        ray.init(**options)
    else:
        # By default Ray's workers give way to every other process, and a worker whose threads wait for each other then
        # all but stops as soon as the machine does anything else.
        os.environ.setdefault("RAY_worker_niceness", "0")
        # Ray starts workers through a shell and does not quote the interpreter, which may lie in a path with spaces.
        options["runtime_env"]["py_executable"] = shlex.quote(sys.executable)
        # A cluster that another program left on this machine is not ours to load.
        ray.init(address="local", include_dashboard=False, _node_ip_address="127.0.0.1", **options)


def planned_resources() -> Mapping[str, float]:
    """What the cluster of a sweep holds; one on this machine is not started for that.

    Raises:
        ConnectionError: If the named cluster cannot be reached.
    """
    if not joins():
        return {"CPU": os.cpu_count() or 1, "GPU": torch.cuda.device_count()}
    connect()
    try:
        return dict(ray.cluster_resources())
    finally:
        ray.shutdown()


def concurrency(engine: EngineConfig, resources: Mapping[str, float]) -> int:
    """How many trials fit into a cluster at once.

    Raises:
        ConfigError: If not even one does.
    """
    needs = {"CPU": engine.num_workers * engine.cpus_per_worker, "GPU": engine.num_workers * engine.gpus_per_worker}
    # 3 CPUs hold ten trials of 3 workers with 0.1 CPU each, whatever the rounding of floats says.
    fits = {name: math.floor(resources.get(name, 0) / need + 1e-9) for name, need in needs.items() if need > 0}
    short = [
        f"engine.num_workers: a trial needs {needs[name]:g} {name}s ({engine.num_workers} workers x "
        f"engine.{name.lower()}s_per_worker), the cluster has {resources.get(name, 0):g}"
        for name, count in fits.items()
        if count == 0
    ]
    if short:
        raise ConfigError("cluster", short)
    return min(fits.values())


def num_nodes() -> int:
    """Nodes of the cluster that are alive."""
    return sum(bool(node["Alive"]) for node in ray.nodes())
