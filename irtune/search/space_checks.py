"""What is wrong with a sweep as a whole, found before anything runs."""

import math
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from graphlib import CycleError
from itertools import product

import numpy as np

from irtune.config.load import ConfigError, apply_overrides, build, dotted_keys, explicit, with_overrides
from irtune.config.method_settings import with_method
from irtune.config.mistakes import known_keys
from irtune.config.schema import VARIANTS, ExperimentConfig
from irtune.config.sweep_schema import Choice, Condition, Dimension, SweepConfig
from irtune.importance.aggregations import rank_alike
from irtune.methods import METHODS
from irtune.plugins import nearest
from irtune.search.samplers import doubts_of_sampler, mistakes_of_sampler, sampler_named
from irtune.search.space import Space, Values, in_order, is_active, num_values, size

NOT_SEARCHABLE = {
    "name": "it names the sweep, in whose folder and experiment all trials are looked for",
    "storage": "all trials of a sweep lie under one folder",
    "tracking": "the runs of a sweep are compared within one experiment of one server",
    "metric": "trials are compared by one metric",
    "seed": "the search would choose lucky seeds; tune.finalists repeats the best over seeds",
    "data.name": "scores on different data cannot be compared",
    "data.seed": "each value is another validation set, and scores on different data cannot be compared",
    "engine.num_workers": "the trials of a sweep share its workers, and it would change the batch size; search that",
    "engine.cpus_per_worker": "the trials of a sweep share its workers",
    "engine.gpus_per_worker": "the trials of a sweep share its workers",
    "engine.process_group_timeout_s": "the trials of a sweep share its workers",
}
"""Settings (or whole sections) that a sweep keeps fixed, and why."""


def check_space(config: SweepConfig, num_blocks: int | None = None) -> list[str]:
    """Everything wrong with a sweep as a whole, by dotted key; each bound and choice is tried on the experiment.

    Args:
        config: The sweep.
        num_blocks: Blocks of the model, where known; policies are then checked against it.
    """
    space = config.space
    mistakes = [
        f"space.{key}: cannot be searched: {reason}"
        for key in space
        for fixed, reason in NOT_SEARCHABLE.items()
        if key == fixed or key.startswith(f"{fixed}.")
    ]
    fixed_values = dotted_keys(config.experiment())
    for key, dimension in space.items():
        if dimension.when is not None:
            mistakes += [
                f"space.{key}.when.{wrong}" for wrong in _mistaken_condition(dimension.when, space, fixed_values)
            ]
    asha, max_steps = config.tune.scheduler, config.training.max_steps
    if asha is not None and "training.max_steps" not in space and asha.grace_steps >= max_steps:
        mistakes.append(
            f"tune.scheduler.grace_steps: {asha.grace_steps} is not below training.max_steps ({max_steps}), so that no "
            "trial would be stopped; lower it, or set tune.scheduler to null"
        )
    finalists = config.tune.finalists
    if finalists is not None and finalists.top > config.tune.num_trials:
        mistakes.append(
            f"tune.finalists.top: {finalists.top} is more than tune.num_trials ({config.tune.num_trials}); lower it, "
            "or raise tune.num_trials"
        )
    try:
        in_order(space)
    except CycleError as error:
        return [*mistakes, f"space: the conditions go round in a circle: {' -> '.join(error.args[1])}"]
    mistakes += mistakes_of_sampler(config)
    return mistakes + _misfits(config, None if "model.name" in space else num_blocks)


def doubtful(config: SweepConfig) -> list[str]:
    """What is allowed in a sweep but probably not meant, by dotted key; for a space that ``check_space`` accepts."""
    space = config.space
    doubts = [
        f"space.{key}: has one value only; set {key} in the experiment instead"
        for key, dimension in space.items()
        if num_values(dimension) == 1
    ]
    num_configurations = size(space)
    if num_configurations is not None and num_configurations < config.tune.num_trials:
        doubts.append(
            f"tune.num_trials: {config.tune.num_trials} trials, but the space has {num_configurations} configurations; "
            "the sweep ends when all are tried"
        )
    elif sampler_named(config.tune.sampler).tries_all and num_configurations not in (None, config.tune.num_trials):
        doubts.append(
            f"tune.num_trials: {config.tune.num_trials} of the grid's {num_configurations} configurations are tried"
        )
    doubts += doubts_of_sampler(config)
    without_effect: dict[str, set[str]] = {}
    for values, varied in variations(config):
        for key in values:
            if key.startswith("importance.") and not varied.selection.policy.uses_importance:
                without_effect.setdefault(key, set()).add(varied.method or varied.selection.policy.name)
    chooser = "method" if "method" in space else "selection.policy.name"
    for key, strategies in without_effect.items():
        names = ", ".join(sorted(strategies))
        doubts.append(f"space.{key}: has no effect under {names}; restrict it with when: {{key: {chooser}, …}}")
    return doubts


