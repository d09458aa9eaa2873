"""The cells of a study as tables, figures and a page: what stands in them, and that files read back."""

import re
import string
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from latex import compiled, needs_latex
from rich.console import Console

from irtune.analysis.ablation.ablation_report import AblationReport, Picture, render_ablation
from irtune.analysis.ablation.best import best_shown
from irtune.analysis.ablation.cell_figures import cells_plot, curves_plot, selection_plot, told_apart
from irtune.analysis.ablation.cell_results import Cell, CellResult, results_of
from irtune.analysis.ablation.cell_tables import cell_table, latex, write_tables
from irtune.analysis.ablation.claims import Claimed
from irtune.analysis.ablation.cost_table import cost_table
from irtune.analysis.ablation.evidence_table import evidence_table
from irtune.analysis.ablation.factor_figure import TRAINING_SIZE, factor_plot
from irtune.analysis.ablation.findings import findings_of
from irtune.analysis.ablation.knee import K
from irtune.analysis.ablation.latex import bold, escaped, latex_table
from irtune.analysis.ablation.learning_curve import Curve
from irtune.analysis.ablation.stability import Choices, between_corpora, jaccard_of_chance, stability
from irtune.analysis.ablation.stability_tables import stability_frame, stability_tables
from irtune.analysis.ablation.trade_off_figure import trade_off_plot
from irtune.analysis.trials import TrialRow

Trial = Callable[..., TrialRow]
EVERY = "selection.reselect_every"
CELLS = (
    Cell("full", "full", is_baseline=True),
    Cell("few_50% reselect_every=20", "few_50%", {}, {EVERY: 20}),
    Cell("few_50% reselect_every=5", "few_50%", {}, {EVERY: 5}),
)
WRONG = ((100, 104, 96, 108, 92, 100), (60, 64, 56, 68, 52, 60), (80, 84, 76, 88, 72, 81))


@pytest.fixture
def rows(trial: Trial) -> list[TrialRow]:
    return [
        trial(
            "all" if cell.is_baseline else "top_k",
            num_wrong=count,
            trial_id=f"{cell.name}_{seed}",
            repeats=cell.name,
            seed=seed,
        )
        for cell, counts in zip(CELLS, WRONG, strict=True)
        for seed, count in enumerate(counts)
    ]


@pytest.fixture
def results(rows: list[TrialRow]) -> list[CellResult]:
    return results_of(CELLS, rows)


def choices(seed: int, last: tuple[int, ...] = (0, 1), num_blocks: int = 6) -> Choices:
    active = np.zeros((2, num_blocks), bool)
    active[0, :2] = True
    active[1, list(last)] = True
    scores = np.arange(2.0 * num_blocks).reshape(2, num_blocks)
    return Choices.of(seed, np.array([0, 10]), active, scores, 30)


def test_files_hold_every_number_unrounded(results: list[CellResult], tmp_path: Path) -> None:
    files = write_tables(results, tmp_path, "a study")
    assert sorted(file.name for file in files) == [
        "cells.csv",
        "cells.md",
        "cells.parquet",
        "cells.tex",
        "costs.md",
        "costs.tex",
        "trials.csv",
        "trials.parquet",
    ]
    read = pd.read_csv(tmp_path / "cells.csv")
    assert list(read["cell"]) == [cell.name for cell in CELLS]
    assert read["test_mean"].tolist() == pytest.approx([one.test[0] for one in results if one.test], abs=0)
    assert read["holm_p"].isna().tolist() == [True, False, False]
    pd.testing.assert_frame_equal(
        read["test_mean"].to_frame(), pd.read_parquet(tmp_path / "cells.parquet")[["test_mean"]]
    )
    trials = pd.read_parquet(tmp_path / "trials.parquet")
    assert (len(trials), set(trials["seed"])) == (18, set(range(6)))


def test_best_is_marked_only_where_seeds_show_it(results: list[CellResult], rows: list[TrialRow]) -> None:
    # Better than each of the other two on all six seeds: both p-values are 2/64.
    assert best_shown(results) == {CELLS[1].name}
    assert latex(results, "c").count("textbf") == 1
    assert [line.is_best for line in cell_table(results).lines] == [False, True, False]
    assert f"{1 - 60 / 400:.3f}" in next(
        line for line in cell_table(results).markdown().splitlines() if "reselect_every=20" in line
    )
    # Four seeds are too few, whatever they say.
    few = results_of(CELLS, [row for row in rows if row.seed < 4])
    assert best_shown(few) == set()
    assert "textbf" not in latex(few, "c")


