"""Tuning budgets: as many trials for every cell, on a seed of its own, and what was best goes on."""

from pathlib import Path
from typing import Any

from irtune.config.ablation_schema import AblationConfig
from irtune.results.travel import export_study, import_study
from irtune.search.ablation_cells import cells_of, trials_of
from irtune.search.source import Outcome
from irtune.studies.resume import write_identity
from irtune.studies.tuning import SEED_BEFORE, search_of, tuned

RATE = "training.learning_rate"
CONFIG = AblationConfig(
    ablation={
        "cells": {"all": {"selection.policy.name": "all"}, "lisa": {"method": "lisa"}},
        "matched": "tuning_budget",
        "tuning": {
            "num_trials": 4,
            "space": {RATE: {"type": "float", "low": 1e-4, "high": 1e-2, "log": True}},
            "own": {"lisa": {"selection.policy.k": {"type": "int", "low": 1, "high": 3}}},
        },
    }
)


def score(overrides: Any) -> float:
    return 1.0 - abs(overrides[RATE] - 1e-3) - overrides.get("selection.policy.k", 0) / 100


def run(folder: Path, most: int = 100) -> list[Any]:
    asked = []
    search = search_of(folder, CONFIG, cells_of(CONFIG))
    while len(asked) < most and (spec := search.ask()) is not None:
        asked.append(spec)
        search.tell(spec, Outcome("finished", {"final/validation_f1_macro": score(spec.overrides), "final": True}))
    return asked


def test_every_cell_is_tuned_by_as_many_trials_on_a_seed_of_its_own(tmp_path: Path) -> None:
    asked = run(tmp_path)
    arms = [spec.group["arm"] for spec in asked]
    assert (arms.count("all"), arms.count("lisa")) == (4, 4)
    assert len({spec.name for spec in asked}) == 8
    assert {spec.overrides["seed"] for spec in asked} == {SEED_BEFORE}
    assert {spec.group["phase"] for spec in asked} == {"tuning"}
    assert all("method" in spec.overrides for spec in asked if spec.group["arm"] == "lisa")


def test_what_was_best_on_validation_is_what_runs_on_the_seeds(tmp_path: Path) -> None:
    asked = run(tmp_path)
    cells = tuned(tmp_path, CONFIG, cells_of(CONFIG))
    for cell in cells:
        best = max((spec.overrides for spec in asked if spec.group["arm"] == cell.arm), key=score)
        assert cell.overrides[RATE] == best[RATE]
        assert set(cell.tuned) == {RATE, *(["selection.policy.k"] if cell.arm == "lisa" else [])}
        assert cell.overrides["selection.policy.name" if cell.arm == "all" else "method"] == cell.arm
    seeds = {spec.overrides["seed"] for spec in trials_of(CONFIG, cells, range(CONFIG.seed, CONFIG.seed + 99))}
    assert SEED_BEFORE not in seeds


def test_a_later_driver_asks_for_what_is_left_and_finds_the_same(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    before = run(cut, most=3)
    assert len(before) == 3
    again = search_of(cut, CONFIG, cells_of(CONFIG))
    assert [spec.name for spec, _ in again.ended()] == [spec.name for spec in before]
    rest = run(cut)
    assert len(rest) == 5
    run(whole)
    first = [cell.tuned for cell in tuned(whole, CONFIG, cells_of(CONFIG))]
    assert [cell.tuned.keys() for cell in tuned(cut, CONFIG, cells_of(CONFIG))] == [each.keys() for each in first]


def test_what_was_tuned_on_one_machine_counts_on_another(tmp_path: Path) -> None:
    there = tmp_path / "there" / "tuned-20260101-000000"
    before = run(there, most=3)
    search = search_of(there, CONFIG, cells_of(CONFIG))
    # In the middle when the first machine stopped.
    cut = search.ask()
    write_identity(there, CONFIG, "data")
    export_study(str(there), tmp_path / "study.zip", tmp_path)
    here = import_study(tmp_path / "study.zip", tmp_path / "here").folder
    again = search_of(here, CONFIG, cells_of(CONFIG))
    assert [spec for spec, _ in again.ended()] == before
    assert again.ask() == cut
    assert len(run(here)) == 5
    assert len(search_of(here, CONFIG, cells_of(CONFIG)).ended()) == 8


def test_a_cell_of_which_nothing_finished_keeps_its_settings(tmp_path: Path) -> None:
    search = search_of(tmp_path, CONFIG, cells_of(CONFIG))
    while (spec := search.ask()) is not None:
        search.tell(spec, Outcome("failed", {}, "it diverged"))
    assert tuned(tmp_path, CONFIG, cells_of(CONFIG)) == cells_of(CONFIG)
