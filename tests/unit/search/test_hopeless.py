"""Cells that get no more seeds: which, when, and what never is."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from saying import says

from irtune.analysis.ablation.cell_results import results_of
from irtune.analysis.ablation.findings import findings_of
from irtune.analysis.metrics import Metric
from irtune.analysis.trials import TrialRow
from irtune.config.ablation_schema import AblationConfig
from irtune.config.load import ConfigError, build
from irtune.search.ablation_cells import cells_of, trials_of
from irtune.search.hopeless import rounds_of, without_hopeless

CELLS = {"full": {"method": "full"}, "good": {"method": "ir"}, "bad": {"method": "lisa"}}
Scores = Callable[[str, int], float]


def study(**ablation: Any) -> AblationConfig:
    values = {"cells": CELLS, "seeds": 8, "drop_hopeless": 0.05, **ablation}
    return build(AblationConfig, {"ablation": values}, "study")


def bad_is_worse(cell: str, seed: int) -> float:
    return (0.5 if cell.startswith("bad") else 0.7) + 0.01 * seed


def rows_of(config: AblationConfig, scores: Scores, seeds: range, **replaced: Any) -> list[TrialRow]:
    same: dict[str, Any] = {"name": "", "strategy": "", "num_blocks": 6, "reselect_every": 20, "status": "finished"}
    return [
        TrialRow(
            trial_id=spec.name,
            repeats=spec.repeats,
            seed=spec.overrides["seed"],
            **{**same, "validation_score": scores(str(spec.repeats), int(spec.overrides["seed"])), **replaced},
        )
        for spec in trials_of(config, cells_of(config), seeds)
    ]


def dropped(config: AblationConfig, rows: list[TrialRow]) -> dict[str, int]:
    return {
        cell.name: cell.dropped_from
        for cell in without_hopeless(config, cells_of(config), rows)
        if cell.dropped_from is not None
    }


def test_the_first_round_is_as_long_as_the_test_needs() -> None:
    config = study()
    assert rounds_of(config, cells_of(config)) == [range(5), range(5, 6), range(6, 7), range(7, 8)]
    both = study(corpora={"small": {"train_size": 50}, "large": {"train_size": 500}})
    assert rounds_of(both, cells_of(both))[0] == range(3)


def test_without_the_setting_all_seeds_are_one_round() -> None:
    config = study(drop_hopeless=None)
    assert rounds_of(config, cells_of(config)) == [range(8)]
    assert dropped(config, rows_of(config, bad_is_worse, range(8))) == {}


def test_what_is_clearly_worse_is_dropped_after_the_first_round() -> None:
    config = study()
    assert dropped(config, rows_of(config, bad_is_worse, range(5))) == {"bad": 5}


def test_what_is_dropped_gets_no_more_trials() -> None:
    config = study()
    cells = without_hopeless(config, cells_of(config), rows_of(config, bad_is_worse, range(5)))
    assert [spec.repeats for spec in trials_of(config, cells, range(4, 6))] == ["full", "good", "bad", "full", "good"]


def test_it_stays_dropped_and_the_same_is_found_from_all_rows() -> None:
    config = study()
    rows = rows_of(config, bad_is_worse, range(8))
    later = [row for row in rows if row.repeats != "bad" or row.seed < 5]
    assert dropped(config, later) == {"bad": 5}


def test_what_is_still_running_is_waited_for() -> None:
    config = study()
    rows = rows_of(config, bad_is_worse, range(5))
    assert dropped(config, rows[:-1]) == {}
    assert dropped(config, [*rows[:-1], replace(rows[-1], status="killed")]) == {}


def test_a_trial_that_failed_is_no_pair_but_holds_nothing_up() -> None:
    config = study()
    failed = [
        replace(row, status="failed", validation_score=None) if (row.repeats, row.seed) == ("bad", 2) else row
        for row in rows_of(config, bad_is_worse, range(6))
    ]
    assert dropped(config, failed) == {"bad": 6}, "five pairs are there one round later"


def test_one_seed_on_which_it_is_better_keeps_it() -> None:
    config = study()
    rows = rows_of(config, lambda cell, seed: 0.9 if (cell, seed) == ("bad", 0) else bad_is_worse(cell, seed), range(5))
    assert dropped(config, rows) == {}


def test_the_baseline_and_what_is_claimed_of_are_never_dropped() -> None:
    def all_but_good(cell: str, seed: int) -> float:
        return 0.7 if cell == "good" else 0.5

    config = study(cells={**CELLS, "rest": {"method": "badam"}}, claims=[{"better": "bad", "than": "good"}])
    assert dropped(config, rows_of(config, all_but_good, range(5))) == {"rest": 5}


def test_a_metric_of_which_less_is_better_drops_the_larger() -> None:
    config = study()
    rows = rows_of(config, lambda cell, seed: 1 - bad_is_worse(cell, seed), range(5), metric=Metric("loss"))
    assert dropped(config, rows) == {"bad": 5}


def test_levels_of_one_factor_are_not_each_others_rivals() -> None:
    config = study(factors={"data.max_train": [1000, 100]})

    def less_data_is_worse(cell: str, seed: int) -> float:
        return 0.3 if "max_train=100" in cell.split() else 0.7

    assert dropped(config, rows_of(config, less_data_is_worse, range(5))) == {}


def test_a_configuration_is_dropped_on_all_corpora() -> None:
    config = study(corpora={"small": {"train_size": 50}, "large": {"train_size": 500}})
    assert dropped(config, rows_of(config, bad_is_worse, range(3))) == {"bad @ small": 3, "bad @ large": 3}


def test_it_has_no_verdict_and_counts_in_the_adjustment() -> None:
    config = study()
    rows = [
        replace(row, test_score=row.validation_score)
        for row in rows_of(config, lambda cell, seed: bad_is_worse(cell, seed) + 0.1 * (cell == "good"), range(8))
        if row.repeats != "bad" or row.seed < 5
    ]
    cells = without_hopeless(config, cells_of(config), rows)
    _, good, bad = results_of(cells, rows)
    assert good.against is not None
    assert good.against.adjusted_p == pytest.approx(2 * good.against.p)
    assert (bad.against, len(bad.rows)) == (None, 5)
    found = findings_of(cells, rows, [], {}, {None: 4})
    assert says(" ".join(found.caveats), "bad after 5 seeds", "no verdict")
    assert "2 comparisons" in found.answer


@pytest.mark.parametrize(
    ("ablation", "why"),
    [
        ({"seeds": 5}, "4 pairs"),
        ({"claims": [{"better": "good", "than": "bad"}]}, "drops nothing"),
    ],
)
def test_a_setting_that_can_drop_nothing_is_refused(ablation: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError) as refused:
        study(**ablation)
    assert says(str(refused.value), "ablation.drop_hopeless", why)
