"""Samplers as a user might bring them, for ``tune.sampler: own_samplers:…``."""

from typing import Any

from optuna.samplers import BaseSampler, RandomSampler


class Lowest(RandomSampler):
    """Suggests the first value of everything after its first suggestion."""

    def sample_independent(self, study: Any, trial: Any, param_name: str, distribution: Any) -> Any:
        if trial.number == 0:
            return super().sample_independent(study, trial, param_name, distribution)
        return distribution.choices[0] if hasattr(distribution, "choices") else distribution.low


def from_a_function(seed: int) -> BaseSampler:
    return Lowest(seed=seed)


class OneObjective(RandomSampler):
    """Refuses what it cannot do only when it is asked, as Optuna's CMA-ES does."""

    def sample_relative(self, study: Any, trial: Any, search_space: Any) -> Any:
        if len(study.directions) > 1:
            raise ValueError("one objective only")
        return super().sample_relative(study, trial, search_space)


def nothing(seed: int) -> None:
    return None


def without_seed() -> BaseSampler:
    return Lowest()
