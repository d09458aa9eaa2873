"""The Pareto front: who is on it, and how table, report and answer say so."""

import io
import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from saying import says

from irtune.analysis.answer import answer_sweep
from irtune.analysis.pareto import pareto_front, pareto_plot
from irtune.analysis.report import render_report
from irtune.analysis.tables import trial_table, worded
from irtune.analysis.trials import TrialRow, chosen

Trial = Callable[..., TrialRow]
F1, FLOPS = "eval/f1_macro", "cost/step_flops"
MODES = {F1: "max", FLOPS: "min"}


@pytest.fixture
def rows(trial: Trial) -> list[TrialRow]:
    """Of five finished trials three are on the front: cheap, good, and the baseline between nothing and nobody."""

    def at(name: str, f1: float, flops: float, **replaced: object) -> TrialRow:
        named = {"trial_id": name, "name": name, "validation_score": f1, "objectives": {F1: f1, FLOPS: flops}}
        return trial(**{**named, **replaced})

    return [
        at("good", 0.8, 5e9),
        at("cheap", 0.5, 1e9),
        at("beaten", 0.5, 2e9),
        at("baseline", 0.9, 9e9, strategy="all"),
        at("infeasible", 0.95, 0.5e9, broken=("cost/peak_memory_bytes 9e+09 above 8e+09",)),
        at("stopped", 0.7, 0.1e9, status="pruned", test_score=None),
        at("failed", math.nan, math.nan, status="failed", validation_score=None),
    ]


def names(rows: list[TrialRow]) -> list[str]:
    return [row.name for row in rows]


def test_only_finished_and_feasible_trials_are_on_the_front_best_quality_first(rows: list[TrialRow]) -> None:
    assert names(pareto_front(rows, MODES)) == ["baseline", "good", "cheap"]
    assert names(pareto_front(rows, {FLOPS: "min", F1: "max"})) == ["cheap", "good", "baseline"]
    assert names(pareto_front(rows, {FLOPS: "max", F1: "max"})) == ["baseline"]
    assert pareto_front([], MODES) == []


def test_equal_trials_are_both_on_the_front(rows: list[TrialRow]) -> None:
    assert names(pareto_front([rows[0], rows[0]], MODES)) == ["good", "good"]


@given(st.lists(st.tuples(*[st.integers(0, 4)] * 3), max_size=12))
def test_nobody_beats_the_front_and_somebody_beats_everyone_else(points: list[tuple[int, int, int]]) -> None:
    modes = {"a": "max", "b": "min", "c": "min"}
    rows = [
        TrialRow(
            trial_id=str(index),
            name=str(index),
            strategy="top_k",
            status="finished",
            num_blocks=1,
            seed=0,
            reselect_every=0,
            objectives=dict(zip(modes, point, strict=True)),
        )
        for index, point in enumerate(points)
    ]

    def beats(one: TrialRow, other: TrialRow) -> bool:
        (a, b, c), (d, e, f) = one.objectives.values(), other.objectives.values()
        return a >= d and b <= e and c <= f and (a, b, c) != (d, e, f)

    front = pareto_front(rows, modes)
    for row in rows:
        assert any(beats(other, row) for other in rows) == (row not in front)


def test_the_table_marks_the_front_and_says_who_is_infeasible(rows: list[TrialRow]) -> None:
    table = trial_table(rows, front=pareto_front(rows, MODES))
    texts = {text.cells[0]: text for text in table.lines}
    assert {name: text.mark for name, text in texts.items()} == {
        "infeasible": "",
        "baseline": "*+=",
        "good": "+",
        "stopped": "",
        "cheap": "+",
        "beaten": "",
        "failed": "",
    }
    assert texts["infeasible"].cells[-1] == "infeasible"
    cost = [column.heading for column in table.columns].index("step flops")
    assert [texts[name].cells[cost] for name in ("good", "cheap", "failed")] == ["5.00G", "1.00G", "–"]
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(table.rich(80))
    shown = console.export_text()
    assert says(" ".join(shown.split()), "* best … eval/f1_macro", "+ … Pareto front", "= baseline")
    assert "…" not in shown
    assert "| + | good |" in table.markdown()


