"""Confusion matrices of a few cells side by side, summed over seeds."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from irtune.analysis.ablation.cell_results import CellResult
from irtune.analysis.ablation.claims import ClaimResult, usual_cell
from irtune.analysis.trials import metric_of

MOST_CELLS = 6
_ACROSS, _MOST_WRITTEN, _MOST_LETTERS = 3, 12, 18
_MARGIN, _WIDTH = 1.9, 15.2
"""Inches: beside all matrices, and of what a page shows whole on a desktop."""


def confusion(one: CellResult, num_classes: int) -> NDArray[np.int_] | None:
    """Test examples by class ``(C, C)``, rows what is true, columns what was predicted, summed over seeds.

    Args:
        one: Of which cell.
        num_classes: C.

    Returns:
        None where a seed has no predictions, or nothing finished.
    """
    total = np.zeros((num_classes, num_classes), dtype=int)
    for row in one.rows:
        if row.test_labels is None or row.test_classes is None:
            return None
        np.add.at(total, (row.test_labels, row.test_classes), 1)
    return total if one.rows else None


def worth_a_look(results: Sequence[CellResult], claims: Sequence[ClaimResult]) -> list[CellResult]:
    """The few cells of one corpus whose mistakes are shown: the baseline, the best mean, and those of claims.

    Args:
        results: All cells of the corpus.
        claims: All of the study.

    Returns:
        ``MOST_CELLS`` at most, in the order of ``results``.
    """
    known = [one for one in results if one.test is not None]
    if not known:
        return []
    sign = 1 if metric_of([row for one in known for row in one.rows]).mode == "max" else -1
    named = [arm for claim in claims for arm in (claim.claimed.than, claim.claimed.better)]
    claimed = [usual_cell(known, arm, known[0].cell.corpus) for arm in named]
    best = max(known, key=lambda one: sign * one.test[0] if one.test else 0.0)
    baseline = next((one for one in known if one.cell.is_baseline), None)
    found = list(dict.fromkeys(one for one in (baseline, best, *claimed) if one is not None))[:MOST_CELLS]
    return [one for one in known if one in found]


def confusion_plot(results: Sequence[CellResult], class_names: Sequence[str]) -> Figure | None:
    """A matrix for each cell: of the examples of a class the share predicted to be of each, in percent.

    Args:
        results: Which cells; those without predictions are left out.
        class_names: ``(C,)``.

    Returns:
        None if none has predictions.
    """
    found = [(one, counts) for one in results if (counts := confusion(one, len(class_names))) is not None]
    if not found:
        return None
    size = 1.5 + 0.42 * len(class_names)
    down = math.ceil(len(found) / max(1, min(_ACROSS, int((_WIDTH - _MARGIN) / size))))
    across = math.ceil(len(found) / down)
    figure = Figure(figsize=(_MARGIN + size * across, 1.3 + (size + 0.3) * down), layout="constrained")
    panels = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    for axes in panels.flat[len(found) :]:
        axes.set_visible(False)
    names = [name if len(name) <= _MOST_LETTERS else f"{name[: _MOST_LETTERS - 1]}…" for name in class_names]
    for axes, (one, counts) in zip(panels.flat, found, strict=False):
        image = _draw(axes, counts)
        axes.set_title(_title(one), fontsize=10)
        axes.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor", fontsize=9)
        axes.set_yticks(range(len(names)), names, fontsize=9)
        # Of a last line that is not full the panels above have no labels of their own.
        axes.tick_params(labelbottom=True)
    figure.supxlabel("predicted", fontsize=10)
    figure.supylabel("true", fontsize=10)
    figure.colorbar(image, ax=panels, label="% of the examples of a class", shrink=0.8)
    return figure


def _draw(axes: Axes, counts: NDArray[np.int_]):  # type: ignore[no-untyped-def]
    of_class = counts.sum(axis=1, keepdims=True)
    percent = np.where(of_class > 0, 100 * counts / np.maximum(of_class, 1), np.nan)
    image = axes.imshow(percent, cmap="Blues", vmin=0.0, vmax=100.0)
    if len(counts) <= _MOST_WRITTEN:
        for (row, column), value in np.ndenumerate(percent):
            if np.isfinite(value):
                colour = "white" if value > 55 else "black"
                axes.text(column, row, f"{value:.0f}", ha="center", va="center", color=colour, fontsize=9)
    return image


def _title(one: CellResult) -> str:
    mark = "\n(baseline)" if one.cell.is_baseline else ""
    return f"{one.cell.configuration}{mark}"