def test_latex_escapes_what_names_hold_and_every_line_has_all_columns(results: list[CellResult]) -> None:
    text = latex(results, "50 % & more_or_less")
    assert r"few\_50\% reselect\_every=20" in text
    assert r"\caption{50 \% \& more\_or\_less" in text
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len({len(re.findall(r"(?<!\\)&", line)) for line in body}) == 1
    assert len(body) == 4


@needs_latex
def test_latex_compiles_whatever_names_hold(results: list[CellResult], tmp_path: Path) -> None:
    marks = f"{string.punctuation}±–↑↓→×≤≥«»éüßÅ“”’…"
    lines = [[escaped(f"{mark}a"), bold(escaped(f"b{mark}"))] for mark in marks]
    write_tables(results, tmp_path, f"a_b {marks}")
    tables = [(tmp_path / f"{name}.tex").read_text() for name in ("cells", "costs")]
    said = compiled("\n\n".join([*tables, latex_table([marks, "*["], lines, "lr", marks)]), tmp_path)
    assert "Missing character" not in said
    assert (tmp_path / "page.pdf").stat().st_size > 1000


def test_latex_says_where_pdflatex_lacks_a_character() -> None:
    assert latex_table(["método"], [["ß"]], "l", "é").startswith(r"% \usepackage{booktabs}")
    assert "lualatex" in latex_table(["λ"], [["日"]], "l", "c").splitlines()[0]


@pytest.mark.parametrize("width", [80, 100, 160])
def test_the_terminal_shows_all_cells_at_any_width(results: list[CellResult], width: int) -> None:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(cell_table(results, with_costs=True).rich(width))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= width
    assert "0.750" in "".join(lines)
    assert "0.850" in "".join(lines)


def test_chance_overlap_is_what_drawing_gives() -> None:
    generator = np.random.default_rng(0)
    drawn = []
    for _ in range(4000):
        a, b = (set(generator.choice(30, size, replace=False)) for size in (10, 6))
        drawn.append(len(a & b) / len(a | b))
    assert jaccard_of_chance(10, 6, 30) == pytest.approx(np.mean(drawn), abs=4 * np.std(drawn) / np.sqrt(len(drawn)))
    assert jaccard_of_chance(6, 6, 6) == 1.0


def test_agreement_of_equal_and_of_opposite_seeds() -> None:
    equal = stability([choices(0), choices(1)])
    assert equal is not None
    assert (equal.between_seeds.tau, equal.between_seeds.jaccard) == (pytest.approx(1.0), 1.0)
    apart = stability([choices(0), choices(1, last=(4, 5))])
    assert apart is not None
    assert apart.between_seeds.jaccard == 0.0
    # Ten of thirty steps with the first choice: frequency is by the steps for which a choice held.
    assert choices(0, last=(4, 5)).frequency.tolist() == pytest.approx([1 / 3, 1 / 3, 0, 0, 2 / 3, 2 / 3])
    assert stability([]) is None


def test_every_test_of_a_cell_is_on_the_page(results: list[CellResult]) -> None:
    table = evidence_table(results)
    assert table is not None
    first, _ = table.lines
    said = dict(zip([column.heading for column in table.columns], first.cells, strict=True))
    against = results[1].against
    assert against is not None
    assert (said["cell"], said["pairs"], said["sign-flip p"]) == (CELLS[1].name, "6", f"{2 / 64:.2g}")
    assert said["Wilcoxon p"] == f"{against.wilcoxon_p:.2g}"
    assert said["McNemar p"] == f"{results[1].mcnemar:.2g}"
    assert float(said["effect"]) == pytest.approx(against.effect, abs=0.005)
    assert evidence_table(results[:1]) is None


def test_corpora_agree_by_trials_of_different_seeds_alone() -> None:
    first, second = [choices(0, (0, 1)), choices(1, (4, 5))], [choices(0, (0, 1)), choices(1, (4, 5))]
    # With the same seed all agree, as if nothing depended on the data; with another seed nothing does.
    found = between_corpora(first, second)
    assert (found.num_pairs, found.jaccard) == (2, 0.0)
    # Two of six blocks: 2 common of 2 with probability 1/15, 1 of 3 with 8/15.
    assert found.jaccard_of_chance == pytest.approx(1 / 15 + 8 / 15 / 3)
    assert found.tau == pytest.approx(1.0)
    # One seed tells nothing.
    assert between_corpora(first[:1], second[:1]).jaccard is None