def test_an_infeasible_trial_is_never_the_best_and_an_infeasible_baseline_is_one(trial: Trial) -> None:
    broken = ("cost/peak_memory_bytes 9e+09 above 8e+09",)
    good, best = trial(num_wrong=80), trial(num_wrong=0, broken=broken)
    baseline = trial("all", num_wrong=40, broken=broken)
    rows = [good, best, baseline]
    assert chosen(rows) is good
    assert chosen(rows, baseline=False) is good
    assert chosen(rows, baseline=True) is baseline
    answer = answer_sweep(rows)
    assert (answer.best, answer.selective, answer.baseline) == (good, good, baseline)
    (caveat,) = [caveat for caveat in answer.caveats if "infeasible" in caveat]
    assert says(
        caveat,
        "infeasible",
        "never the best",
        *(f"trial-{name} … cost/peak_memory_bytes 9e+09 … 8e+09" for name in ("top_k", "all")),
    )
    nothing = answer_sweep([best, baseline])
    assert nothing.best is None
    assert says(nothing.sentence, "No trial … constraints … 1 infeasible")


def test_the_answer_says_that_best_means_by_the_first_objective(rows: list[TrialRow]) -> None:
    (caveat,) = [caveat for caveat in answer_sweep(rows).caveats if "objectives" in caveat]
    assert says(caveat, "objectives", "the first … macro-F1", "cost/step_flops")
    assert "cost/step_flops is for you to weigh" in caveat


def test_the_figure_draws_the_front_as_what_was_reached(rows: list[TrialRow], tmp_path) -> None:
    (axes,) = pareto_plot(rows, MODES).axes
    (front,) = axes.lines
    assert front.get_xydata().tolist() == [[1e9, 0.5], [5e9, 0.8], [9e9, 0.9]]
    assert front.get_drawstyle() == "steps-post"
    shown = {points.get_label(): points.get_offsets().tolist() for points in axes.collections}
    assert shown["baseline: all blocks train"] == [[9e9, 0.9]]
    assert shown["infeasible"] == [[0.5e9, 0.95]]
    assert shown["did not finish: as last measured"] == [[0.1e9, 0.7]]
    assert shown["finished"] == [[2e9, 0.5]]
    pareto_plot([], MODES).savefig(tmp_path / "empty.png")
    three = pareto_plot(rows, {**MODES, "cost/train_s": "min"})
    assert [axes.get_xlabel() for axes in three.axes] == ["cost/step_flops (min)", "cost/train_s (min)"]


def test_the_report_shows_the_front(rows: list[TrialRow]) -> None:
    answer = answer_sweep(rows)
    page = render_report(
        title="Sweep",
        answer=answer,
        rows=rows,
        figures={"pareto": b"png"},
        front=pareto_front(rows, MODES),
        best_yaml="name: x",
    )
    assert "What quality costs: the Pareto front" in page
    assert page.count('<span class="tag">front</span>') == 3
    assert "Configuration of the best trial, by eval/f1_macro" in page
    without = render_report(title="Sweep", answer=answer, rows=[])
    assert "Pareto" not in without.replace(" ".join(answer.caveats), "").split("<h2>Trials")[1]


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        ("eval/f1_macro", 0.5678, "0.568"),
        ("cost/total_flops", 5.61e16, "56.1P"),
        ("cost/step_s", 0.25, "0.250s"),
        ("cost/peak_memory_bytes", 2**30 * 1.5, "1.50GiB"),
        ("cost/trainable_parameters", 1234567.0, "1.235e+06"),
    ],
)
def test_values_in_the_unit_that_a_name_tells(metric: str, value: float, text: str) -> None:
    assert worded(metric, value) == text