def variations(config: SweepConfig) -> Iterator[tuple[Values, ExperimentConfig]]:
    """Experiments that a space leads to, each with its place there; of a space that ``check_space`` accepts."""
    tree = explicit(config.experiment())
    for values in _cases(config.space):
        yield values, build(ExperimentConfig, apply_overrides(tree, values), "space")


def indistinct_choices(config: SweepConfig, sizes_by_tensors: Callable[[str], list[np.ndarray]]) -> list[str]:
    """Choices of ``importance.within_block`` that rank the blocks of the model identically.

    Args:
        config: The sweep.
        sizes_by_tensors: From ``importance.tensors`` to the tensor sizes ``(P,)`` of each block.
    """
    key = "importance.within_block"
    if key not in config.space:
        return []
    groups = [rank_alike(sizes_by_tensors(t)) if t is not None else [] for t in _aggregated_tensors(config)]
    alike: dict[tuple[Choice, ...], list[Choice]] = {}
    for choice in config.space[key].choices or ():
        # Two choices are alike if they fall into the same group whichever signal measures and whichever tensors count.
        label = tuple(next((str(sorted(group)) for group in found if choice in group), choice) for found in groups)
        alike.setdefault(label, []).append(choice)
    return [
        f"space.{key}.choices: {', '.join(map(str, choices))} rank blocks of these shapes identically; keep one of them"
        for choices in alike.values()
        if len(choices) > 1
    ]


def _aggregated_tensors(config: SweepConfig) -> set[str | None]:
    """What ``importance.within_block`` may aggregate: values of ``importance.tensors``, or None for a signal that does
    not read the adapter's tensors, so that their sizes say nothing about it."""
    names = config.space["importance.name"].choices if "importance.name" in config.space else None
    tensors = config.space["importance.tensors"].choices if "importance.tensors" in config.space else None
    methods = config.space["method"].choices if "method" in config.space else None
    varied = [with_overrides(config.experiment(), {"method": m}) for m in methods or [config.method]]
    signals = [one.importance for one in varied if one.selection.policy.uses_importance] or [config.importance]
    found: set[str | None] = set()
    for signal, name in product(signals, names or [None]):
        fields = VARIANTS["importance"].chosen({"name": name or signal.name}).model_fields
        if "within_block" in fields and "tensors" in fields:
            own = signal if name in (None, signal.name) else None
            found |= {str(t) for t in tensors or [getattr(own, "tensors", fields["tensors"].default)]}
        elif "within_block" in fields:
            found.add(None)
    return found


def _mistaken_condition(when: Condition, space: Space, fixed_values: Mapping[str, object]) -> list[str]:
    if when.key not in space and when.key in _set_by_methods(space):
        return [f"key: {when.key} is what the searched method makes it; ask for method instead"]
    if when.key in fixed_values and when.key not in space:
        found = fixed_values[when.key]
        return [] if found in when.values else [f"in: never holds, since {when.key} is {found!r} in every trial"]
    if when.key not in space:
        section = when.key.rpartition(".")[0]
        beside = {setting for setting in known_keys(ExperimentConfig) if setting.rpartition(".")[0] == section}
        near = nearest(when.key, {*space, *beside} - {when.key})
        return [f"key: no dimension and no setting of the experiment is called {when.key}: {near}"]
    parent = space[when.key]
    if parent.choices:
        known = f"available: {', '.join(map(repr, parent.choices))}"
    else:
        step = f" in steps of {parent.step:g}" if parent.step else ""
        known = f"it is {parent.type} from {parent.low:g} to {parent.high:g}{step}"
    return [f"in: {value!r} is no value of {when.key}: {known}" for value in when.values if not _takes(parent, value)]


def _set_by_methods(space: Space) -> set[str]:
    """Settings that differ from trial to trial because ``method`` is searched."""
    choices = space["method"].choices or () if "method" in space else ()
    return {key for choice in choices if choice in METHODS for key in METHODS[str(choice)].settings}


def _takes(dimension: Dimension, value: Choice) -> bool:
    if dimension.choices is not None:
        return value in dimension.choices
    step = dimension.step or (1 if dimension.type == "int" else None)
    if step is None or isinstance(value, bool | str | None):
        return False
    assert dimension.low is not None
    assert dimension.high is not None
    steps = (Decimal(str(value)) - Decimal(str(dimension.low))) / Decimal(str(step))
    return dimension.low <= value <= dimension.high and steps == int(steps)


