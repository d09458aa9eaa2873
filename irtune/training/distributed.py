"""The process group that a run trains in: Ray Train's where there is one, else a group of this process alone."""

import os
from datetime import timedelta

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
    backend = "nccl" if config.gpus_per_worker else "gloo"
    # A store in memory needs no port, so any number of runs share a machine.
    timeout = timedelta(seconds=config.process_group_timeout_s)
    store = dist.HashStore()  # type: ignore[attr-defined]
    dist.init_process_group(backend, store=store, rank=0, world_size=1, timeout=timeout)
