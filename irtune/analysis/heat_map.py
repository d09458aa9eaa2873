"""A layer trace as a picture, recorded or still in memory: how important each block was, and which blocks trained."""

import io
import math
import textwrap
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from numpy.typing import ArrayLike, NDArray

from irtune.analysis.live_plot import follow

_MAX_COLUMNS = 200
_SKEWED = 5.0
_NOT_MEASURED_COLOUR, _HATCH_COLOUR, _HATCH = "#d0d0d0", "#b4b4b4", "////"


class _ShownFigure(Figure):
    """A figure that a notebook shows, whether pyplot is there or not."""

    def _repr_png_(self) -> bytes:
        picture = io.BytesIO()
        self.savefig(picture, format="png", dpi=80)
        return picture.getvalue()


def trace_heat_map(
    scores: ArrayLike,
    active: ArrayLike,
    steps: ArrayLike,
    title: str,
    score_label: str = "importance (gradient norm)",
) -> Figure:
    """Importance of every block at every refresh, with the chosen blocks marked.

    Above 200 refreshes an even selection of them is drawn, and the axis says so; the side panel counts them all.

    Args:
        scores: Importance ``(R, L)``; NaN where a block was not measured.
        active: Whether a block trains until the next refresh ``(R, L)``.
        steps: Optimizer step of each refresh ``(R,)``.
        title: Title of the figure.
        score_label: What the colour means, with its unit.
    """
    importance, chosen, at_step = np.asarray(scores, float), np.asarray(active, bool), np.asarray(steps)
    num_refreshes, num_blocks = importance.shape
    shown = np.unique(np.linspace(0, num_refreshes - 1, min(num_refreshes, _MAX_COLUMNS)).round().astype(int))
    # Inches: a cell is as large as a page allows, for its mark to be seen; the rest is for axes, labels and bar.
    width = float(np.clip(0.16 * len(shown), 3.6, 12.0))
    height = float(np.clip(0.19 * num_blocks, 2.2, 11.0))
    figure = _ShownFigure(figsize=(width + 3.2, height + 1.9), layout="constrained")
    axes = figure.subplots(1, 3, width_ratios=[width, 1.0, 0.18])
    _draw_cells(figure, axes[0], axes[2], importance[shown], score_label)
    _mark_active(axes[0], chosen[shown], cell_width_pt=72 * width / len(shown), cell_height_pt=72 * height / num_blocks)
    _label_cells(axes[0], at_step[shown], num_refreshes, num_blocks)
    _draw_share(axes[1], chosen.mean(axis=0))
    figure.suptitle("\n".join(textwrap.wrap(title, int(9 * (width + 3.2)))), fontsize=12)
    _add_legend(figure, bool(np.isnan(importance[shown]).any()))
    return figure


@overload
def plot_trace(
    trace: Any,
    path: str | Path | None = None,
    *,
    title: str | None = None,
    score_label: str = "importance",
    live: Literal[False] = False,
) -> Figure: ...
@overload
def plot_trace(
    trace: Any,
    path: str | Path | None = None,
    *,
    title: str | None = None,
    score_label: str = "importance",
    live: Literal[True],
) -> None: ...
def plot_trace(
    trace: Any,
    path: str | Path | None = None,
    *,
    title: str | None = None,
    score_label: str = "importance",
    live: bool = False,
) -> Figure | None:
    """Importance of every block at every refresh, with the blocks that trained marked.

    Args:
        trace: A ``MemoryTrace``, or whatever has one: ``IRTuningCallback``, ``LayerController``.
        path: Where to write the figure as PNG.
        title: Title of the figure; by default how many blocks trained.
        score_label: What the colour means.
        live: Before training, of an ``IRTuningCallback``: draw it here, in a notebook, or at ``path``, and anew while
            training goes on, for at most a twentieth of its time.

    Returns:
        The figure; a notebook shows it. None with ``live``.

    Raises:
        ValueError: If nothing was recorded, as on a rank other than 0; with ``live`` if there is neither a notebook nor
            a path, or nothing to follow.
    """
    if live:
        follow(trace, path, lambda: plot_trace(trace, title=title, score_label=score_label))
        return None
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


