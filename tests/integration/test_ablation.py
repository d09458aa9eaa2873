"""An ablation as a user runs it: cells over seeds, the page and the tables, MLflow, and more seeds later."""

import json
from pathlib import Path

import pandas as pd
import pytest
from saying import says
from sweeps import SweepRun, run_sweep

FILE = "tests/support/tiny_ablation.yaml"
CELLS = ["all", "few within_block=l2", "few within_block=max", "same"]
EXACT = ["cell", "seed", "status", "validation_score", "test_score", "train_loss", "flops", "trainable_share"]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> SweepRun:
    found = run_sweep(tmp_path_factory.mktemp("ablation"), FILE, job="ablate.py")
    assert found.status == 0, found.output
    return found


def trials(study: SweepRun) -> pd.DataFrame:
    return pd.read_parquet(study.folder / "results" / "trials.parquet").sort_values(["cell", "seed"])


def test_every_cell_runs_on_every_seed(study: SweepRun) -> None:
    found = trials(study)
    assert sorted(zip(found["cell"], found["seed"], strict=True)) == [(cell, seed) for cell in CELLS for seed in (0, 1)]
    assert set(found["status"]) == {"finished"}
    assert says(study.output, "few", "all", "2 seeds")


def test_equal_configurations_on_one_seed_measure_the_same(study: SweepRun) -> None:
    found = trials(study).set_index(["cell", "seed"])[EXACT[3:]]
    pd.testing.assert_frame_equal(found.loc["few within_block=l2"], found.loc["same"], check_exact=True)


def test_the_folder_holds_what_can_be_published(study: SweepRun) -> None:
    results = study.folder / "results"
    names = {file.name for file in results.iterdir()}
    for name in ("cells", "trade_off", "learning_curves", "selection", "against_importance_within_block"):
        assert {f"{name}.png", f"{name}.pdf"} <= names
    assert {"cells.csv", "cells.parquet", "cells.md", "cells.tex", "trials.csv", "trials.parquet"} <= names
    assert {"costs.md", "costs.tex", "stability.csv", "class_scores.csv", "steps_to_target.csv"} <= names
    costs = pd.read_csv(results / "cells.csv").set_index("cell")
    assert (costs[["step_s", "tokens_per_s"]] > 0).all(axis=None)
    # A refresh every third step measures all six blocks while two train; the baseline measures what it trains.
    assert costs.loc["all", "refresh_flops_share"] == 0
    assert 0 < costs.loc["same", "refresh_flops_share"] < 1
    page = (study.folder / "report.html").read_text()
    assert says(page, "can&#39;t tell", "few is better than all")


def test_the_claim_was_recorded_before_the_first_trial(study: SweepRun) -> None:
    claim = json.loads((study.folder / "claims.json").read_text())
    assert claim["claims"] == [{"better": "few", "than": "all", "margin": 0.05, "seeds": None}]
    recorded = (study.folder / "claims.json").stat().st_mtime
    assert all(recorded < file.stat().st_mtime for file in study.folder.glob("trials/*/measured.jsonl"))
    (summary,) = study.runs("summary")
    assert summary.data.tags["irtune.claims.sha256"] == claim["sha256"]


def test_every_run_has_its_group_as_tags_and_parameters(study: SweepRun) -> None:
    runs = study.runs("cell")
    assert len(runs) == 8
    for run in runs:
        group = {key: text for key, text in run.data.tags.items() if key in ("irtune.cell", "irtune.arm")}
        assert group["irtune.cell"] in CELLS
        assert group.items() <= run.data.params.items()
        assert run.data.tags["irtune.baseline"] == str(group["irtune.arm"] == "all").lower()


def test_more_seeds_are_added_to_a_study_that_is_over(study: SweepRun) -> None:
    before = {file: file.stat().st_mtime for file in study.folder.glob("trials/*/measured.jsonl")}
    more = run_sweep(study.storage, FILE, "--resume", "ablation.seeds=3", job="ablate.py")
    assert more.status == 0, more.output
    assert len(trials(more)) == 12
    assert all(file.stat().st_mtime == then for file, then in before.items())


def test_a_hopeless_cell_gets_no_more_seeds(tmp_path: Path) -> None:
    changed = (
        "metric=loss",
        "ablation.seeds=3",
        "ablation.drop_hopeless=.25",
        "ablation.cells.same.training.learning_rate=.1",
    )
    done = run_sweep(tmp_path, FILE, *changed, job="ablate.py")
    assert done.status == 0, done.output
    found = trials(done)
    assert found.groupby("cell")["seed"].apply(list).to_dict() == {
        cell: [0, 1, 2][: 3 - (cell == "same")] for cell in CELLS
    }
    assert says(done.output, "same after 2 seeds", "no verdict")


def test_a_plan_says_what_each_cell_takes_and_starts_nothing(tmp_path: Path) -> None:
    planned = run_sweep(tmp_path / "storage", FILE, "--plan", job="ablate.py")
    assert planned.status == 0, planned.output
    assert says(planned.output, "8: 4 cells on 2 seeds", *CELLS)
    assert not (tmp_path / "storage").exists()


def test_mistakes_of_cells_cost_nothing(tmp_path: Path) -> None:
    refused = run_sweep(tmp_path / "storage", FILE, "ablation.cells.few.selection.policy.k=9", job="ablate.py")
    assert refused.status == 2
    assert says(refused.output, "ablation.cells.few.selection.policy.k", "6")
