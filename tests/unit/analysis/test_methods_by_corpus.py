"""Which cell is the best of a corpus, and methods against corpora."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd
import pytest
from latex import compiled, needs_latex
from saying import says

from irtune.analysis.ablation.best import best_shown, leads_of
from irtune.analysis.ablation.cell_results import Cell, CellResult, results_of
from irtune.analysis.ablation.methods_by_corpus import methods_by_corpus
from irtune.analysis.trials import TrialRow

Trial = Callable[..., TrialRow]
METHODS = ("full", "few", "a_b")
SIX = (0, 4, -4, 8, -8, 12)


def results(trial: Trial, means: Mapping[str, Sequence[int]], spread: Sequence[int] = SIX) -> list[CellResult]:
    """Wrong predictions of each method, by corpus; on every seed they differ by the same number."""
    cells = [Cell(f"{name} @ {corpus}", name, {}, {}, corpus, name == "full") for corpus in means for name in METHODS]
    rows = [
        trial(num_wrong=wrong + more, trial_id=f"{cell.name}{seed}", repeats=cell.name, seed=seed)
        for cell, wrong in zip(cells, [each for of_corpus in means.values() for each in of_corpus], strict=True)
        for seed, more in enumerate(spread)
    ]
    return results_of(cells, rows)


def test_the_best_is_better_than_every_other(trial: Trial) -> None:
    one = leads_of(results(trial, {"essays": (100, 60, 80)}))
    # Six seeds of one sign: 2 / 2**6, against both.
    assert (one["essays"].cell, one["essays"].p, one["essays"].is_shown) == ("few @ essays", 2 / 64, True)
    two = leads_of(results(trial, {"essays": (100, 60, 80), "wiki": (40, 60, 80)}))
    assert (two["wiki"].cell, two["wiki"].adjusted_p) == ("full @ wiki", 4 / 64)
    assert not two["essays"].is_shown, "of two corpora six seeds show nothing"
    eight = results(trial, {"essays": (100, 60, 80), "wiki": (40, 60, 80)}, (*SIX, 0, 4))
    assert best_shown(eight) == {"few @ essays", "full @ wiki"}


def test_one_that_equals_another_is_not_the_best_though_better_than_the_baseline(trial: Trial) -> None:
    found = results(trial, {"essays": (100, 60, 60)}, (*SIX, 0, 4))
    assert [one.against.verdict for one in found if one.against] == ["better", "better"]
    assert leads_of(found)["essays"].p == 1.0
    assert best_shown(found) == set()


def test_the_table_has_a_line_for_a_method_and_a_column_for_a_corpus(trial: Trial, tmp_path: Path) -> None:
    table = methods_by_corpus(results(trial, {"essays": (100, 60, 80), "wiki|s": (40, 60, 80)}, (*SIX, 0, 4)))
    assert table is not None
    assert (table.corpora, list(table.lines)) == (("essays", "wiki|s"), list(METHODS))
    essays, wiki = table.lines["few"]
    # Wrong are 60 plus a mean of 2, of 400.
    assert re.match(r"0\.845 ± 0\.0\d\d ↑$", essays.text)
    assert (essays.is_best, wiki.is_best, wiki.text.endswith("↓")) == (True, False, True)
    assert says(table.meaning, "sign-flip", "Holm", "baseline", "every other")
    table.write(tmp_path, "50 % of it")
    frame = pd.read_csv(tmp_path / "methods_by_corpus.csv")
    assert frame["essays.mean"].tolist() == pytest.approx([1 - (wrong + 2) / 400 for wrong in (100, 60, 80)])
    assert frame["wiki|s.is_best"].tolist() == [True, False, False]
    assert frame["essays.seeds"].tolist() == [8, 8, 8]
    markdown = (tmp_path / "methods_by_corpus.md").read_text().splitlines()
    assert markdown[0] == "| method | essays | wiki\\|s |"
    assert f"**{essays.text}**" in markdown[3]
    latex = (tmp_path / "methods_by_corpus.tex").read_text()
    assert latex.count(r"\textbf") == 2
    assert r"a\_b & " in latex
    assert r"\caption{50 \% of it" in latex


def test_one_corpus_needs_no_such_table(trial: Trial) -> None:
    assert methods_by_corpus(results(trial, {"essays": (100, 60, 80)})) is None


@needs_latex
def test_its_latex_compiles(trial: Trial, tmp_path: Path) -> None:
    table = methods_by_corpus(results(trial, {"essays": (100, 60, 80), "wiki_s": (40, 60, 80)}, (*SIX, 0, 4)))
    assert table is not None
    compiled(table.latex("a_b"), tmp_path)
