"""The process group that a run trains in: Ray Train's where there is one, else a group of this process alone."""

import atexit
import gc
import logging
import os
import socket
import sys
import threading
from datetime import timedelta

import psutil
import torch
import torch.distributed as dist

from irtune.config.engine_schema import EngineConfig

LEAVE_S = 10.0
"""How long a process waits at its end for a collective that another rank does not finish; its thread is then left."""


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
    _end_if_nccl_hangs()
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


def _end_if_nccl_hangs() -> None:
    """Have a collective that waits too long, or a watchdog that no longer looks, end its process, and with it the wait
    of the other ranks and of the slot that the trial takes. Call it before the group is made; the environment's own
    settings go before these."""
    os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1")
    os.environ.setdefault("TORCH_NCCL_ENABLE_MONITORING", "1")


def ensure_process_group(config: EngineConfig) -> None:
    """Join a process group, the one that exists or a new one of this process alone, and leave it as the process ends.

    A group of one stays that long for the next run to use: DeepSpeed keeps references to the first group that it meets.
    """
    leave_at_exit()
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
    _end_if_nccl_hangs()
    # A store in memory needs no port, so any number of runs share a machine.
    timeout = timedelta(seconds=config.process_group_timeout_s)
    store = dist.HashStore()  # type: ignore[attr-defined]
    dist.init_process_group(backend, store=store, rank=0, world_size=1, timeout=timeout)


def leave_at_exit() -> None:
    """Have this process leave its group before Python ends, whoever made the group and however often this is called."""
    atexit.unregister(leave_process_group)
    atexit.register(leave_process_group)


def leave_process_group() -> None:
    """Destroy the process group and end the threads of its backend; harmless where there is none.

    gloo ends its threads once nothing refers to a group any more, which is later than ``destroy_process_group``:
    DeepSpeed has made the first group a default argument, a module of it keeps a copy, and at stage 3 its engine
    outlives its last reference. A thread that is alive as Python ends may just be dropping the tensors of the last
    collective; it then asks for the interpreter, which ends it in the middle of a destructor, and the process aborts
    ("terminate called without an active exception").

    Source: https://github.com/pytorch/pytorch/pull/179291.
    """
    # The last reference to a group waits for what is under way in it.
    leaving = threading.Thread(target=_destroy_process_groups, daemon=True, name="leave_process_group")
    leaving.start()
    leaving.join(LEAVE_S)
    if leaving.is_alive():
        logging.getLogger(__name__).warning(
            "the process group has not ended within %s s: a collective waits for a rank that is gone or stuck", LEAVE_S
        )


def _destroy_process_groups() -> None:
    if not (dist.is_available() and dist.is_initialized()):
        return
    groups = list(dist.distributed_c10d._world.pg_map)
    dist.destroy_process_group()
    gc.unfreeze()
    for holder in gc.get_referrers(*groups):
        values = holder if isinstance(holder, dict | list) else getattr(holder, "__dict__", {})
        for key, value in list(values.items() if isinstance(values, dict) else enumerate(values)):
            if isinstance(value, dist.ProcessGroup):
                values[key] = None
    # The garbage collector does not know of these: what DeepSpeed had as it was imported.
    backend = sys.modules.get("deepspeed.comm.torch")
    for function in vars(backend.TorchBackend).values() if backend is not None else ():
        if defaults := getattr(function, "__defaults__", None):
            function.__defaults__ = tuple(None if isinstance(value, dist.ProcessGroup) else value for value in defaults)