def test_agreement_between_every_two_corpora_stands_below_that_between_seeds(trial: Trial) -> None:
    cells = [Cell(f"few @ {corpus}", "few", {}, {}, corpus) for corpus in "xyz"]
    rows = [trial(trial_id=f"{cell.name}{seed}", repeats=cell.name, seed=seed) for cell in cells for seed in (0, 1)]
    held = {cell.name: [choices(0), choices(1)] for cell in cells}
    seeds, corpora = stability_tables(results_of(cells, rows), held)
    assert [line.cells[0] for line in seeds.lines] == [cell.name for cell in cells]
    assert [line.cells[:3] for line in corpora.lines] == [("few", f"{a} – {b}", "2") for a, b in ("xy", "xz", "yz")]
    frame = stability_frame(results_of(cells, rows), held)
    assert frame["between"].tolist() == ["seeds"] * 3 + ["corpora"] * 3
    assert frame["jaccard"].tolist() == [1.0] * 6
    of_one = stability_tables(results_of(cells[:1], rows), held)
    assert len(of_one) == 1


def test_costs_are_means_over_seeds_with_what_choosing_adds(trial: Trial) -> None:
    costs = {"step_s": 0.0421, "tokens_per_s": 1234.0, "refresh_flops_share": 0.031, "refresh_time_share": None}
    rows = [trial(repeats="few", seed=seed, **costs | {"step_s": 0.0421 + seed / 100}) for seed in (0, 1)]
    table = cost_table(results_of([Cell("few", "few")], rows))
    (line,) = table.lines
    said = dict(zip([column.heading for column in table.columns], line.cells, strict=True))
    assert said == {
        "cell": "few",
        "blocks": "3",
        "lowest block": "4.5",
        "param share": "25%",
        "FLOPs": "2.50P",
        "time": "11m40s",
        "step time": "47.1ms",
        "tokens/s": "1234",
        "peak GiB": "12.5",
        "refresh FLOPs": "+3.1%",
        "refresh time": "–",
    }


def test_figures_show_what_was_measured(results: list[CellResult], rows: list[TrialRow]) -> None:
    scores = cells_plot(results).axes[0]
    dots = [line for line in scores.lines if line.get_marker() == "o"]
    assert sorted(dots[0].get_xdata()) == pytest.approx(sorted(results[0].scores.values()))
    factor = factor_plot(results, EVERY).axes[0]
    (line,) = [line for line in factor.lines if line.get_label() == "few_50%"]
    assert dict(zip(line.get_xdata(), line.get_ydata(), strict=True)) == pytest.approx(
        {20: results[1].test[0], 5: results[2].test[0]}  # type: ignore[index]
    )
    curves = {row.trial_id: Curve([10, 20], [0.1, 0.2 + row.seed / 100]) for row in rows}
    lines = curves_plot(results, curves).axes[0].lines
    assert [line.get_label() for line in lines] == [cell.name for cell in CELLS]
    assert lines[0].get_ydata()[1] == pytest.approx(0.225)
    (front,) = [line for line in trade_off_plot(results).axes[0].lines if line.get_label() == "Pareto front"]
    assert set(front.get_ydata()) == {results[1].test[0]}  # type: ignore[index]
    image = selection_plot({"few": [choices(0)]}).axes[0].images[0]
    assert image.get_array().shape == (1, 6)


def test_of_many_cells_curves_are_of_the_first_levels(trial: Trial) -> None:
    cells = [Cell(f"few {every}", "few", {}, {EVERY: every}) for every in range(11)]
    rows = [trial(trial_id=cell.name, repeats=cell.name, seed=0) for cell in cells]
    assert [one.cell.name for one in told_apart(results_of(cells, rows))] == ["few 0"]
    assert len(told_apart(results_of(cells[:10], rows[:10]))) == 10


