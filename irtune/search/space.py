"""The search space as Optuna sees it: a dimension exists only while its condition holds."""

import math
from collections.abc import Mapping
from graphlib import TopologicalSorter
from typing import TYPE_CHECKING

from irtune.config.sweep_schema import Choice, Dimension

if TYPE_CHECKING:
    from optuna.trial import FixedTrial, Trial

Space = Mapping[str, Dimension]
"""Dotted key -> dimension."""

Values = dict[str, Choice]
"""Dotted key -> value."""


def in_order(space: Space) -> list[str]:
    """The keys of a space such that each comes after the one its condition asks for.

    Raises:
        graphlib.CycleError: If conditions go round in a circle.
    """
    order = TopologicalSorter({key: [d.when.key] if d.when else [] for key, d in space.items()}).static_order()
    return [key for key in order if key in space]


def is_active(key: str, space: Space, values: Mapping[str, Choice]) -> bool:
    """Whether a dimension exists beside ``values``, which hold all that come before it.

    A condition on a fixed setting holds; ``check_space`` makes sure of that.
    """
    when = space[key].when
    if when is None or when.key not in space:
        return True
    return when.key in values and values[when.key] in when.values


def suggest(trial: "Trial | FixedTrial", space: Space) -> Values:
    """Dotted key -> value for every dimension that exists in this trial; ints are int, floats float."""
    values: Values = {}
    for key in in_order(space):
        if is_active(key, space, values):
            values[key] = _suggest_one(trial, key, space[key])
    return values


def _suggest_one(trial: "Trial | FixedTrial", key: str, dimension: Dimension) -> Choice:
    if dimension.choices is not None:
        choice: Choice = trial.suggest_categorical(key, dimension.choices)
        return choice
    assert dimension.low is not None
    assert dimension.high is not None
    if dimension.type == "int":
        step = int(dimension.step or 1)
        return trial.suggest_int(key, int(dimension.low), int(dimension.high), step=step, log=dimension.log)
    return trial.suggest_float(key, dimension.low, dimension.high, step=dimension.step, log=dimension.log)


def num_values(dimension: Dimension) -> int | None:
    """How many values a dimension can take; None = infinitely many."""
    if dimension.choices is not None:
        return len(dimension.choices)
    assert dimension.low is not None
    assert dimension.high is not None
    if dimension.low == dimension.high:
        return 1
    if dimension.type == "float" and dimension.step is None:
        return None
    return round((dimension.high - dimension.low) / (dimension.step or 1)) + 1


def size(space: Space) -> int | None:
    """The number of distinct configurations; None = infinitely many."""
    own = (_size_from(key, space) for key, d in space.items() if d.when is None or d.when.key not in space)
    return None if (found := math.prod(own)) == math.inf else int(found)


def _size_from(key: str, space: Space) -> float:
    """The number of distinct values of a dimension and those that depend on it, taken together; it may be infinite."""
    dependent = {child: d.when.values for child, d in space.items() if d.when is not None and d.when.key == key}
    deciding = {value for values in dependent.values() for value in values}
    branches = [
        math.prod(_size_from(child, space) for child, values in dependent.items() if value in values)
        for value in deciding
    ]
    return (num_values(space[key]) or math.inf) - len(deciding) + sum(branches)
