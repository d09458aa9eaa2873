"""Confusion matrices: what they count, and of which cells they are shown."""

from collections.abc import Callable

import numpy as np
import pytest

from irtune.analysis.ablation.cell_results import Cell, CellResult, results_of
from irtune.analysis.ablation.claims import Claimed, judge
from irtune.analysis.ablation.class_scores import class_frame, per_class
from irtune.analysis.ablation.confusion import MOST_CELLS, confusion, confusion_plot, worth_a_look
from irtune.analysis.metrics import Metric
from irtune.analysis.trials import TrialRow

Trial = Callable[..., TrialRow]
NAMES = ["a", "b", "a class with a name that is very long", "never"]


def results(trial: Trial, num_cells: int = 1, **replaced: object) -> list[CellResult]:
    cells = [Cell(f"cell_{index}", f"cell_{index}", is_baseline=index == 0) for index in range(num_cells)]
    rows = [
        trial(trial_id=f"{cell.name}_{seed}", repeats=cell.name, seed=seed, test_score=0.1 * index, **replaced)
        for index, cell in enumerate(cells)
        for seed in (0, 1)
    ]
    return results_of(cells, rows)


LABELS = {"test_labels": np.array([0, 0, 0, 1, 1, 2]), "test_classes": np.array([0, 0, 1, 1, 2, 2])}
LOSS = {"metric": Metric.named("loss", NAMES), "test_predictions": np.full(6, 0.3)}
COUNTS = [[4, 2, 0, 0], [0, 2, 2, 0], [0, 0, 2, 0], [0, 0, 0, 0]]


def test_rows_are_what_is_true_and_seeds_are_summed_whatever_the_metric_reads(trial: Trial) -> None:
    (one,) = results(trial, **LABELS, **LOSS)
    counts = confusion(one, 4)
    assert counts is not None
    assert counts.tolist() == COUNTS
    assert per_class([one], ["a", "b", "c"])["cell_0"] == ["0.800", "0.500", "0.667"]
    frame = class_frame([one], {None: ["a", "b", "c"]})
    assert dict(zip(frame["class"], frame["f1"], strict=True)) == pytest.approx({"a": 0.8, "b": 0.5, "c": 2 / 3})


def test_a_cell_without_predictions_has_none(trial: Trial) -> None:
    (one,) = results(trial, test_classes=None)
    assert confusion(one, 4) is None
    assert confusion_plot([one], NAMES) is None


def test_the_picture_shows_shares_of_a_class_and_nothing_of_one_without_examples(trial: Trial) -> None:
    figure = confusion_plot(results(trial, 4, **LABELS, test_predictions=None), NAMES)
    assert figure is not None
    panels = [axes for axes in figure.axes if axes.images and axes.get_visible()]
    assert [axes.get_title() for axes in panels] == ["cell_0\n(baseline)", "cell_1", "cell_2", "cell_3"]
    shown = np.asarray(panels[0].images[0].get_array())
    assert shown[:3].sum(axis=1) == pytest.approx([100.0] * 3)
    assert shown[0, 1] == pytest.approx(100 / 3)
    assert np.ma.masked_invalid(shown[3]).count() == 0
    assert sorted({text.get_text() for text in panels[0].texts}) == ["0", "100", "33", "50", "67"]
    longest = max(len(label.get_text()) for label in panels[0].get_yticklabels())
    assert longest == 18


def test_matrices_of_many_classes_stand_below_each_other_where_a_page_is_too_narrow(trial: Trial) -> None:
    cells = [Cell(f"c{number}", f"c{number}") for number in range(4)]
    rows = [trial(trial_id=cell.name, repeats=cell.name, seed=0) for cell in cells]
    few, many = (confusion_plot(results_of(cells, rows), [str(index) for index in range(n)]) for n in (4, 9))
    assert few is not None
    assert many is not None
    # Four in two lines of two, never three and a lone one; nine classes no wider than a page.
    assert [figure.axes[0].get_subplotspec().get_gridspec().get_geometry() for figure in (few, many)] == [(2, 2)] * 2
    assert many.get_figwidth() <= 15.2


def test_shown_are_baseline_claims_and_the_best_alone(trial: Trial) -> None:
    found = results(trial, 12)
    claims = judge([Claimed("cell_3", "cell_0")], found)
    assert [one.cell.name for one in worth_a_look(found, claims)] == ["cell_0", "cell_3", "cell_11"]
    many = judge([Claimed(f"cell_{index}", "cell_0") for index in range(1, 11)], found)
    shown = [one.cell.name for one in worth_a_look(found, many)]
    assert len(shown) == MOST_CELLS
    assert {"cell_0", "cell_11"} <= set(shown)
