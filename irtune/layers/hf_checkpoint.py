"""The plug-in's part of a Trainer's checkpoint: what a resumed run needs to go on as if it had not stopped."""

from collections.abc import Mapping
from typing import Any

from irtune.importance import Importance
from irtune.layers.controller import LayerController
from irtune.layers.selection_record import MemoryTrace, SelectionRecord


def progress_of(controller: LayerController, trace: MemoryTrace) -> dict[str, Any]:
    """The controller's state, its blocks and its trace, JSON-able."""
    return {
        "controller": controller.state_dict(),
        "blocks": list(controller.indices),
        "trace": [
            {
                "step": record.step,
                "active": list(record.active),
                "importance": record.importance.to_json(),
                "trainable_parameters": record.trainable_parameters,
            }
            for record in trace.records
        ],
    }


def go_on(controller: LayerController, trace: MemoryTrace, saved: Mapping[str, Any], *, name: str) -> None:
    """Put a controller and its trace back to where a checkpoint was written.

    Args:
        controller: Of the run that goes on.
        trace: Its trace; on rank 0 it gets the records of before.
        saved: As ``progress_of`` returned it.
        name: Of the callback, for messages.

    Raises:
        ValueError: Other blocks were trainable when it was written.
    """
    num_blocks, now = len(saved["controller"]["importance"]["scores"]), list(controller.indices)
    if num_blocks != len(controller.all_blocks):
        raise ValueError(
            f"{name}: the checkpoint is of a model of {num_blocks} trainable blocks, this one has "
            f"{len(controller.all_blocks)}"
        )
    blocks = saved.get("blocks", list(range(num_blocks)))
    if blocks != now:
        raise ValueError(
            f"{name}: when the checkpoint was written blocks {blocks} were trainable, and now blocks {now} are; "
            "freeze the same ones"
        )
    controller.load_state_dict(saved["controller"])
    if controller.blocks.rank == 0:
        trace.records += [_record(values) for values in saved["trace"]]


def _record(values: Mapping[str, Any]) -> SelectionRecord:
    importance = Importance.from_json(values["importance"])
    return SelectionRecord(values["step"], tuple(values["active"]), importance, values["trainable_parameters"])
