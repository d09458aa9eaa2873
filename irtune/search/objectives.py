"""What a sweep searches for and demands: metrics by name, and where the results of a trial hold them."""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from irtune.analysis.metrics import Mode
from irtune.config.study_schema import Constraint
from irtune.config.sweep_schema import TuneConfig
from irtune.plugins import nearest

_MEASURED_AT_EACH_STEP = (
    "step_flops",
    "step_s",
    "tokens_per_s",
    "trainable_parameters",
    "active_blocks",
    "lowest_active_block",
)
_OF_THE_RUN = ("train_s", "total_flops", "probe_flops", "peak_memory_bytes", "trainable_share")

COSTS: Mapping[str, str] = {f"cost/{name}": f"cost/mean_{name}" for name in _MEASURED_AT_EACH_STEP} | {
    f"cost/{name}": f"cost/{name}" for name in _OF_THE_RUN
}
"""What a finished run has cost: metric to the result that holds it, the mean of what is measured at each step."""


def result_of(results: Mapping[str, Any], metric: str) -> Any:
    """What a trial's results say of a metric: of its best weights if it finished, else as last measured."""
    of_best = f"final/validation_{metric.removeprefix('eval/')}" if metric.startswith("eval/") else metric
    return results.get(COSTS.get(metric, of_best), results.get(metric))


def measured(results: Mapping[str, Any], metric: str) -> float | None:
    """The metric as a number; None where it is missing, NaN or infinite."""
    value = result_of(results, metric)
    return float(value) if isinstance(value, int | float | np.number) and math.isfinite(value) else None


def excesses(results: Mapping[str, Any], constraints: Mapping[str, Constraint]) -> dict[str, float]:
    """By how much a finished trial is beyond each bound, as a share of it; at most 0 where it keeps to it.

    Samplers add them up, and of metrics with units of their own only shares can be.
    """
    return {
        f"{metric} {side}": excess / (abs(bound) or 1.0)
        for metric, side, bound, excess in _bounds(results, constraints)
    }


def broken(results: Mapping[str, Any], constraints: Mapping[str, Constraint]) -> tuple[str, ...]:
    """The bounds that a trial is beyond, in words."""
    return tuple(
        f"{metric} {measured(results, metric):.4g} {'above' if side == 'max' else 'below'} {bound:.4g}"
        for metric, side, bound, excess in _bounds(results, constraints)
        if excess > 0
    )


def in_words(objectives: Mapping[str, Mode]) -> str:
    """Such as ``max eval/f1_macro, min cost/step_flops``."""
    return ", ".join(f"{mode} {metric}" for metric, mode in objectives.items())


def unknown_metrics(tune: TuneConfig, evaluated: Iterable[str]) -> list[str]:
    """Metrics that a sweep names and no trial has, by dotted key.

    Args:
        tune: How the space is searched.
        evaluated: What an evaluation gives, ``eval/…``.
    """
    while_running = set(evaluated)
    in_the_end = while_running | set(COSTS)
    named = [("tune.metric" if tune.metrics is None else "tune.metrics", name, in_the_end) for name in tune.objectives]
    named += [("tune.constraints", name, in_the_end) for name in tune.constraints]
    if tune.scheduler is not None and tune.scheduler.metric is not None:
        named.append(("tune.scheduler.metric", tune.scheduler.metric, while_running))
    return [
        f"{key}: unknown metric {name!r}: {nearest(name, known)}" for key, name, known in named if name not in known
    ]


def _bounds(
    results: Mapping[str, Any], constraints: Mapping[str, Constraint]
) -> Iterator[tuple[str, str, float, float]]:
    """Metric, side, bound and how far the results are beyond it; nothing for a metric that was not measured."""
    for metric, constraint in constraints.items():
        value = measured(results, metric)
        if value is not None and constraint.max is not None:
            yield metric, "max", constraint.max, value - constraint.max
        if value is not None and constraint.min is not None:
            yield metric, "min", constraint.min, constraint.min - value
