"""Finalists over seeds: numbers, answer, table and picture."""

import io
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from rich.console import Console
from saying import says

from irtune.analysis.answer import answer_sweep
from irtune.analysis.finalists_view import finalist_plot, finalist_table
from irtune.analysis.outcome import outcome_of
from irtune.analysis.over_seeds import Finalist, compare_finalists
from irtune.analysis.report import render_report
from irtune.analysis.trials import TrialRow

Trial = Callable[..., TrialRow]
SEEDS = (1, 2, 3)
WRONG = {
    # By trial and seed, of 400 test examples: the first trial is the better one on test, the second on validation.
    "first": {1: 80, 2: 100, 3: 120},
    "second": {1: 120, 2: 140, 3: 160},
    "baseline": {1: 100, 2: 120, 3: 140},
}
VALIDATION = {"first": 0.70, "second": 0.75, "baseline": 0.72}


@pytest.fixture
def rows(trial: Trial) -> list[TrialRow]:
    """A sweep of two selective trials and the baseline, each repeated on three seeds."""
    found = [
        trial(trial_id="first", name="top_k first", seed=0, num_wrong=20),
        trial(trial_id="second", name="top_k second", k=5, seed=0, num_wrong=40),
        trial("all", trial_id="baseline", name="all", seed=0, num_wrong=60),
    ]
    for searched in list(found):
        for seed in SEEDS:
            found.append(repeat(trial, searched, seed))
    return found


def repeat(trial: Trial, searched: TrialRow, seed: int, **replaced: Any) -> TrialRow:
    name = searched.trial_id
    values: dict[str, Any] = {
        "trial_id": f"finalist_{name}_seed_{seed}",
        "name": f"{searched.name} seed={seed}",
        "seed": seed,
        "repeats": name,
        "validation_score": VALIDATION[name],
        "seconds": (1000.0 if name == "baseline" else 500.0) + 100 * seed,
    }
    return trial(searched.strategy, WRONG[name][seed], **{**values, **replaced})


def by_name(finalists: tuple[Finalist, ...]) -> dict[str, Finalist]:
    return {one.mean.trial_id: one for one in finalists}


def lose(rows: list[TrialRow], *lost: str) -> list[TrialRow]:
    """The rows with some repeats failed."""
    failed = {"status": "failed", "test_score": None, "validation_score": None, "test_predictions": None}
    return [replace(row, **failed) if row.trial_id in lost else row for row in rows]


def test_means_and_deviation_are_over_the_seeds_and_not_the_search(rows: list[TrialRow]) -> None:
    first = by_name(compare_finalists(rows))["first"]
    # 80, 100 and 120 wrong of 400 are macro-F1 of 0.80, 0.75 and 0.70.
    assert first.mean.test_score == pytest.approx(0.75)
    assert first.deviation == pytest.approx(0.05)
    assert first.mean.validation_score == pytest.approx(0.70)
    assert (first.mean.seconds, first.mean.flops, first.mean.trainable_share) == pytest.approx((700, 2.5e15, 0.25))
    assert [row.seed for row in first.repeats] == [1, 2, 3]
    assert (first.mean.trial_id, first.mean.name) == ("first", "top_k first")


def test_the_difference_is_to_the_baseline_on_the_same_seeds(rows: list[TrialRow]) -> None:
    finalists = by_name(compare_finalists(rows))
    first, baseline = finalists["first"], finalists["baseline"]
    assert first.interval is not None
    # Each seed is 20 of 400 better than the baseline, exactly 0.05; so only the examples leave room.
    assert first.interval.difference == pytest.approx(0.05)
    assert 0 < first.interval.low < 0.05 < first.interval.high < 0.1
    assert first.baseline_mean is not None
    assert first.baseline_mean.test_score == pytest.approx(0.70)
    assert (baseline.interval, baseline.baseline_mean, baseline.baseline_repeats) == (None, None, ())


