"""The process group of a trial's workers, over the network that carries Ray between their nodes."""

import os
from typing import Any

import psutil
import ray
from ray.train.torch import TorchConfig

from irtune.config.schema import EngineConfig


def interface_of(address: str) -> str | None:
    """The network interface of this machine that carries an IP address; None if none does."""
    for name, carried in psutil.net_if_addrs().items():
        # An IPv6 address may name its interface once more, as in fe80::1%eth0.
        if any(each.address.partition("%")[0] == address for each in carried):
            return name
    return None


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


class _Backend(TorchConfig().backend_cls):  # type: ignore[misc]
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(use_interface_of_ray)
        super().on_start(worker_group, backend_config)


class _OverInterfaceOfRay(TorchConfig):  # type: ignore[misc]
    @property
    def backend_cls(self) -> type[_Backend]:
        return _Backend


def torch_config(engine: EngineConfig) -> TorchConfig:
    """How Ray Train makes the process group of a trial's workers."""
    return _OverInterfaceOfRay(
        backend="nccl" if engine.gpus_per_worker else "gloo",
        timeout_s=int(engine.process_group_timeout_s),
    )
