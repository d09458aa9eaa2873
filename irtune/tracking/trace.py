"""A trial's layer trace as arrays: which blocks trained when, and how every block scored."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from irtune.training.record import Record, RecordReader


def read_trace(folder: Path) -> dict[str, np.ndarray]:
    """The trace of a trial over all attempts; what a later attempt did again counts once, as done last.

    Args:
        folder: The trial's folder.

    Returns:
        R choices over L blocks, in the order of their steps:

        - ``step`` ``(R,)`` int; the optimizer step from which a choice held.
        - ``active`` ``(R, L)`` bool; the blocks that trained.
        - ``scores`` ``(R, L)`` float; NaN = never measured.
        - ``measured_at`` ``(R, L)`` int; the step of each score's latest measurement, -1 = never.
        - ``trainable_parameters`` ``(R,)`` int.
        - ``lowest_active`` ``(R,)`` int; the block down to which the backward pass ran.

    Raises:
        ValueError: Two records speak of different numbers of blocks.
    """
    kept: list[Record] = []
    # A worker that was cut off may write on between the lines of the attempt after it.
    for record in sorted(RecordReader(folder), key=lambda record: record["attempt"]):
        if record["kind"] not in ("selection", "resumed"):
            continue
        # An attempt that starts over says nothing of a checkpoint: its own choices show how far back it went.
        while kept and kept[-1]["attempt"] != record["attempt"] and kept[-1]["step"] >= record["step"]:
            kept.pop()
        if record["kind"] == "selection":
            kept.append(record)
    return _to_arrays(kept, folder)


def _to_arrays(records: Sequence[Record], folder: Path) -> dict[str, np.ndarray]:
    sizes = sorted({len(record["scores"]) for record in records})
    if len(sizes) > 1:
        raise ValueError(
            f"{folder}: the attempts recorded different numbers of blocks {sizes}, so the model changed between "
            "them; give the changed trial a folder of its own"
        )
    shape = (len(records), sizes[0] if sizes else 0)
    active = np.zeros(shape, dtype=bool)
    for row, record in zip(active, records, strict=True):
        row[record["active"]] = True
    columns: dict[str, np.ndarray] = {
        name: np.array([record[name] for record in records], dtype=np.int64)
        for name in ("step", "measured_at", "trainable_parameters", "lowest_active")
    }
    scores = np.array([record["scores"] for record in records], dtype=np.float64).reshape(shape)
    columns |= {"active": active, "scores": scores, "measured_at": columns["measured_at"].reshape(shape)}
    return columns
