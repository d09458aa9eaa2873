"""What seeds say of cells and claims: pairs, Holm, verdicts, and what is left out."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from saying import says

from irtune.analysis.ablation.cell_results import Cell, CellResult, baseline_of, results_of
from irtune.analysis.ablation.claims import Claimed, judge
from irtune.analysis.ablation.class_scores import per_class
from irtune.analysis.ablation.findings import findings_of
from irtune.analysis.ablation.learning_curve import Curve
from irtune.analysis.significance import sign_flip_p
from irtune.analysis.trials import TrialRow

Trial = Callable[..., TrialRow]
FULL, FEW, SAME = Cell("full", "full", is_baseline=True), Cell("few", "few"), Cell("same", "same")
WRONG = {"full": (100, 104, 96, 108, 92, 100), "few": (80, 88, 80, 88, 76, 80), "same": (100, 104, 96, 108, 92, 100)}


def rows_of(trial: Trial, wrong: dict[str, tuple[int, ...]], **replaced: Any) -> list[TrialRow]:
    return [
        trial(num_wrong=count, trial_id=f"{name}_{seed}", repeats=name, seed=seed, **replaced)
        for name, counts in wrong.items()
        for seed, count in enumerate(counts)
    ]


@pytest.fixture
def results(trial: Trial) -> list[CellResult]:
    return results_of([FULL, FEW, SAME], rows_of(trial, WRONG))


def test_a_cell_has_the_mean_of_its_seeds(results: list[CellResult]) -> None:
    full = results[0]
    scores = [1 - count / 400 for count in WRONG["full"]]
    assert full.test is not None
    assert full.test[0] == pytest.approx(np.mean(scores))
    assert full.test_deviation == pytest.approx(np.std(scores, ddof=1))
    assert full.scores == pytest.approx(dict(enumerate(scores)))
    assert full.against is None
    assert full.baseline is None


def test_differences_are_paired_by_seed_and_adjusted_over_all_cells(results: list[CellResult]) -> None:
    few = results[1]
    pairs = [(a - b) / 400 for a, b in zip(WRONG["full"], WRONG["few"], strict=True)]
    assert few.against is not None
    assert few.against.difference[0] == pytest.approx(np.mean(pairs))
    assert few.against.p == pytest.approx(sign_flip_p(pairs)) == pytest.approx(2 / 2**6)
    assert few.against.adjusted_p == pytest.approx(2 * few.against.p)
    assert few.against.verdict == "can't tell", "2 comparisons times .031 is above .05"


def test_one_configuration_under_two_names_differs_in_nothing(results: list[CellResult]) -> None:
    same = results[2]
    assert same.against is not None
    assert (same.against.difference[0], same.against.verdict) == (0.0, "can't tell")
    assert same.mcnemar == 1.0


def test_a_seed_that_failed_is_left_out_of_its_own_comparison_only(trial: Trial) -> None:
    rows = rows_of(trial, WRONG)
    failed = [replace(row, status="failed", test_score=None) if row.trial_id == "few_2" else row for row in rows]
    full, few, same = results_of([FULL, FEW, SAME], failed)
    assert few.against is not None
    assert same.against is not None
    assert (few.against.num_seeds, same.against.num_seeds, len(full.rows)) == (5, 6, 6)
    assert [row.trial_id for row in few.unfinished] == ["few_2"]


def test_where_less_is_better_a_negative_difference_is_better(trial: Trial) -> None:
    from irtune.analysis.metrics import Metric

    loss = Metric.named("loss", ["a", "b", "c", "d"])
    wrong = {"full": (100,) * 6, "few": (80,) * 6}
    rows = [
        replace(row, metric=loss, test_score=1 - (row.test_score or 0), test_predictions=None)
        for row in rows_of(trial, wrong)
    ]
    _, few = results_of([FULL, FEW], rows)
    assert few.against is not None
    assert few.against.difference[0] < 0
    assert few.against.verdict == "better"


def test_the_baseline_of_a_cell_is_on_its_corpus_and_at_its_levels() -> None:
    def cell(name: str, rank: int, corpus: str, **more: Any) -> Cell:
        return Cell(f"{name} r={rank} @ {corpus}", name, {}, {"adapter.r": rank, **more}, corpus, name == "full")

    cells = [cell(name, rank, corpus) for corpus in ("a", "b") for name in ("full", "few") for rank in (4, 8)]
    found = baseline_of(cell("few", 8, "b"), cells)
    assert found is not None
    assert found.name == "full r=8 @ b"
    only_few = cell("few", 4, "a", **{"selection.reselect_every": 5})
    assert getattr(baseline_of(only_few, cells), "name", None) == "full r=4 @ a"


CLAIM = Claimed("few", "full", 0.01)


@pytest.mark.parametrize(
    ("few", "margin", "state"),
    [
        ((80, 88, 80, 88, 76, 80), 0.01, "shown"),
        ((120, 128, 120, 128, 116, 120), 0.01, "refuted"),
        ((100, 105, 96, 107, 92, 100), 0.01, "equivalent"),
        ((80, 120, 80, 130, 76, 120), 0.01, "can't tell"),
        ((100, 105, 96, 107, 92, 100), None, "can't tell"),
    ],
)
def test_verdicts_of_a_claim(trial: Trial, few: tuple[int, ...], margin: float | None, state: str) -> None:
    results = results_of([FULL, FEW], rows_of(trial, {"full": WRONG["full"], "few": few}))
    (found,) = judge([Claimed("few", "full", margin)], results)
    assert found.state == state
    assert found.seeds == tuple(range(6))
    assert says(found.sentence, "few", "full", "6 seeds", "95%")


def test_a_claim_that_was_not_run_says_so(trial: Trial) -> None:
    results = results_of([FULL, FEW], rows_of(trial, {"full": WRONG["full"]}))
    (found,) = judge([CLAIM], results)
    assert found.state == "not run"
    assert says(found.sentence, "few", "full")


def test_claims_are_adjusted_among_themselves(trial: Trial) -> None:
    results = results_of([FULL, FEW, SAME], rows_of(trial, WRONG))
    alone = judge([Claimed("few", "full")], results)[0].comparison
    among = judge([Claimed("few", "full"), Claimed("same", "full")], results)[0].comparison
    assert alone is not None
    assert among is not None
    assert (alone.verdict, among.verdict) == ("better", "can't tell")
    assert among.adjusted_p == pytest.approx(2 * alone.adjusted_p)


def test_three_seeds_cannot_tell_and_that_is_said(trial: Trial) -> None:
    wrong = {name: counts[:3] for name, counts in WRONG.items()}
    found = findings_of([FULL, FEW, SAME], rows_of(trial, wrong), [], {}, {None: 4})
    assert says(found.answer, "3 seeds", "can't be told")
    assert says(" ".join(found.caveats), "3 paired seeds", "0.25")


def test_a_baseline_that_only_guesses_is_said_to_have_learnt_nothing(trial: Trial) -> None:
    wrong = {name: tuple(400 - 100 for _ in range(6)) for name in ("full", "few")}
    found = findings_of([FULL, FEW], rows_of(trial, wrong), [], {}, {None: 4})
    assert says(" ".join(found.caveats), "learnt", "0.250")
    learnt = findings_of([FULL, FEW], rows_of(trial, {k: WRONG[k] for k in ("full", "few")}), [], {}, {None: 4})
    assert "learnt" not in " ".join(learnt.caveats)


def test_corpora_on_which_nothing_was_learnt_are_named(trial: Trial) -> None:
    cells = [replace(cell, name=f"{cell.name} @ {corpus}", corpus=corpus) for corpus in "ab" for cell in (FULL, FEW)]
    wrong = {cell.name: (100, 104, 96) if cell.corpus == "a" else (300, 300, 300) for cell in cells}
    found = findings_of(cells, rows_of(trial, wrong), [], {}, {"a": 4, "b": 4})
    (caveat,) = [caveat for caveat in found.caveats if "learnt" in caveat]
    assert says(caveat, "on b", "0.250")
    # Each cell is compared with the baseline of its own corpus.
    assert "@ a" not in found.answer.partition("better than")[2].partition(";")[0]


def test_of_many_cells_a_sentence_names_a_few(trial: Trial) -> None:
    cells = [FULL, *(Cell(f"c{number}", f"c{number}") for number in range(9))]
    rows = [
        trial(num_wrong=100 + seed * 4, trial_id=f"{cell.name}{seed}", repeats=cell.name, seed=seed, status=status)
        for cell in cells
        for seed, status in enumerate(("finished", "finished", "failed"))
    ]
    (caveat,) = [one for one in findings_of(cells, rows, [], {}, {None: 4}).caveats if "not finish" in one]
    assert says(caveat, "c4 1 … 4 more")
    assert "c5" not in caveat


def test_cells_that_still_improve_at_the_end_are_named(trial: Trial) -> None:
    rows = rows_of(trial, {name: WRONG[name] for name in ("full", "few")})
    flat, rising = Curve([10, 20, 30, 40], [0.5, 0.7, 0.7, 0.7]), Curve([10, 20, 30, 40], [0.5, 0.6, 0.7, 0.8])
    curves = {row.trial_id: rising if row.repeats == "few" else flat for row in rows}
    found = findings_of([FULL, FEW], rows, [], curves, {None: 4})
    assert found.improving == ("few",)
    assert says(" ".join(found.caveats), "more steps", "few")


def test_scores_per_class_are_means_over_seeds(results: list[CellResult]) -> None:
    found = per_class(results, ["a", "b", "c", "d"])
    # A hundred of 400 wrong, evenly over four classes.
    assert [float(text) for text in found["full"]] == pytest.approx([0.75] * 4, abs=1e-3)
