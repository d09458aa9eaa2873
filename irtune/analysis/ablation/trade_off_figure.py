"""Quality against what it costs: every cell, and the Pareto front of each corpus."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from irtune.analysis.ablation.cell_results import CellResult
from irtune.analysis.ablation.looks import cell_looks, corpora_of, draw_grid, draw_legend, score_words
from irtune.analysis.palette import Look
from irtune.analysis.trials import metric_of


def front_of(results: Sequence[CellResult]) -> list[CellResult]:
    """The cells than which no other is both better on test and cheaper in FLOPs, the cheapest first.

    Args:
        results: Cells on one corpus; those without a score or a cost are left out.
    """
    sign = 1 if metric_of([row for one in results for row in one.rows]).mode == "max" else -1
    known = [(flops, -sign * one.test[0], one) for one in results if one.test and (flops := one.mean("flops"))]
    best, front = np.inf, []
    for _, loss, one in sorted(known, key=lambda each: each[:2]):
        if loss < best:
            best = loss
            front.append(one)
    return front


def trade_off_plot(results: Sequence[CellResult]) -> Figure:
    """Test score against training FLOPs, a cell a mark with its interval; the Pareto front is a line.

    Args:
        results: All cells; each corpus has a panel.
    """
    corpora, looks = corpora_of(results), cell_looks(results)
    width = 8.5 if len(corpora) == 1 else 1.5 + 5.0 * len(corpora)
    figure = Figure(figsize=(width, 5.6), layout="constrained")
    for axes, corpus in zip(figure.subplots(1, len(corpora), squeeze=False)[0], corpora, strict=True):
        axes.set_title("" if corpus is None else corpus, fontsize=10)
        _draw(axes, [one for one in results if one.cell.corpus == corpus], looks)
    figure.axes[0].set_ylabel(f"{score_words(results)} on test (95% t interval over seeds)")
    draw_legend(figure)
    return figure


def _draw(axes: Axes, results: Sequence[CellResult], looks: dict[str, Look]) -> None:
    front = [(one.mean("flops") or 0.0, one.test[0]) for one in front_of(results) if one.test]
    for one in results:
        flops, look = one.mean("flops"), looks[one.cell.configuration]
        if flops is None or one.test is None:
            continue
        mean, low, high = one.test
        if np.isfinite(low):
            axes.plot([flops, flops], [low, high], color=look.colour, linewidth=1.5, alpha=0.6)
        name = one.cell.configuration
        axes.plot(flops, mean, look.marker, color=look.colour, markersize=8, label=name, linestyle="none")
    axes.set_xlim(0, None)
    if front:
        # Between two cells of the front, and right of the last, nothing better was reached than the cheaper one has.
        x, y = zip(*[*front, (axes.get_xlim()[1], front[-1][1])], strict=True)
        axes.step(x, y, where="post", color="#9A9A9A", linewidth=1.4, zorder=0, label="Pareto front")
        axes.set_xlim(0, x[-1])
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(EngFormatter())
    axes.set_xlabel("FLOPs of training")
    draw_grid(axes, "y")
