"""Checkpoints to resume from, and the best weights: both whole or not there at all, whenever a process is killed."""

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from irtune.files import appearing, make_durable, once_there_is_room, write_whole
from irtune.training.engine import DeepSpeedBlocks
from irtune.training.optimizer_state import gather_state, load_state
from irtune.training.standalone import write_standalone

COMPLETE = "complete.json"
"""Written last: a checkpoint folder with this file is whole."""
OPTIMIZER_STATE = "optimizer.safetensors"
NUM_KEPT = 2
"""Checkpoints that are kept, so that there is one to go on from should the newest be damaged."""

logger = logging.getLogger(__name__)


def save_checkpoint(blocks: DeepSpeedBlocks, folder: Path, step: int, state: Mapping[str, Any]) -> None:
    """Save everything that ``load_checkpoint`` needs, and forget all but the newest checkpoints. All ranks call it.

    Rank 0 writes fp32 weights, moments and step counts of every trained parameter, frozen ones included, which any
    number of workers at any ZeRO stage can go on from.

    Args:
        blocks: The engine, between two optimizer steps.
        folder: The trial's checkpoint folder, on storage that every rank shares.
        step: Optimizer steps done.
        state: JSON-able state of everything else, from rank 0.
    """
    target = folder / f"step_{step:06d}"
    tensors = gather_state(blocks)
    if blocks.rank == 0:
        complete = dict(state) | {
            "step": step,
            "scheduler": blocks.scheduler.state_dict(),
            "loss_scaler": _loss_scaler_state(blocks),
            "world_size": dist.get_world_size(),
            "zero_stage": blocks.stage,
        }

        def write() -> None:
            target.mkdir(parents=True, exist_ok=True)
            _save_whole(tensors, target / OPTIMIZER_STATE)
            write_whole(target / COMPLETE, json.dumps(complete))

        once_there_is_room(write, target)
        kept = checkpoints(folder)[:NUM_KEPT]
        for other in folder.glob("step_*"):
            if other not in kept:
                shutil.rmtree(other, ignore_errors=True)
    dist.barrier()


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints under ``folder`` that were written to their end, newest first."""
    written = (path.parent for path in folder.glob(f"step_*/{COMPLETE}"))
    return sorted(written, key=lambda path: int(path.name.removeprefix("step_")), reverse=True)


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint under ``folder`` that can be read; one that a lost disk damaged is passed over."""
    for checkpoint in checkpoints(folder):
        try:
            json.loads((checkpoint / COMPLETE).read_text(encoding="utf-8"))
            # It compares the sizes in the header with that of the file.
            with safe_open(checkpoint / OPTIMIZER_STATE, framework="pt"):
                return checkpoint
        except (OSError, ValueError, SafetensorError) as error:
            logger.warning("%s is damaged (%s), so the one before it is taken", checkpoint, error)
    return None


def state_of(checkpoint: Path) -> dict[str, Any]:
    """The JSON-able state that was saved with a checkpoint."""
    state: dict[str, Any] = json.loads((checkpoint / COMPLETE).read_text(encoding="utf-8"))
    return state


def load_checkpoint(blocks: DeepSpeedBlocks, checkpoint: Path) -> dict[str, Any]:
    """Put a checkpoint back into the engine; returns the state that was saved with it. All ranks call it.

    At the world size and stage that wrote it, training goes on bit for bit as it would have; at others, to within the
    rounding of sums that are taken in another order.

    Raises:
        ValueError: If it is of another model or adapter.
    """
    state = state_of(checkpoint)
    load_state(blocks, checkpoint / OPTIMIZER_STATE)
    blocks.scheduler.load_state_dict(state.pop("scheduler"))
    for group, learning_rate in zip(blocks.base_optimizer.param_groups, blocks.scheduler.get_last_lr(), strict=True):
        group["lr"] = learning_rate
    for name, value in state.pop("loss_scaler").items():
        if blocks.skips_overflow and hasattr(_loss_scaler(blocks), name):
            setattr(_loss_scaler(blocks), name, value)
    blocks.engine.global_steps = state["step"]
    return state


def save_weights(blocks: DeepSpeedBlocks, file: Path) -> None:
    """Save the trainable weights, and those of a head kept at its random start, whole. All ranks call it."""
    parameters = saved_parameters(blocks)
    with blocks.gathered(list(parameters.values())):
        if blocks.rank == 0:
            weights = {name: p.detach().cpu().contiguous() for name, p in parameters.items()}
            once_there_is_room(lambda: _save_whole(weights, file), file)
    dist.barrier()


def load_weights(blocks: DeepSpeedBlocks, file: Path) -> None:
    """Put saved weights into the model for evaluation; the optimizer does not learn of it. All ranks call it."""
    weights = load_file(file)
    parameters = saved_parameters(blocks)
    with torch.no_grad(), blocks.gathered(list(parameters.values()), writer=0):
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
    # Other adapters may be idle now.
    blocks.require_gradients(blocks.active)
    dist.barrier()


def save_adapter(blocks: DeepSpeedBlocks, folder: Path, weights: Path, notes: Mapping[str, Any]) -> None:
    """Write saved weights as a normal PEFT folder, with ``irtune.json`` and how to use it beside. Rank 0 only."""
    model = blocks.engine.module

    def write() -> None:
        model.save_pretrained(
            str(folder), state_dict=load_file(weights), safe_serialization=True, save_embedding_layers=False
        )
        (folder / "irtune.json").write_text(json.dumps(notes, indent=2), encoding="utf-8")
        write_standalone(folder, notes, str(model.get_base_model().name_or_path))

    once_there_is_room(write, folder)


def saved_parameters(blocks: DeepSpeedBlocks) -> dict[str, nn.Parameter]:
    """Name -> parameter of all that distinguishes this model from its base."""
    trained = dict(blocks.blocks.all())
    kept_heads = {n: p for n, p in blocks.engine.module.named_parameters() if ".modules_to_save." in n}
    return trained | kept_heads


def _save_whole(tensors: Mapping[str, torch.Tensor], file: Path) -> None:
    with appearing(file) as partial:
        save_file(dict(tensors), partial)
        # Whatever is written after it must not be on the disk before it.
        make_durable(partial)
    make_durable(file.parent)


def _loss_scaler(blocks: DeepSpeedBlocks) -> Any:
    """The object that adapts the fp16 loss scale: of a class of its own at stage 0."""
    optimizer = blocks.engine.optimizer
    return optimizer.loss_scale_config if blocks.stage == 0 else optimizer.loss_scaler


def _loss_scaler_state(blocks: DeepSpeedBlocks) -> dict[str, float]:
    """What of it changes while training; nothing in other precisions."""
    if not blocks.skips_overflow:
        return {}
    names = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")
    return {name: value for name, value in vars(_loss_scaler(blocks)).items() if name in names}
