"""Optuna's samplers by name: how a search chooses the next configuration."""

import warnings
from collections.abc import Callable, Mapping
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

from irtune.config.sweep_schema import TuneConfig

MAX_POPULATION = 50
"""Trials a generation of NSGA-II, as its authors and Optuna have it; fewer where a sweep has fewer than four times as
many trials, since the first generation is random."""


def build_sampler(tune: TuneConfig, seed: int) -> BaseSampler:
    """The sampler that ``tune.sampler`` names.

    Args:
        tune: How the space is searched.
        seed: Of the sampler.
    """
    with warnings.catch_warnings():
        # Optuna calls group (since 2.8) and GP experimental; without group TPE samples conditional dimensions one by
        # one.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return _SAMPLERS[tune.sampler](tune, seed)


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


_SAMPLERS: Mapping[str, Callable[[TuneConfig, int], BaseSampler]] = {
    "tpe": _tpe,
    "gp": _gp,
    "nsga2": _nsga2,
    "random": lambda tune, seed: RandomSampler(seed=seed),
    "grid": lambda tune, seed: _Grid(seed=seed),
}