def values_of(dimension: Dimension) -> list[Choice]:
    """The choices of a dimension, or its bounds."""
    return [value for field, value in _probes(dimension) if field != "type"]


def _probes(dimension: Dimension) -> list[tuple[str, Choice]]:
    """Values to try, each with the field that it stands for."""
    if dimension.choices is not None:
        return [("choices", choice) for choice in dimension.choices]
    assert dimension.low is not None
    assert dimension.high is not None
    if dimension.type == "int":
        return [("low", int(dimension.low)), ("high", int(dimension.high))]
    between = dimension.low + (dimension.step or (dimension.high - dimension.low) / math.pi)
    return [("low", dimension.low), ("high", dimension.high), ("type", min(between, dimension.high))]


def _activations(key: str, space: Space) -> list[Values]:
    """The ways in which the dimensions that decide about ``key`` can make it exist."""
    when = space[key].when
    if when is None or when.key not in space:
        return [{}]
    possible = [value for value in when.values if _takes(space[when.key], value)]
    return [{**outer, when.key: value} for value in possible for outer in _activations(when.key, space)]


def _complete(partial: Values, space: Space) -> Values:
    """``partial`` with a value for every other dimension that exists beside it."""
    values: Values = {}
    for key in in_order(space):
        if is_active(key, space, values):
            values[key] = partial[key] if key in partial else _probes(space[key])[0][1]
    return values


def _cases(space: Space) -> Iterator[Values]:
    """Every probe of every dimension under every condition, alone and with every probe of each other dimension."""
    for key, dimension in space.items():
        for _, value in _probes(dimension):
            for activation in _activations(key, space):
                partial = {**activation, key: value}
                values = _complete(partial, space)
                yield values
                for other in (other for other in values if other not in partial):
                    for _, other_value in _probes(space[other])[1:]:
                        yield _complete({**partial, other: other_value}, space)


def _misfits(config: SweepConfig, num_blocks: int | None) -> list[str]:
    """Mistakes of the experiments that the space leads to, each traced to the dimension and bound it comes from."""
    tree = explicit(config.experiment())
    wrong: dict[tuple[str, str], set[str]] = {}
    right: set[tuple[str, str]] = set()
    for values in _cases(config.space):
        blames = [_blame(mistake, values) for mistake in _mistakes_of(tree, values, num_blocks)]
        for key, message in blames:
            wrong.setdefault((key, message), set()).add(repr(values.get(key)))
        right |= {(key, repr(value)) for key, value in values.items() if key not in dict(blames)}
    return list(
        dict.fromkeys(line for blame, found in wrong.items() for line in _lines(*blame, found, config.space, right))
    )


def _mistakes_of(tree: Mapping[str, object], values: Values, num_blocks: int | None) -> list[str]:
    try:
        varied = apply_overrides(tree, values)
    except ConfigError as error:
        return list(error.mistakes)
    mistakes: list[str] = []
    try:
        build(ExperimentConfig, varied, "space")
    except ConfigError as error:
        mistakes += error.mistakes
    has_policy = not any(mistake.startswith(("selection:", "selection.policy")) for mistake in mistakes)
    if num_blocks is not None and has_policy:
        try:
            policy = with_method(varied).get("selection", {}).get("policy", {})
            VARIANTS["selection.policy"].build(policy).check(num_blocks)
        except ValueError as error:
            mistakes.append(str(error))
    return mistakes


def _blame(mistake: str, values: Values) -> tuple[str, str]:
    """The dimension that a mistake comes from ("" if none), and what to say about it."""
    about, _, message = mistake.partition(": ")
    section = about.rpartition(".")[0]
    if about in values:
        return about, message
    for key in values:
        if key.startswith(f"{about}.") or about.startswith(f"{key}."):
            return key, mistake
    siblings = [key for key in values if section and key.rpartition(".")[0] == section]
    default = "method" if "method" in values else ""
    key = f"{section}.name" if f"{section}.name" in siblings else (siblings or [default])[0]
    return key, f"{values[key]!r}: {mistake}" if key else mistake


def _lines(key: str, message: str, found: set[str], space: Space, right: set[tuple[str, str]]) -> list[str]:
    if not key:
        return [message]
    if any((key, value) in right for value in found):
        message = f"{message}; say when this dimension exists: when: {{key: …, in: […]}}"
    probes = _probes(space[key])
    if len(probes) > 1 and {repr(value) for _, value in probes} <= found:
        return [f"space.{key}: {message}"]
    fields = [field for field, value in probes if repr(value) in found]
    return [f"space.{key}.{field}: {message}" for field in fields] or [f"space.{key}: {message}"]
