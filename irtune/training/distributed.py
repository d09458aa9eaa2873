"""The process group that a run trains in: Ray Train's where there is one, else a group of this process alone."""

import os
import socket
from datetime import timedelta

import psutil
import torch
import torch.distributed as dist

from irtune.config.schema import EngineConfig


def select_accelerator(config: EngineConfig) -> torch.device:
    """This rank's device. Call it before anything imports DeepSpeed, which looks for an accelerator as it is imported.

    Raises:
        ValueError: If GPUs are asked for and PyTorch sees none.
    """
    if config.gpus_per_worker == 0:
        os.environ["DS_ACCELERATOR"] = "cpu"
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError(
            f"engine.gpus_per_worker: {config.gpus_per_worker} asked for, PyTorch sees no GPU here; set it to 0"
        )
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    torch.cuda.set_device(device)
    if config.gpus_per_worker < 1:
        # A trial that needs more than its share must not take that of the others.
        torch.cuda.set_per_process_memory_fraction(config.gpus_per_worker, device)
    return device


def num_gpus() -> int:
    """GPUs that PyTorch sees on this machine."""
    return torch.cuda.device_count()


def interface_of(address: str) -> str | None:
    """The network interface of this machine that carries an IP address; None if none does."""
    for name, carried in psutil.net_if_addrs().items():
        # An IPv6 address may name its interface once more, as in fe80::1%eth0.
        if any(each.address.partition("%")[0] == address for each in carried):
            return name
    return None


def make_process_group(backend: str, address: str, port: int, timeout_s: float, listener: socket.socket | None) -> None:
    """Make the process group of several workers, of which this is the one that ``RANK`` says.

    Args:
        backend: gloo or nccl.
        address: Where rank 0 listens.
        port: Where rank 0 listens.
        timeout_s: A collective that waits longer fails.
        listener: Rank 0's socket, which PyTorch takes over; None on other ranks.
    """
    # A collective that waits too long ends its process, and with it the wait of the others.
    os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1")
    rank, size, timeout = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), timedelta(seconds=timeout_s)
    store = dist.TCPStore(  # type: ignore[attr-defined]
        address,
        port,
        size,
        is_master=listener is not None,
        timeout=timeout,
        master_listen_fd=None if listener is None else listener.detach(),
    )
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)


def ensure_process_group(config: EngineConfig) -> None:
    """Join a process group: the one that exists, or a new one of this process alone.

    A group of one stays until the process ends, for the next run to use: DeepSpeed keeps references to the first group
    that it meets and has no call to forget it.
    """
    if dist.is_initialized():
        return
    os.environ.update(
        {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    )
    loopback = interface_of("127.0.0.1")
    if loopback is not None:
        # By itself gloo listens on whatever address the host's name has.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
    backend = "nccl" if config.gpus_per_worker else "gloo"
    # A store in memory needs no port, so any number of runs share a machine.
    timeout = timedelta(seconds=config.process_group_timeout_s)
    store = dist.HashStore()  # type: ignore[attr-defined]
    dist.init_process_group(backend, store=store, rank=0, world_size=1, timeout=timeout)
