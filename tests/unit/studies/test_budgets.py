"""Cells at equal budgets: what they are set to costs what it is said to cost."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from saying import each_says

from irtune.analysis.ablation.cell_results import Cell
from irtune.config.ablation_schema import AblationConfig
from irtune.config.load import build, with_overrides
from irtune.studies.budgets import cells_at_budget
from irtune.studies.forecast import mean_step_flops
from irtune.training.cost import CostModel
from irtune.training.model import shapes_only
from irtune.training.pretrained import materialize

LENGTHS = np.full(50, 40)
CELLS: dict[str, Any] = {
    "all": {"selection.policy.name": "all"},
    "few": {"selection.policy.name": "top_k", "selection.policy.k": 2, "selection.reselect_every": 10},
    "upper": {"method": "last", "selection.policy.k": 3},
}
TREE = {"model": {"name": "tiny-random"}, "adapter": {"r": 4, "alpha": 8}, "training": {"max_steps": 100}}


def study(**ablation: Any) -> AblationConfig:
    return build(AblationConfig, {**TREE, "ablation": {"cells": CELLS, **ablation}}, "study")


@pytest.fixture(scope="module")
def checkpoint() -> Path:
    return materialize(study().model)


def cells(checkpoint: Path, **ablation: Any) -> dict[str, Cell]:
    return {cell.name: cell for cell in cells_at_budget(study(**ablation), checkpoint, LENGTHS)}


def step_flops(checkpoint: Path, cell: Cell, **more: Any) -> float:
    config = with_overrides(study().experiment(), {**cell.overrides, **more})
    return mean_step_flops(config, CostModel.of(shapes_only(checkpoint, config.adapter), recompute=False), 40)


def test_nothing_is_set_where_nothing_is_matched(checkpoint: Path) -> None:
    assert [cell.set_by_budget for cell in cells(checkpoint).values()] == [{}, {}, {}]


def test_equal_trainable_parameters_are_a_matter_of_rank(checkpoint: Path) -> None:
    found = cells(checkpoint, matched="trainable_parameters")
    assert found["all"].set_by_budget == {}
    assert found["few"].set_by_budget == {"adapter.r": 12, "adapter.alpha": 24.0}
    assert found["upper"].set_by_budget == {"adapter.r": 8, "adapter.alpha": 16.0}
    assert found["few"].overrides["selection.policy.k"] == 2


def test_equal_time_is_a_matter_of_steps(checkpoint: Path) -> None:
    found = cells(checkpoint, matched="wall_clock")
    whole = 100 * step_flops(checkpoint, found["all"])
    for name in ("few", "upper"):
        steps = found[name].set_by_budget["training.max_steps"]
        assert steps > 100
        # How many of the steps are refreshes depends on how many there are, if little.
        each = step_flops(checkpoint, found[name], **{"training.max_steps": steps})
        assert steps * each == pytest.approx(whole, rel=0.02)


def test_equal_flops_are_the_most_blocks_that_a_step_has_room_for(checkpoint: Path) -> None:
    more = {**CELLS, "aware": {"selection.policy.name": "cost_aware"}}
    found = cells(checkpoint, matched="step_flops", step_flops=0.9, cells=more)
    most = 0.9 * step_flops(checkpoint, found["all"])
    k = found["upper"].set_by_budget["selection.policy.k"]
    assert step_flops(checkpoint, found["upper"]) <= most < step_flops(checkpoint, found["upper"], **{KEY: k + 1})
    budget = found["aware"].set_by_budget["selection.policy.budget"]
    assert step_flops(checkpoint, found["aware"]) <= most
    assert step_flops(checkpoint, found["aware"], **{"selection.policy.budget": budget + 0.01}) > most


KEY = "selection.policy.k"


@pytest.mark.parametrize(
    ("ablation", "facts"),
    [
        (
            {"matched": "wall_clock", "cells": {**CELLS, "long": {"training.max_steps": 7}}},
            ("ablation.cells.long.training.max_steps", "wall_clock"),
        ),
        (
            {"matched": "step_flops", "step_flops": 0.7, "cells": {"all": CELLS["all"], "ir": {"method": "ir"}}},
            ("ablation.cells.ir", "variance_split", "ablation.matched"),
        ),
        (
            {"matched": "step_flops", "step_flops": 0.2, "cells": {"all": CELLS["all"], "last": {"method": "last"}}},
            ("ablation.cells.last", "selection.policy.k", "ablation.step_flops"),
        ),
    ],
)
def test_what_cannot_be_brought_to_the_budget_is_named(
    checkpoint: Path, ablation: dict[str, Any], facts: tuple[str, ...]
) -> None:
    with pytest.raises(ValueError, match=r"ablation\.cells") as error:
        cells(checkpoint, **ablation)
    assert each_says(str(error.value).splitlines(), facts)


def test_a_tuner_without_ranks_cannot_have_equal_parameters(checkpoint: Path) -> None:
    config = build(
        AblationConfig,
        {**TREE, "adapter": {"type": "ia3"}, "ablation": {"cells": CELLS, "matched": "trainable_parameters"}},
        "study",
    )
    with pytest.raises(ValueError, match="ia3 has no rank"):
        cells_at_budget(config, checkpoint, LENGTHS)