def test_the_best_on_validation_comes_first_and_wins_whatever_test_says(rows: list[TrialRow]) -> None:
    finalists = compare_finalists(rows)
    assert [one.mean.trial_id for one in finalists] == ["second", "baseline", "first"]
    assert outcome_of(rows).selective.trial_id == "second"
    as_loss = [replace(row, objective=1 - VALIDATION[row.repeats or row.trial_id]) for row in rows]
    assert [one.mean.trial_id for one in compare_finalists(as_loss, "min")] == ["second", "baseline", "first"]


def test_a_failure_costs_the_others_nothing(rows: list[TrialRow]) -> None:
    whole = by_name(compare_finalists(rows))
    finalists = by_name(compare_finalists(lose(rows, "finalist_first_seed_3")))
    assert [row.seed for row in finalists["first"].repeats] == [1, 2]
    # It and the baseline are compared on the seeds that both have: (0.80 + 0.75) / 2 against (0.75 + 0.70) / 2.
    assert finalists["first"].mean.test_score == pytest.approx(0.775)
    assert finalists["first"].baseline_mean is not None
    assert finalists["first"].baseline_mean.test_score == pytest.approx(0.725)
    assert finalists["second"].interval == whole["second"].interval
    assert len(finalists["baseline"].repeats) == 3


def test_a_seed_that_the_baseline_lacks_is_left_out_of_every_comparison(rows: list[TrialRow]) -> None:
    finalists = by_name(compare_finalists(lose(rows, "finalist_baseline_seed_2")))
    assert [[row.seed for row in one.repeats] for one in finalists.values()] == [[1, 3]] * 3
    assert [row.seed for row in finalists["second"].baseline_repeats] == [1, 3]


def test_a_finalist_with_a_single_seed_is_shown_but_not_judged(rows: list[TrialRow]) -> None:
    lost = lose(rows, "finalist_second_seed_1", "finalist_second_seed_2")
    second = by_name(compare_finalists(lost))["second"]
    assert (second.deviation, second.interval) == (None, None)
    assert second.mean.test_score == pytest.approx(0.60)
    assert outcome_of(lost).selective.trial_id == "first"


def test_without_predictions_or_on_other_examples_there_is_no_interval(rows: list[TrialRow]) -> None:
    for replaced in ({"test_predictions": None}, {"test_labels": np.zeros(400, dtype=int)}):
        changed = [
            replace(row, **replaced) if row.trial_id == "finalist_first_seed_2" else row  # type: ignore[arg-type]
            for row in rows
        ]
        finalists = by_name(compare_finalists(changed))
        assert finalists["first"].interval is None
        assert finalists["second"].interval is not None


def test_the_order_of_the_rows_is_irrelevant(rows: list[TrialRow]) -> None:
    forwards, backwards = compare_finalists(rows), compare_finalists(rows[::-1])
    assert [one.mean.trial_id for one in forwards] == [one.mean.trial_id for one in backwards]
    assert [one.interval for one in forwards] == [one.interval for one in backwards]


def test_the_answer_rests_on_the_finalists(rows: list[TrialRow]) -> None:
    answer = answer_sweep(rows, num_validation=300)
    # The search's own scores, 0.90 of the best trial, are not in it.
    assert says(
        answer.sentence,
        "worse than … 12",
        "macro-F1 0.650 … 0.700",
        "mean of 3 seeds",
        "-0.050",
        re.compile(r"95%[^\d+-]*-0\."),
    )
    assert answer.best is answer.selective
    assert answer.best is not None
    assert (answer.best.trial_id, answer.best.validation_score) == ("second", pytest.approx(0.75))
    # Seconds of the seeds: 600, 700, 800 against 1100, 1200, 1300.
    assert answer.saving("seconds") == pytest.approx(1 - 700 / 1200)
    text = "\n".join(answer.caveats)
    assert says(text, "seeds 1, 2 and 3", "none … search")
    assert "test examples chose nothing" in text
    assert "One seed per configuration" not in text
    assert says(text, "2 selective", "1 baseline", "finalists … picked … macro-F1 … 300 validation")
    assert "did not finish" not in text
    assert len(answer.finalists) == 3


