"""The picture of a trace that is still in memory."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from irtune.analysis.heat_map import trace_heat_map


def plot_trace(
    trace: Any, path: str | Path | None = None, *, title: str | None = None, score_label: str = "importance"
) -> Figure:
    """Importance of every block at every refresh, with the blocks that trained marked.

    Args:
        trace: A ``MemoryTrace``, or whatever has one: ``IRTuningCallback``, ``LayerController``.
        path: Where to write the figure as PNG.
        title: Title of the figure; by default how many blocks trained.
        score_label: What the colour means.

    Returns:
        The figure; a notebook shows it.

    Raises:
        ValueError: If nothing was recorded, as on a rank other than 0.
    """
    kept = getattr(trace, "trace", trace)
    if not kept.records:
        raise ValueError("the trace is empty: records are kept on rank 0, from the first optimizer step on")
    active = kept.active()
    if title is None:
        title = f"{active.sum(axis=1).mean():.3g} of {active.shape[1]} blocks train at a time"
    figure = trace_heat_map(kept.scores(), active, [record.step for record in kept.records], title, score_label)
    if path is not None:
        figure.savefig(path, format="png", dpi=120)
    return figure
