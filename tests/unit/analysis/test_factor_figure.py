"""Quality against a factor: the knee, the axes, and the front of quality against cost."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest
from saying import says

from irtune.analysis.ablation.cell_results import Cell, CellResult, results_of
from irtune.analysis.ablation.factor_figure import TRAINING_SIZE, factor_caption, factor_plot, knees_of
from irtune.analysis.ablation.knee import K
from irtune.analysis.ablation.trade_off_figure import front_of, trade_off_plot
from irtune.analysis.metrics import Metric
from irtune.analysis.trials import TrialRow

Trial = Callable[..., TrialRow]
SPREAD = (-0.004, -0.002, 0.0, 0.002, 0.004)
OTHER = (0.001, -0.001, 0.002, -0.002, 0.0)


def results(
    trial: Trial, means: Mapping[object, float], corpora: Sequence[str | None] = (None,), **more: object
) -> list[CellResult]:
    """A method at each k, and a baseline, whose key is "all", that trains twelve blocks."""
    cells = [
        Cell(
            f"{level} @ {corpus}" if corpus else f"{level}",
            "full" if level == "all" else "few",
            {},
            {} if level == "all" else {K: level},
            corpus,
            level == "all",
        )
        for corpus in corpora
        for level in means
    ]
    rows = [
        trial(
            "all" if cell.is_baseline else "top_k",
            trial_id=f"{cell.name}_{seed}",
            repeats=cell.name,
            seed=seed,
            k=cell.levels.get(K),
            mean_active=float(cell.levels.get(K, 12)),  # type: ignore[arg-type]
            flops=1e12 * (10 + float(cell.levels.get(K, 12))),  # type: ignore[arg-type]
            test_score=means[cell.levels.get(K, "all")] + (SPREAD if cell.is_baseline else OTHER)[seed],
            **more,
        )
        for cell in cells
        for seed in range(5)
    ]
    return results_of(cells, rows)


def knee(found: list[CellResult], margin: float | None) -> object:
    (one,) = knees_of(found, margin).values()
    return None if one is None else one.cell.levels[K]


RISING = {"all": 0.601, 8: 0.6, 1: 0.4, 4: 0.595, 2: 0.5}


def test_the_knee_is_the_smallest_k_within_the_margin_of_the_best(trial: Trial) -> None:
    found = results(trial, RISING)
    # The differences to `all` spread by less than .004 either way.
    assert knee(found, 0.02) == 4
    assert knee(found, 0.15) == 2
    assert knee(found, 0.5) == 1
    assert knee(found, 0.0045) is None, "8 is .001 worse, and seeds leave .006 open"
    assert says(factor_caption(found, K, 0.02), "0.02", "95 %", "few: k = 4")
    assert says(factor_caption(found, K, 0.0045), "no knee")
    assert factor_caption(found, TRAINING_SIZE, 0.02) == ""


def test_without_a_margin_one_standard_error_decides(trial: Trial) -> None:
    # The standard error of the best, the baseline, is sd(SPREAD) / sqrt(5) = .0014.
    assert np.std(SPREAD, ddof=1) / np.sqrt(5) == pytest.approx(0.00141, abs=1e-5)
    assert knee(results(trial, RISING), None) == 8
    assert knee(results(trial, RISING | {8: 0.599}), None) is None
    assert says(factor_caption(results(trial, RISING), K, None), "one standard error", "k = 8")


def test_where_quality_still_grows_at_the_end_there_is_no_knee(trial: Trial) -> None:
    alone = {k: mean for k, mean in RISING.items() if k != "all"} | {8: 0.7}
    assert knee(results(trial, alone), 0.02) is None
    # More blocks than 8 are no better: it has stopped.
    assert knee(results(trial, alone | {"all": 0.65}), 0.02) == 8
    # At 12 the baseline has no more of them to show.
    assert knee(results(trial, alone | {12: 0.73, "all": 0.65}), 0.02) is None


def test_of_a_loss_less_is_better(trial: Trial) -> None:
    loss = {key: 1 - mean for key, mean in RISING.items()}
    metric = Metric.named("loss", ["a", "b", "c", "d"])
    assert knee(results(trial, loss, metric=metric, test_predictions=None), 0.02) == 4


def test_the_knee_is_ringed_and_costs_stand_below(trial: Trial) -> None:
    figure = factor_plot(results(trial, RISING), K, 0.02)
    quality, cost = figure.axes
    (line,) = [each for each in quality.lines if each.get_label() == "few"]
    assert list(line.get_xdata()) == [1, 2, 4, 8]
    (ring,) = [each for each in quality.lines if each.get_markerfacecolor() == "none"]
    assert (ring.get_xdata()[0], ring.get_ydata()[0]) == (4, pytest.approx(0.595))
    assert list(cost.lines[0].get_ydata()) == pytest.approx([11 / 22, 12 / 22, 14 / 22, 18 / 22])
    unmarked = factor_plot(results(trial, RISING), K, 0.0045)
    assert not [each for each in unmarked.axes[0].lines if each.get_markerfacecolor() == "none"]


def test_sizes_of_the_training_set_stand_on_a_logarithmic_axis_and_costs_that_stay_are_left_out(trial: Trial) -> None:
    cells = [
        Cell(f"{arm} {size}", arm, {}, {TRAINING_SIZE: size}, None, arm == "full")
        for arm in ("full", "few")
        for size in (1000, 500, 250)
    ]
    rows = [
        trial(trial_id=f"{c.name}{s}", repeats=c.name, seed=s, test_score=0.5 + s / 100) for c in cells for s in (0, 1)
    ]
    figure = factor_plot(results_of(cells, rows), TRAINING_SIZE)
    (axes,) = figure.axes
    assert axes.get_xscale() == "log"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1000", "500", "250"]
    assert list(axes.lines[0].get_xdata()) == [250, 500, 1000]


def test_each_corpus_has_a_panel_and_a_front_of_its_own(trial: Trial) -> None:
    found = results(trial, RISING, corpora=("essays", "wiki"))
    assert [axes.get_title() for axes in factor_plot(found, K).axes[:2]] == ["essays", "wiki"]
    for axes, corpus in zip(trade_off_plot(found).axes, ("essays", "wiki"), strict=True):
        of_corpus = [one for one in found if one.cell.corpus == corpus]
        # Every k is cheaper and worse than the next.
        assert [one.cell.levels.get(K) for one in front_of(of_corpus)] == [1, 2, 4, 8, None]
        (line,) = [each for each in axes.lines if each.get_label() == "Pareto front"]
        assert list(line.get_ydata()) == pytest.approx([0.4, 0.5, 0.595, 0.6, 0.601, 0.601])


def test_what_is_worse_and_dearer_is_not_on_the_front(trial: Trial) -> None:
    found = results(trial, {"all": 0.55, 1: 0.4, 2: 0.6, 4: 0.5})
    assert [one.cell.name for one in front_of(found)] == ["1", "2"]