def _colour_scale(values: NDArray[np.float64]) -> Normalize:
    """From the 1st to the 99th percentile, so that no outlier decides; logarithmic if the largest stand far out."""
    low, high = (float(limit) for limit in np.percentile(values, [1, 99], method="nearest"))
    if low == high:
        margin = abs(low) * 0.5 or 1.0
        return Normalize(low - margin, high + margin)
    if low < 0 or high <= _SKEWED * float(np.median(values)):
        return Normalize(low, high)
    smallest = float(np.percentile(values[values > 0], 1, method="nearest"))
    return LogNorm(max(smallest, 1e-6 * high), high) if smallest < high else Normalize(low, high)


def _draw_cells(figure: Figure, axes: Axes, bar: Axes, importance: NDArray[np.float64], score_label: str) -> None:
    axes.patch.set(facecolor=_NOT_MEASURED_COLOUR, edgecolor=_HATCH_COLOUR, hatch=_HATCH, linewidth=0)
    finite = importance[np.isfinite(importance)]
    if finite.size == 0:
        axes.set(xlim=(-0.5, importance.shape[0] - 0.5), ylim=(-0.5, importance.shape[1] - 0.5))
        bar.set_axis_off()
        return
    scale = _colour_scale(finite)
    # Clipped here, not by the scale: a logarithmic one would show a zero as if it had not been measured.
    clipped = np.clip(importance, scale.vmin, scale.vmax)
    cells = np.ma.masked_invalid(clipped.T)
    palette = colormaps["viridis"].with_extremes(bad=(0, 0, 0, 0))
    image = axes.imshow(cells, norm=scale, cmap=palette, origin="lower", aspect="auto", interpolation="nearest")
    beyond = (bool((importance < clipped).any()), bool((importance > clipped).any()))
    extend = {(True, True): "both", (True, False): "min", (False, True): "max"}.get(beyond, "neither")
    figure.colorbar(image, cax=bar, label=score_label, extend=extend, extendfrac=0.02)
    if isinstance(scale, LogNorm):
        lowest, highest = image.get_clim()
        several_decades = highest > 300 * lowest
        bar.yaxis.set_major_locator(LogLocator(subs=(1.0,) if several_decades else (1.0, 2.0, 5.0)))
        bar.yaxis.set_major_formatter("{x:g}")
        bar.yaxis.set_minor_formatter(NullFormatter())


def _mark_active(axes: Axes, chosen: NDArray[np.bool_], cell_width_pt: float, cell_height_pt: float) -> None:
    """A white dot with a black rim, told from any colour, as large as its cell allows."""
    width, height = (float(np.clip(0.55 * side, 2.0, 7.0)) for side in (cell_width_pt, cell_height_pt))
    marks = EllipseCollection(
        width,
        height,
        0,
        units="points",
        offsets=np.argwhere(chosen),
        offset_transform=axes.transData,
        facecolors="white",
        edgecolors="black",
        linewidths=0.15 * min(width, height),
        gid="active",
    )
    axes.add_collection(marks, autolim=False)


def _label_cells(axes: Axes, at_step: NDArray[np.int64], num_refreshes: int, num_blocks: int) -> None:
    num_shown = len(at_step)
    ticks = range(0, num_shown, math.ceil(num_shown / 12))
    axes.set_xticks(ticks, [str(at_step[tick]) for tick in ticks])
    axes.yaxis.set_major_locator(MaxNLocator(nbins=min(num_blocks, 16), integer=True))
    part = "" if num_shown == num_refreshes else f", {num_shown} of {num_refreshes} refreshes shown"
    axes.set(xlabel=f"optimizer step of the refresh{part}", ylabel="block (0 = next to the embeddings)")


def _draw_share(axes: Axes, share: NDArray[np.float64]) -> None:
    axes.barh(np.arange(len(share)), 100 * share, height=0.8, color="#666666")
    axes.set(
        xlim=(0, 100), ylim=(-0.5, len(share) - 0.5), xticks=[0, 50, 100], yticks=[], xlabel="% of refreshes\nactive"
    )
    axes.grid(axis="x", alpha=0.4)
    axes.set_axisbelow(True)


def _add_legend(figure: Figure, has_unmeasured: bool) -> None:
    mark = Line2D([], [], linestyle="none", marker="o", markersize=7, markerfacecolor="white", markeredgecolor="black")
    handles: dict[str, Line2D | Patch] = {"active: trains until the next refresh": mark}
    if has_unmeasured:
        handles["not measured"] = Patch(
            facecolor=_NOT_MEASURED_COLOUR, edgecolor=_HATCH_COLOUR, hatch=_HATCH, linewidth=0
        )
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=2, frameon=False)