def test_repeats_that_failed_are_told(rows: list[TrialRow]) -> None:
    text = "\n".join(answer_sweep(lose(rows, "finalist_first_seed_3")).caveats)
    assert says(text, "first … seed 3 failed")
    assert says(text, "seeds … both … baseline finished")
    assert "Trials that did not finish" not in text


def test_without_a_baseline_over_seeds_the_answer_rests_on_the_search(rows: list[TrialRow]) -> None:
    lost = lose(rows, *(f"finalist_baseline_seed_{seed}" for seed in SEEDS))
    answer = answer_sweep(lost)
    assert says(answer.sentence, "macro-F1 0.950 … 0.850", "+0.100")
    assert "One seed per configuration" in answer.caveats[0]
    assert [one.mean.trial_id for one in answer.finalists] == ["second", "first"]
    assert says("".join(answer.caveats), *(f"baseline … seed {seed} failed" for seed in SEEDS))


def test_the_table_says_it_in_numbers(rows: list[TrialRow]) -> None:
    table = finalist_table(compare_finalists(rows))
    best, baseline, _ = table.lines
    headings = [column.heading for column in table.columns]
    cells = dict(zip(headings, best.cells, strict=True))
    assert best.mark == "*"
    assert baseline.mark == "="
    assert (cells["trial"], cells["configuration"], cells["seeds"]) == ("second", "top_k second", "3")
    assert (cells["test F1"], cells["val F1"], cells["vs all"]) == ("0.650 ± 0.050", "0.750", "-0.050")
    assert cells["95% interval"].startswith("-0.0")
    assert (cells["time"], cells["FLOPs"], cells["param share"]) == ("11m40s", "2.50P", "25%")
    of_baseline = dict(zip(headings, baseline.cells, strict=True))
    assert (of_baseline["vs all"], of_baseline["95% interval"]) == ("–", "–")
    assert len(table.markdown().splitlines()) == 2 + 3


@pytest.mark.parametrize("width", [68, 80, 100, 160])
def test_the_table_fits_the_terminal(rows: list[TrialRow], width: int) -> None:
    console = Console(width=width, record=True, file=io.StringIO())
    named = [replace(row, trial_id="trial_0007") if row.trial_id == "first" else row for row in rows]
    named = [replace(row, repeats="trial_0007") if row.repeats == "first" else row for row in named]
    console.print(finalist_table(compare_finalists(named)).rich(width))
    text = console.export_text()
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    assert "…" not in text
    assert "trial_0007" in text
    assert "0.650 ± 0.050" in text


def dots(figure: Figure, panel: int) -> dict[int, list[float]]:
    """The values of the dots, by row."""
    found: dict[int, list[float]] = {}
    for line in figure.axes[panel].lines:
        if line.get_marker() == "o":
            (value,), (height,) = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
            found.setdefault(round(height), []).append(round(value, 6))
    return found


def test_the_picture_has_a_dot_for_every_repeat_and_every_difference(rows: list[TrialRow]) -> None:
    figure = finalist_plot(compare_finalists(rows))
    # From above to below: second, baseline, first.
    assert dots(figure, 0) == {0: [0.7, 0.65, 0.6], 1: [0.75, 0.7, 0.65], 2: [0.8, 0.75, 0.7]}
    assert dots(figure, 1) == {0: [-0.05] * 3, 2: [0.05] * 3}
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == [
        "second\ntop_k second",
        "baseline\nall",
        "first\ntop_k first",
    ]


def test_the_report_shows_finalists_where_there_are_any(rows: list[TrialRow]) -> None:
    searched = [row for row in rows if row.repeats is None]
    page = render_report(title="t", answer=answer_sweep(rows), rows=searched, figures={"finalists": b"dots"})
    assert "Finalists, repeated over seeds" in page
    assert "0.650 ± 0.050" in page
    assert "Finalists" not in render_report(title="t", answer=answer_sweep(searched), rows=searched)
