"""Optuna's samplers by name, one entry each: how a search chooses the next configuration."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.samplers import (
    BaseSampler,
    BruteForceSampler,
    GPSampler,
    NSGAIISampler,
    RandomSampler,
    TPESampler,
)
from optuna.study import StudyDirection

from irtune.config.sweep_schema import SweepConfig, TuneConfig
from irtune.plugins import resolve
from irtune.search.space import num_values, suggest

MAX_POPULATION = 50
"""Trials a generation of NSGA-II, as its authors and Optuna have it; fewer where a sweep has fewer than four times as
many trials, since the first generation is random."""


@dataclass(frozen=True)
class Sampler:
    """A sampler, and what a sweep can ask of it.

    Args:
        build: Makes Optuna's, from how the space is searched and a seed.
        learns_from_others: Whether it learns from trials that it did not suggest, as ``tune.warm_start`` needs.
        models_conditions: Whether it also learns of dimensions that do not exist in every trial.
        heeds_constraints: Whether it keeps away from what breaks constraints.
        tries_all: Whether it tries every configuration, and so needs a space that has an end of them.
    """

    build: Callable[[TuneConfig, int], BaseSampler]
    learns_from_others: bool = True
    models_conditions: bool = True
    heeds_constraints: bool = True
    tries_all: bool = False


def sampler_named(name: str) -> Sampler:
    """The sampler that ``tune.sampler`` names, by irtune's entry or ``package.module:Attr``.

    ``package.module:Attr`` is a class of samplers, or a function that makes one, and is called with ``seed=…``; what it
    can do is left to it.

    Raises:
        ValueError: If there is none of this name.
    """
    found = resolve(name, SAMPLERS, key="tune.sampler")
    return found if isinstance(found, Sampler) else Sampler(lambda tune, seed: _made(name, found, seed))


def build_sampler(tune: TuneConfig, seed: int) -> BaseSampler:
    """What chooses the configurations of a sweep.

    Args:
        tune: How the space is searched.
        seed: Of the sampler.

    Raises:
        ValueError: If ``tune.sampler`` names none, or one that cannot be made; the message begins with that key.
    """
    with warnings.catch_warnings():
        # Optuna calls group (since 2.8) and GP experimental; without group TPE samples conditional dimensions one by
        # one.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return sampler_named(tune.sampler).build(tune, seed)


def mistakes_of_sampler(config: SweepConfig) -> list[str]:
    """What a sweep asks of its sampler that this cannot do, by dotted key; one from outside is tried out.

    Args:
        config: A sweep whose conditions do not go round in a circle.
    """
    name, mistakes = config.tune.sampler, []
    try:
        sampler = sampler_named(name)
        if name not in SAMPLERS:
            _try_out(config)
    except ValueError as error:
        return [str(error)]
    if sampler.tries_all:
        mistakes += [
            f"space.{key}: has no end of values for tune.sampler={name}; give it a step, or choices, or another sampler"
            for key, dimension in config.space.items()
            if num_values(dimension) is None
        ]
    if config.tune.warm_start is not None and not sampler.learns_from_others:
        others = [other for other, known in SAMPLERS.items() if known.learns_from_others]
        mistakes.append(
            f"tune.warm_start: tune.sampler={name} learns nothing from trials that are not its own; use "
            f"{' or '.join(others)}, or leave it out"
        )
    return mistakes


def doubts_of_sampler(config: SweepConfig) -> list[str]:
    """What the sampler makes less of than a sweep may expect, by dotted key."""
    name, conditional = config.tune.sampler, [key for key, d in config.space.items() if d.when is not None]
    sampler, doubts = sampler_named(name), []
    if conditional and not sampler.models_conditions:
        doubts.append(
            f"tune.sampler: {name} draws dimensions that do not exist in every trial at random "
            f"({', '.join(conditional)}); tpe learns about them too"
        )
    if config.tune.constraints and not sampler.heeds_constraints:
        doubts.append(
            f"tune.constraints: {name} does not keep away from what breaks them; such trials run, and are marked"
        )
    return doubts


def _made(name: str, factory: Any, seed: int) -> BaseSampler:
    """A sampler from outside of irtune."""
    rule = "it is called with seed=…, and has to give one of optuna.samplers.BaseSampler"
    try:
        made = factory(seed=seed)
    # Code of the user's may raise anything.
    except Exception as error:
        raise ValueError(f"tune.sampler: {name} cannot be made ({type(error).__name__}: {error}); {rule}") from error
    if not isinstance(made, BaseSampler):
        raise ValueError(f"tune.sampler: {name} gives a {type(made).__name__}; {rule}")
    return made


def _try_out(config: SweepConfig) -> None:
    """Have a sampler from outside suggest a configuration.

    Raises:
        ValueError: If it cannot.
    """
    sampler, verbosity = build_sampler(config.tune, config.tune.seed), optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    maximize, minimize = StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE
    directions = [maximize if mode == "max" else minimize for mode in config.tune.objectives.values()]
    try:
        suggest(optuna.create_study(sampler=sampler, directions=directions).ask(), config.space)
    # Code of the user's may raise anything.
    except Exception as error:
        told = f"{type(error).__name__}: {error}"
        raise ValueError(f"tune.sampler: {config.tune.sampler} cannot search this space ({told})") from error
    finally:
        optuna.logging.set_verbosity(verbosity)


class _Grid(BruteForceSampler):
    """Every configuration once, in random order; when all are tried the searcher knows, so no study is stopped."""

    def after_trial(self, *trial: Any) -> None:
        """Leave the study alone: only a loop of Optuna's own could be stopped."""


def _tpe(tune: TuneConfig, seed: int) -> BaseSampler:
    return TPESampler(
        n_startup_trials=tune.num_startup_trials, seed=seed, multivariate=True, group=True, constant_liar=True
    )


def _gp(tune: TuneConfig, seed: int) -> BaseSampler:
    return GPSampler(n_startup_trials=tune.num_startup_trials, seed=seed, warn_independent_sampling=False)


def _nsga2(tune: TuneConfig, seed: int) -> BaseSampler:
    return NSGAIISampler(population_size=min(MAX_POPULATION, max(2, tune.num_trials // 4)), seed=seed)


SAMPLERS: Mapping[str, Sampler] = {
    "tpe": Sampler(_tpe),
    "gp": Sampler(_gp, models_conditions=False),
    # It breeds from generations that it suggested itself.
    "nsga2": Sampler(_nsga2, learns_from_others=False, models_conditions=False),
    "random": Sampler(lambda tune, seed: RandomSampler(seed=seed), learns_from_others=False, heeds_constraints=False),
    "grid": Sampler(
        lambda tune, seed: _Grid(seed=seed), learns_from_others=False, heeds_constraints=False, tries_all=True
    ),
}
"""Name in ``tune.sampler`` -> sampler."""
