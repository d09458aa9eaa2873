"""How much of the pretrained weights' file a rank holds as copies of its own, once its engine is built and has trained.

python tests/support/shared_weights.py RANK PORT OUT
"""

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from irtune.config.engine_schema import EngineConfig
from irtune.config.schema import AdapterConfig, ModelConfig, TrainingConfig
from irtune.layers import map_parameters
from irtune.training.adapter import add_adapter
from irtune.training.distributed import leave_process_group
from irtune.training.engine import DeepSpeedBlocks
from irtune.training.model import load_classifier
from irtune.training.pretrained import materialize


def mapped_kilobytes(file: Path) -> dict[str, int]:
    """Of the memory that maps ``file``: how much is used at all, and how much was written to and so copied."""
    found = {"Rss": 0, "Private_Dirty": 0}
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, *rest = line.split()
        if not name.endswith(":"):
            inside = line.endswith(str(file))
        elif inside and name[:-1] in found:
            found[name[:-1]] += int(rest[0])
    return found


def main(rank: int, port: str, out: Path) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    os.environ["DS_ACCELERATOR"] = "cpu"
    dist.init_process_group("gloo")
    checkpoint = materialize(ModelConfig(name="tiny-random"))
    model = add_adapter(load_classifier(checkpoint, ["a", "b"], 0, 0), AdapterConfig(), train_head=True, seed=0).train()
    engine = EngineConfig(num_workers=2, zero_stage=2)
    blocks = DeepSpeedBlocks(model, map_parameters(model), TrainingConfig(), engine)
    ids = torch.tensor([[5, 6, 7, 8]])
    blocks.train_step([{"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.tensor([rank])}])
    blocks.optimizer_step()
    out.write_text(json.dumps(mapped_kilobytes((checkpoint / "model.safetensors").resolve())))
    leave_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
