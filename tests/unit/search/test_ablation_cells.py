"""The cells of an ablation: which there are, on which seeds, and what is refused."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from saying import each_says, says

from irtune.config.ablation_schema import AblationConfig
from irtune.config.load import ConfigError, apply_overrides, build, dotted_keys, with_overrides
from irtune.search.ablation_cells import cells_of, check_cells, configurations, seeds_of, space_of, trials_of

CELLS: dict[str, Any] = {
    "full": {"method": "full"},
    "few": {"selection.policy.name": "top_k", "selection.policy.k": 2},
    "lisa": {"method": "lisa"},
}
EVERY = "selection.reselect_every"


def study(**ablation: Any) -> AblationConfig:
    top = {key: ablation.pop(key) for key in ("seed", "data", "training") if key in ablation}
    return build(AblationConfig, {"ablation": {"cells": CELLS, **ablation}, **top}, "study")


def names(config: AblationConfig) -> list[str]:
    return [cell.name for cell in cells_of(config)]


def mistakes(num_blocks: int | None = 6, **ablation: Any) -> list[str]:
    try:
        return check_cells(study(**ablation), num_blocks)
    except ConfigError as error:
        return list(error.mistakes)


def test_cells_have_the_configurations_of_the_file() -> None:
    found = configurations(study())
    assert list(found) == ["full", "few", "lisa"]
    assert (found["few"].selection.policy.name, found["few"].selection.policy.k) == ("top_k", 2)
    assert found["lisa"].strategy == "lisa"


def test_sections_and_dotted_keys_say_the_same() -> None:
    nested = {**CELLS, "few": {"selection": {"policy": {"name": "top_k", "k": 2}}}}
    assert configurations(study(cells=nested)) == configurations(study())


def test_a_factor_varies_the_cells_it_names() -> None:
    factors = {EVERY: {"levels": [20, 5], "of": ["few"]}}
    assert names(study(factors=factors)) == ["full", "few reselect_every=20", "few reselect_every=5", "lisa"]


def test_factorial_is_every_combination_and_one_at_a_time_is_not() -> None:
    factors = {EVERY: [20, 5], "adapter.r": [4, 8, 16]}
    assert len(cells_of(study(factors=factors))) == 3 * 6
    alone = cells_of(study(factors=factors, design="one_at_a_time", cells={"a": CELLS["few"], "b": CELLS["lisa"]}))
    assert [tuple(cell.levels.values()) for cell in alone if cell.arm == "a"] == [(20, 4), (5, 4), (20, 8), (20, 16)]


def test_a_level_goes_over_what_a_cell_says() -> None:
    config = study(factors={"selection.policy.k": {"levels": [1, 3], "of": ["few"]}})
    assert [configurations(config)[name].selection.policy.k for name in names(config)[1:3]] == [1, 3]


def test_corpora_replace_settings_of_the_data() -> None:
    config = study(corpora={"small": {"train_size": 50}, "large": {"train_size": 500}})
    assert names(config) == [f"{arm} @ {corpus}" for corpus in ("small", "large") for arm in CELLS]
    assert configurations(config)["lisa @ large"].data.train_size == 500  # type: ignore[attr-defined]


def test_all_cells_but_the_baseline_train_the_matched_number_of_blocks() -> None:
    config = study(matched="k", k=3)
    found = configurations(config)
    assert [found[name].selection.policy.k for name in ("few", "lisa")] == [3, 3]
    assert not hasattr(found["full"].selection.policy, "k")
    assert check_cells(config, 6) == []


def test_a_cell_that_decides_its_own_number_cannot_be_matched() -> None:
    (mistake,) = mistakes(matched="k", k=3, cells={**CELLS, "ir": {"method": "ir"}})
    assert says(mistake, "ablation.cells.ir", "selection.policy.k", "ablation.matched: nothing")


def test_seeds_follow_that_of_the_experiment_and_claims_have_their_own() -> None:
    config = study(seed=7, seeds=3, claims=[{"better": "few", "than": "full", "seeds": 10}])
    by_name = {cell.name: list(seeds_of(config, cell)) for cell in cells_of(config)}
    assert by_name == {"full": list(range(7, 17)), "few": list(range(7, 17)), "lisa": [7, 8, 9]}


def test_trials_come_seed_after_seed_and_say_what_they_belong_to() -> None:
    config = study(seeds=2, factors={EVERY: {"levels": [20, 5], "of": ["few"]}})
    trials = trials_of(config, cells_of(config), range(10))
    assert [trial.overrides["seed"] for trial in trials] == [0] * 4 + [1] * 4
    assert len({trial.name for trial in trials}) == 8
    few = next(trial for trial in trials if trial.repeats == "few reselect_every=5")
    assert few.group == {"cell": "few reselect_every=5", "arm": "few", "baseline": "false", f"level.{EVERY}": "5"}
    assert with_overrides(config.experiment(), few.overrides).selection.reselect_every == 5


@pytest.mark.parametrize(
    ("ablation", "facts"),
    [
        ({"baseline": "fulll"}, ("ablation.baseline", "'fulll'", "full, few, lisa")),
        ({"claims": [{"better": "ir", "than": "full"}]}, ("ablation.claims.0.better", "'ir'", "full, few, lisa")),
        ({"claims": [{"better": "few", "than": "few"}]}, ("ablation.claims.0.than", "same cell")),
        ({"claims": [{"better": "few", "than": "full", "margin": 0}]}, ("ablation.claims.0.margin", "0")),
        ({"factors": {EVERY: {"levels": [5, 10], "of": ["ir"]}}}, (f"ablation.factors.{EVERY}.of", "'ir'")),
        ({"factors": {EVERY: [5, 5]}}, (f"ablation.factors.{EVERY}.levels", "twice")),
        ({"factors": {EVERY: [5]}}, (f"ablation.factors.{EVERY}", "2")),
        ({"factors": {"seed": [1, 2]}}, ("ablation.factors.seed", "ablation.seeds")),
        (
            {"factors": {"selection.reselect_evry": [1, 2]}},
            ("ablation.factors.selection.reselect_evry", "reselect_every"),
        ),
        ({"factors": {"tracking.experiment": ["a", "b"]}}, ("ablation.factors.tracking.experiment", "one experiment")),
        ({"matched": "k"}, ("ablation.k", "matched: k")),
        ({"k": 3}, ("ablation.k", "matched: k")),
        ({"matched": "k", "k": 7}, ("ablation.cells.few", "selection.policy.k", "7 blocks", "6")),
        ({"seeds": 1}, ("ablation.seeds", "2")),
        ({"cells": {"full": {"method": "full"}}}, ("ablation.cells", "2")),
        ({"cells": {"a b": {}, "c": {}}}, ("ablation.cells.a b", "A-Za-z0-9")),
        ({"cells": {**CELLS, "bad": {"method": "lsia"}}}, ("ablation.cells.bad.method", "'lsia'", "lisa")),
    ],
)
def test_mistakes_name_their_place(ablation: dict[str, Any], facts: tuple[str, ...]) -> None:
    found = mistakes(**ablation)
    assert found
    assert says("\n".join(found), *facts)


def test_cells_whose_folders_would_be_one_are_refused() -> None:
    factors = {"importance.within_block": ["l2", "sum"], "training.learning_rate": [0.1, 0.1000]}
    assert each_says(mistakes(factors=factors), ("ablation.factors.training.learning_rate.levels", "twice"))
    cells = {"a_b": {}, "a-b": {}}
    assert mistakes(cells=cells) == []


def test_factors_are_set_on_the_command_line_by_their_own_dotted_keys() -> None:
    tree = {"ablation": {"cells": CELLS, "factors": {EVERY: {"levels": [20, 5]}}}}
    changed = apply_overrides(tree, {f"ablation.factors.{EVERY}.levels": [9, 3], "ablation.cells.few.seed": 1})
    assert changed["ablation"]["factors"] == {EVERY: {"levels": [9, 3]}}
    added = apply_overrides(tree, {"ablation.factors.adapter.r": [4, 8]})
    assert build(AblationConfig, added, "x").ablation.factors["adapter.r"].levels == (4, 8)
    assert dotted_keys(build(AblationConfig, added, "x"))["ablation.cells.few.selection.policy.k"] == 2


RATE = {"type": "float", "low": 1e-4, "high": 1e-2, "log": True}


def test_a_tuning_budget_has_a_space_for_every_cell() -> None:
    tuning = {"num_trials": 3, "space": {"training.learning_rate": RATE}, "own": {"few": {"selection.policy.k": KS}}}
    config = study(matched="tuning_budget", tuning=tuning)
    assert check_cells(config, 6) == []
    spaces = {cell.name: list(space_of(config, cell)) for cell in cells_of(config)}
    assert spaces["few"] == ["training.learning_rate", "selection.policy.k"]
    assert spaces["full"] == ["training.learning_rate"]


KS = {"type": "int", "low": 1, "high": 4}


@pytest.mark.parametrize(
    ("tuning", "facts"),
    [
        ({"space": {"training.learning_rat": RATE}}, ("ablation.tuning.space.training.learning_rat", "learning_rate")),
        (
            {"space": {"training.learning_rate": RATE}, "own": {"few": {"selection.policy.k": {**KS, "high": 9}}}},
            ("ablation.tuning.own.few.selection.policy.k.high", "6"),
        ),
        ({"space": {"training.learning_rate": RATE}, "sampler": "tpee"}, ("ablation.tuning.sampler", "tpee")),
        ({"space": {"training.learning_rate": RATE}, "own": {"ir": {}}}, ("ablation.tuning.own.ir", "full, few, lisa")),
        ({"own": {"few": {"selection.policy.k": KS}}}, ("ablation.tuning.space", "full, lisa")),
        ({"space": {"seed": KS}}, ("ablation.tuning.space.seed",)),
    ],
)
def test_mistakes_of_tuning_name_their_place(tuning: dict[str, Any], facts: tuple[str, ...]) -> None:
    found = mistakes(matched="tuning_budget", tuning={"num_trials": 3, **tuning})
    assert says("\n".join(found), *facts)


def test_tuning_and_its_budget_come_together() -> None:
    tuning = {"num_trials": 3, "space": {"training.learning_rate": RATE}}
    assert each_says(mistakes(tuning=tuning), ("ablation.tuning", "matched: tuning_budget"))
    assert each_says(mistakes(matched="tuning_budget"), ("ablation.tuning", "matched: tuning_budget"))


def test_the_documented_study_is_sound() -> None:
    page = (Path(__file__).parents[3] / "docs" / "ablations.md").read_text()
    (text,) = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    config = build(AblationConfig, yaml.safe_load(text), "docs/ablations.md")
    assert check_cells(config, 30) == []
    assert len(cells_of(config)) > 2 * len(config.ablation.cells)
