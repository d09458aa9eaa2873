from collections.abc import Callable

import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from irtune.analysis.response import response_curves
from irtune.analysis.trials import TrialRow

Trial = Callable[..., TrialRow]


def marks(axes: Axes) -> dict[str, Line2D]:
    return {str(line.get_gid()): line for line in axes.lines if line.get_gid()}


def place(line: Line2D) -> tuple[float, float]:
    return float(line.get_xdata()[0]), float(line.get_ydata()[0])  # type: ignore[index]


def levels(axes: Axes) -> dict[str, float]:
    return {text.get_text(): float(text.xy[1]) for text in axes.texts}  # type: ignore[attr-defined]


def legend(figure: Figure, index: int) -> list[str]:
    return [text.get_text() for text in figure.legends[index].get_texts()]


def test_points_stand_at_their_effective_k_score_and_relative_cost(trial: Trial) -> None:
    row = trial(trial_id="t", mean_active=4.2, validation_score=0.7, test_score=0.6, flops=1e15, seconds=300.0)
    figure = response_curves([trial("all", flops=4e15, seconds=400.0), row])
    quality, cost = figure.axes
    assert place(marks(quality)["t first"]) == pytest.approx((4.2, 0.7))
    assert place(marks(quality)["t second"]) == pytest.approx((4.2, 0.6))
    assert place(marks(cost)["t first"]) == pytest.approx((4.2, 0.25))
    assert place(marks(cost)["t second"]) == pytest.approx((4.2, 0.75))
    assert quality.get_ylabel() == "macro-F1"
    assert cost.get_ylabel() == "cost relative to all blocks"
    assert "effective k" in cost.get_xlabel()
    assert quality.get_xlim() == cost.get_xlim()


def test_the_baseline_is_a_labelled_line(trial: Trial) -> None:
    baseline = trial("all", validation_score=0.66, test_score=0.61)
    quality, cost = response_curves([baseline, trial("all", validation_score=0.5), trial()]).axes
    assert levels(quality) == {"all, validation": 0.66, "all, test": 0.61}
    assert levels(cost) == {"all": 1.0}


def test_a_pruned_trial_is_hollow_and_has_no_cost(trial: Trial) -> None:
    rows = [trial("all"), trial(trial_id="done"), trial(trial_id="cut", status="pruned", test_score=None)]
    figure = response_curves(rows)
    quality, cost = (marks(axes) for axes in figure.axes)
    assert to_hex(quality["cut first"].get_markerfacecolor()) == "#ffffff"
    assert quality["done first"].get_markerfacecolor() == quality["cut first"].get_color()
    assert set(cost) == {"id-all first", "id-all second", "done first", "done second"}
    assert "did not finish: last validation" in legend(figure, 1)
    assert len(legend(response_curves(rows[:2]), 1)) == 2


def test_each_strategy_has_a_look_and_a_place_of_its_own(trial: Trial) -> None:
    names = [f"strategy_{index}" for index in range(20)]
    figure = response_curves([trial(name, trial_id=name) for name in names])
    drawn = [marks(figure.axes[0])[f"{name} first"] for name in names]
    assert len({(line.get_color(), line.get_marker()) for line in drawn}) == 20
    columns = [place(line)[0] for line in drawn]
    assert len(set(columns)) == 20
    assert all(abs(column - 3) <= 0.25 for column in columns)
    assert set(legend(figure, 0)) == set(names)


def test_without_a_baseline_cost_is_relative_to_the_best(trial: Trial) -> None:
    rows = [trial(trial_id="best", validation_score=0.9, flops=2e15), trial(trial_id="other", flops=1e15)]
    quality, cost = response_curves(rows).axes
    assert cost.get_ylabel() == "cost relative to the best trial"
    assert place(marks(cost)["other first"])[1] == pytest.approx(0.5)
    assert not levels(quality)


def test_trials_without_measurements_are_left_out(trial: Trial) -> None:
    unmeasured = trial(status="failed", validation_score=None, mean_active=None)
    figure = response_curves([unmeasured])
    assert not marks(figure.axes[0])
    assert [text.get_text() for text in figure.axes[0].texts] == ["no trial was measured"]
