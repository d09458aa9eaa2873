"""One rank trains a step and ends: prints the threads of gloo that are alive then. Run with PYTHONPATH=tests/support.

python leaving.py <rank> <store> <stage> <context|exit|dead>
"""

import atexit
import json
import os
import sys
from contextlib import ExitStack, suppress
from pathlib import Path

import torch
import torch.distributed as dist
from measuring import batch, make_blocks

from irtune.config.engine_schema import EngineConfig
from irtune.training import distributed


def gloo_threads() -> list[str]:
    names = []
    for thread in Path("/proc/self/task").iterdir():
        # A thread may end while it is looked at.
        with suppress(FileNotFoundError, ProcessLookupError):
            names.append((thread / "comm").read_text().strip())
    return sorted(name for name in names if "gloo" in name)


def main(rank: int, store: str, stage: int, how: str) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    # Runs after what is registered later.
    atexit.register(lambda: print(json.dumps(gloo_threads()), flush=True))
    with ExitStack() as end:
        if how != "exit":
            end.callback(distributed.leave_process_group)
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
        distributed.ensure_process_group(EngineConfig())
        blocks = make_blocks(stage, None, dropout=False)
        blocks.train_step([batch(0, micro, rank) for micro in range(2)])
        blocks.optimizer_step()
        assert gloo_threads()
        if how == "dead":
            if rank == 1:
                os._exit(0)
            # Rank 1 never takes part in it.
            dist.all_reduce(torch.ones(3), async_op=True)
            raise ValueError("rank 0 fails beside a dead rank")
        blocks.destroy()


if __name__ == "__main__":
    os.environ["DS_ACCELERATOR"] = "cpu"
    torch.set_num_threads(1)
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4])