def page(results_rows: list[TrialRow], **replaced: Any) -> str:
    claims = [Claimed(CELLS[1].arm, "full", 0.01)]
    curves = {row.trial_id: Curve([10, 20], [0.1, 0.5], [1e9, 2e9], [1.0, 2.0]) for row in results_rows}
    given: Mapping[str, Any] = {
        "title": "Ablation <b>x</b>",
        "findings": findings_of(CELLS, results_rows, claims, curves, {None: 4}),
        "matched": "equal k (10)",
        "choices": {CELLS[1].name: [choices(0), choices(1)]},
        "figures": dict.fromkeys(("cells", "curves", "trade_off", "selection"), b"png"),
        "factors": {TRAINING_SIZE: Picture(b"png"), EVERY: Picture(b"png"), K: Picture(b"png", "the knee <here>")},
        "confusions": {None: b"png"},
        "class_names": {None: ["a", "b", "c", "d"]},
        "failures": ["trial <x>: failed"],
        "claims_record": {"recorded": "2026-11-27", "sha256": "abc123"},
        "data": {"data": "synthetic"},
        "tracking_command": "mlflow ui",
        "tracking_url": "javascript:alert(1)",
        "command": "irtune ablate x.yaml",
        "study_yaml": "name: x",
        "provenance": {"torch": "2"},
    }
    return render_ablation(AblationReport(**{**given, **replaced}))


def test_the_page_needs_nothing_else_and_escapes_what_it_is_given(rows: list[TrialRow]) -> None:
    text = page(rows)
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", text)
    assert "<b>x</b>" not in text
    assert "trial &lt;x&gt;: failed" in text
    for fact in (
        "shown",
        "equal k (10)",
        "abc123",
        "irtune ablate x.yaml",
        "Kendall",
        "0.850",
        "the knee &lt;here&gt;",
    ):
        assert fact in text, fact


@pytest.mark.parametrize("lost", [CELLS[:1], CELLS[1:2], CELLS[1:], CELLS], ids=["baseline", "one", "others", "all"])
def test_cells_of_which_nothing_finished_cost_no_table_and_no_figure(
    lost: tuple[Cell, ...], rows: list[TrialRow], tmp_path: Path
) -> None:
    names = [cell.name for cell in lost]
    measured = {"validation_score": None, "test_score": None, "flops": None, "seconds": None, "test_predictions": None}
    failed = [replace(row, status="failed", **measured) if row.repeats in names else row for row in rows]
    curves = {row.trial_id: Curve([10, 20], [0.4, 0.5]) for row in failed if row.status == "finished"}
    findings = findings_of(CELLS, failed, [Claimed("few_50%", "full", 0.01)], curves, {None: 4})
    assert {one.cell.name: len(one.unfinished) for one in findings.results if not one.rows} == dict.fromkeys(names, 6)
    write_tables(findings.results, tmp_path, "a study")
    assert len(pd.read_csv(tmp_path / "cells.csv")) == 3
    for figure in (cells_plot(findings.results), trade_off_plot(findings.results)):
        figure.savefig(tmp_path / "figure.png")
    curves_plot(findings.results, curves).savefig(tmp_path / "curves.png")
    if any(one.rows for one in findings.results[1:]):
        factor_plot(findings.results, EVERY).savefig(tmp_path / "factor.png")


def test_sections_stand_in_the_order_of_questions(rows: list[TrialRow]) -> None:
    headings = re.findall(r"<h[23]>(.*?)</h[23]>", page(rows))
    asked = [
        "claimed",
        f"against {K}",
        f"against {EVERY}",
        "Cells over seeds",
        "seeds and examples",
        "What cells cost",
        "Learning curves",
        "Steps to a target",
        "training set",
        "Which blocks",
        "Pareto",
        "per class",
        "taken for which",
        "not finish",
        "The data",
        "repeat",
    ]
    places = [next(index for index, heading in enumerate(headings) if words in heading) for words in asked]
    assert places == sorted(places)


def test_the_page_of_several_corpora_has_a_table_of_methods(trial: Trial) -> None:
    cells = [
        Cell(f"{arm} @ {corpus}", arm, {}, {}, corpus, arm == "full")
        for corpus in ("x", "y")
        for arm in ("full", "few")
    ]
    rows = [trial(trial_id=f"{cell.name}{seed}", repeats=cell.name, seed=seed) for cell in cells for seed in (0, 1)]
    names = ["a", "b", "c", "d"]
    text = page(
        rows,
        findings=findings_of(cells, rows, [], {}, {"x": 4, "y": 4}),
        class_names={"x": names, "y": [f"{n}2" for n in names]},
    )
    assert "Methods on each corpus" in text
    assert "d2</th>" in text
    assert "Methods on each corpus" not in page([])
