"""Learning curves as trials record them, and when cells reach what their baseline does."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from irtune.analysis.ablation.cell_results import Cell, results_of
from irtune.analysis.ablation.learning_curve import Curve, curve_of
from irtune.analysis.ablation.steps_to_target import Arrival, arrival_frame, arrival_table, arrivals_of
from irtune.analysis.metrics import Metric
from irtune.analysis.trials import TrialRow

Trial = Callable[..., TrialRow]
METRIC = "eval/f1_macro"
CELLS = (Cell("full", "full", is_baseline=True), Cell("few", "few"), Cell("slow", "slow"))
STEPS = (10, 20, 30)
SCORES = {
    "full_0": (0.2, 0.5, 0.6),
    "full_1": (0.3, 0.55, 0.5),
    "few_0": (0.55, 0.4, 0.7),
    "few_1": (0.1, 0.2, 0.55),
    "slow_0": (0.1, 0.2, 0.3),
    "slow_1": (0.1, 0.2, 0.56),
}


def line(step: int, attempt: int = 0, **values: float) -> dict[str, Any]:
    return {
        "kind": "metrics",
        "attempt": attempt,
        "step": step,
        "values": {k.replace("__", "/"): v for k, v in values.items()},
    }


def rows_of(trial: Trial, **replaced: Any) -> list[TrialRow]:
    return [
        trial(trial_id=f"{cell.name}_{seed}", repeats=cell.name, seed=seed, **replaced)
        for cell in CELLS
        for seed in (0, 1)
    ]


def curves_of(scores: Mapping[str, tuple[float, ...]]) -> dict[str, Curve]:
    return {
        name: Curve(STEPS, values, tuple(100.0 * s for s in STEPS), tuple(2.0 * s for s in STEPS))
        for name, values in scores.items()
    }


def test_a_curve_sums_up_what_steps_cost() -> None:
    records = [
        line(1, cost__step_flops=10.0, cost__step_s=1.0),
        line(2, cost__step_flops=30.0, cost__step_s=2.0),
        line(2, eval__f1_macro=0.4),
        line(3, cost__step_flops=20.0, cost__step_s=3.0),
        line(3, eval__f1_macro=0.5),
        line(0, cost__total_flops=60.0, cost__train_s=6.0),
    ]
    found = curve_of(records, METRIC)
    assert (list(found.steps), list(found.scores)) == ([2, 3], [0.4, 0.5])
    assert (list(found.flops), list(found.seconds)) == ([40.0, 60.0], [3.0, 6.0])


def test_steps_that_were_not_recorded_are_like_the_next_and_come_to_the_whole() -> None:
    records = [line(10, cost__step_flops=1.0), line(20, cost__step_flops=3.0), line(15, eval__f1_macro=0.1)]
    assert curve_of(records, METRIC).flops == [25.0]
    assert curve_of([*records, line(0, cost__total_flops=80.0)], METRIC).flops == [50.0]


def test_what_a_later_attempt_measured_again_counts() -> None:
    records = [line(5, eval__f1_macro=0.1), line(5, 1, eval__f1_macro=0.2), line(5, 0, eval__f1_macro=0.3)]
    found = curve_of(records, METRIC)
    assert (list(found.scores), list(found.flops)) == ([0.2], [])


def test_the_target_is_what_every_seed_of_the_baseline_reached(trial: Trial) -> None:
    full, few, slow = arrivals_of(results_of(CELLS, rows_of(trial)), curves_of(SCORES))
    # Of .6 and .55, the best of each seed, the lower.
    assert {one.target for one in (full, few, slow)} == {0.55}
    assert full.by_seed == {0: Arrival(30, 3000.0, 60.0), 1: Arrival(20, 2000.0, 40.0)}
    # A score that falls again was reached all the same.
    assert few.by_seed[0] == Arrival(10, 1000.0, 20.0)
    assert (few.num_reached, few.mean("step"), few.mean("flops"), few.mean("seconds")) == (2, 20.0, 2000.0, 40.0)
    assert slow.by_seed[0] == Arrival()
    assert (slow.num_reached, slow.mean("step")) == (1, 30.0)


def test_the_table_brackets_a_mean_that_lacks_seeds(trial: Trial) -> None:
    arrivals = arrivals_of(results_of(CELLS, rows_of(trial)), curves_of(SCORES))
    table = arrival_table(arrivals)
    assert table is not None
    assert table.lines[1].cells == ("few", "0.550", "2 of 2", "20", "2000", "40s", "10, 30")
    assert table.lines[2].cells == ("slow", "0.550", "1 of 2", "(30)", "(3000)", "(1m00s)", "–, 30")
    frame = arrival_frame(arrivals)
    assert frame["step"].isna().tolist() == [False] * 4 + [True, False]
    assert arrival_table(arrivals_of(results_of(CELLS, rows_of(trial)), {})) is None


def test_of_a_loss_less_is_reached_later(trial: Trial) -> None:
    losses = {name: tuple(1 - value for value in values) for name, values in SCORES.items()}
    rows = rows_of(trial, metric=Metric.named("loss", ["a", "b", "c", "d"]), test_predictions=None)
    full, few, _ = arrivals_of(results_of(CELLS, rows), curves_of(losses))
    assert full.target == pytest.approx(0.45)
    assert few.by_seed[0].step == 10


def test_targets_are_those_of_a_cells_own_corpus_and_levels(trial: Trial) -> None:
    size = "data.max_train"
    cells = [
        Cell(f"{arm} {n} @ {c}", arm, {}, {size: n}, c, arm == "full")
        for c in "ab"
        for n in (9, 5)
        for arm in ("full", "few")
    ]
    rows = [trial(trial_id=cell.name, repeats=cell.name, seed=0) for cell in cells]
    curves = {cell.name: Curve([1], [index / 10]) for index, cell in enumerate(cells)}
    found = {one.cell.name: one.target for one in arrivals_of(results_of(cells, rows), curves)}
    assert found["few 5 @ b"] == found["full 5 @ b"] == 0.6
    assert found["few 9 @ a"] == 0.0
