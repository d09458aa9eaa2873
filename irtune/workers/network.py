"""The process group of a trial's workers, over the network that carries Ray between their nodes."""

import os
import socket
from typing import Any

import ray
from ray.train.torch import TorchConfig

from irtune.config.engine_schema import EngineConfig
from irtune.training.distributed import interface_of, make_process_group

_listener: socket.socket | None = None
"""Rank 0's, from the time that it listens until PyTorch takes it over."""


def use_interface_of_ray() -> None:
    """Let gloo and NCCL connect over the interface of this node's Ray address, unless the environment names another.

    Left to itself gloo takes the address of the host's name, which on many machines is 127.0.0.1: then workers on other
    nodes never reach it, and Ray Train starts the group again and again. Names of interfaces differ between nodes, so
    every worker finds its own.
    """
    name = interface_of(ray.util.get_node_ip_address())
    if name is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
        # NCCL takes a name for the beginning of one, unless told that it is whole.
        os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={name}")


def listen_for_workers() -> tuple[str, int]:
    """Listen, on this node's Ray address alone, for the workers of a group; returns address and port.

    PyTorch's store by itself listens on every interface of the machine, and lets anybody in.
    """
    global _listener
    address = str(ray.util.get_node_ip_address())
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    _listener = socket.create_server((address, 0), family=family)
    return address, int(_listener.getsockname()[1])


def join_group(backend: str, address: str, port: int, timeout_s: float) -> None:
    """Join the process group of a trial's workers, whose rank 0 has begun to ``listen_for_workers``."""
    from ray import train

    global _listener
    context = train.get_context()
    places = {
        "LOCAL_RANK": context.get_local_rank(),
        "LOCAL_WORLD_SIZE": context.get_local_world_size(),
        "NODE_RANK": context.get_node_rank(),
        "RANK": context.get_world_rank(),
        "WORLD_SIZE": context.get_world_size(),
        "MASTER_ADDR": address,
        "MASTER_PORT": port,
    }
    os.environ.update({name: str(value) for name, value in places.items()})
    listener, _listener = _listener, None
    make_process_group(backend, address, port, timeout_s, listener)


class _Backend(TorchConfig().backend_cls):  # type: ignore[misc]
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(use_interface_of_ray)
        address, port = worker_group.execute_single(0, listen_for_workers)
        worker_group.execute(join_group, backend_config.backend, address, port, backend_config.timeout_s)


class _OverInterfaceOfRay(TorchConfig):  # type: ignore[misc]
    @property
    def backend_cls(self) -> type[_Backend]:
        return _Backend


def torch_config(engine: EngineConfig) -> TorchConfig:
    """The process group of a trial's workers, as Ray Train is to make it."""
    return _OverInterfaceOfRay(
        backend="nccl" if engine.gpus_per_worker else "gloo",
        timeout_s=int(engine.process_group_timeout_s),
    )
