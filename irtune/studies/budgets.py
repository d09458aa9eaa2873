"""Cells at equal budgets: what each of them has to be set to, for a comparison that is fair in one named thing."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from irtune.analysis.ablation.cell_results import Cell
from irtune.config.ablation_schema import AblationConfig
from irtune.config.load import with_overrides
from irtune.config.schema import ExperimentConfig
from irtune.search.ablation_cells import KEY_OF_K, cells_of
from irtune.studies.forecast import mean_active_blocks, mean_step_flops
from irtune.training.cost import CostModel
from irtune.training.model import shapes_only
from irtune.training.shared_prefix import sharing_of

RANK, ALPHA, STEPS, BUDGET = "adapter.r", "adapter.alpha", "training.max_steps", "selection.policy.budget"
SETS = {"trainable_parameters": (RANK, ALPHA), "wall_clock": (STEPS,), "step_flops": ()}
"""The settings that a budget decides, and that nobody may say then; k, which policies ask for, it replaces."""

WITH_RANK = ("lora", "dora")
CostOf = Callable[[ExperimentConfig], CostModel]


def cells_at_budget(config: AblationConfig, checkpoint: Path, lengths: np.ndarray, num_common: int = 0) -> list[Cell]:
    """The cells of a study, with what ``ablation.matched`` sets in each.

    - ``trainable_parameters``: the rank of every cell is such that it trains as many parameters at a time as the
      baseline, alpha in proportion. How many blocks train is what the policy chooses on scores drawn at random.
    - ``step_flops``: k, or the budget of cost_aware, is the largest at which a step takes no more than
      ``ablation.step_flops`` of the baseline's FLOPs, refreshes included.
    - ``wall_clock``: every cell takes as many optimizer steps as the baseline's training time pays for. Time is taken
      to follow FLOPs, which it does within a few percent where nothing else runs.

    Args:
        config: The study.
        checkpoint: The model's folder.
        lengths: Tokens ``(N,)`` of the training examples; of several corpora, of the first.
        num_common: Tokens that all of them begin with.

    Raises:
        ValueError: With every cell that cannot be brought to the budget.
    """
    study, cells, experiment = config.ablation, cells_of(config), config.experiment()
    if study.matched not in SETS:
        return cells
    said = {
        f"ablation.cells.{cell.arm}.{key}: is what ablation.matched: {study.matched} sets; leave it out"
        for cell in cells
        for key in SETS[study.matched]
        if key in cell.overrides
    }
    if said:
        raise ValueError("\n".join(sorted(said)))

    @cache
    def cost_of_adapter(adapter: str, share_prefix: bool | str) -> CostModel:
        model = shapes_only(checkpoint, type(experiment.adapter).model_validate_json(adapter))
        sharing = sharing_of(model, share_prefix, num_common, int(np.max(lengths)))
        return CostModel.of(model, recompute=experiment.model.gradient_checkpointing, sharing=sharing)

    def cost_of(one: ExperimentConfig) -> CostModel:
        return cost_of_adapter(one.adapter.model_dump_json(), one.engine.share_prefix)

    length = float(np.mean(lengths))
    found, mistakes = [], []
    for cell in cells:
        baseline = next(other for other in cells if other.is_baseline and other.corpus == cell.corpus)
        reference, one = (with_overrides(experiment, each.overrides) for each in (baseline, cell))
        try:
            setter = {"trainable_parameters": _rank, "step_flops": _blocks, "wall_clock": _steps}[study.matched]
            values = {} if cell.is_baseline else setter(one, reference, cost_of, length, study.step_flops or 1.0)
        except ValueError as error:
            mistakes.append(f"ablation.cells.{cell.arm}: {error}")
            continue
        found.append(replace(cell, overrides={**cell.overrides, **values}, set_by_budget=values))
    if mistakes:
        raise ValueError("\n".join(dict.fromkeys(mistakes)))
    return found


def _rank(
    one: ExperimentConfig, reference: ExperimentConfig, cost_of: CostOf, length: float, share: float
) -> Mapping[str, Any]:
    if one.adapter.type not in WITH_RANK:
        raise ValueError(
            f"adapter.type: {one.adapter.type} has no rank to set for equal trainable parameters; use "
            f"{' or '.join(WITH_RANK)}, or another ablation.matched"
        )
    active, of_reference = (mean_active_blocks(each, cost_of(each), length) for each in (one, reference))
    rank = max(1, round(reference.adapter.r * of_reference / active))
    return {RANK: rank, ALPHA: reference.adapter.alpha * rank / reference.adapter.r}


def _steps(
    one: ExperimentConfig, reference: ExperimentConfig, cost_of: CostOf, length: float, share: float
) -> Mapping[str, Any]:
    ours, theirs = (mean_step_flops(each, cost_of(each), length) for each in (one, reference))
    return {STEPS: max(1, round(reference.training.max_steps * theirs / ours))}


def _blocks(
    one: ExperimentConfig, reference: ExperimentConfig, cost_of: CostOf, length: float, share: float
) -> Mapping[str, Any]:
    cost = cost_of(one)
    most = share * mean_step_flops(reference, cost_of(reference), length)
    policy, values = one.selection.policy, list[float]()
    if hasattr(policy, "k"):
        key, values = KEY_OF_K, [*range(len(cost.forward), 0, -1)]
    elif hasattr(policy, "budget"):
        key, values = BUDGET, [round(hundredths / 100, 2) for hundredths in range(100, 0, -1)]
    else:
        raise ValueError(
            f"selection.policy: {policy.name} takes neither k nor a budget, so that its FLOPs cannot be set; leave the "
            "cell out, or use another ablation.matched"
        )
    flops_of = partial(_flops_with, one, cost, length, key)
    for value in values:
        flops = flops_of(value)
        if flops is not None and flops <= most:
            return {key: value}
    least = min(flops for value in values if (flops := flops_of(value)) is not None)
    raise ValueError(
        f"no {key} takes {share:g} of the baseline's FLOPs or less; the least is {least / most * share:.2f} of them: "
        "raise ablation.step_flops"
    )


def _flops_with(one: ExperimentConfig, cost: CostModel, length: float, key: str, value: float) -> float | None:
    """FLOPs of a step at a value; None where the policy cannot work with it."""
    try:
        return mean_step_flops(with_overrides(one, {key: value}), cost, length)
    except ValueError:
        return None
