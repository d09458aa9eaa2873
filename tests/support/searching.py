"""A search as a sweep has it, driven as Ray Tune drives one."""

from irtune.search.optuna_source import OptunaSource
from irtune.search.source import BASELINE_SPEC, ListSource, Outcome, Together
from irtune.studies.ray_tune import SourceSearcher


def searcher_of(study, space, tune, *, baseline_is_over=False):
    """Ray Tune's searcher over the baseline and a study."""
    known = Outcome("finished") if baseline_is_over else None
    return SourceSearcher(Together([ListSource([BASELINE_SPEC], lambda spec: known), OptunaSource(study, space, tune)]))


def is_baseline(suggestion):
    """Whether Tune is to run the baseline."""
    return suggestion["name"] == "baseline"
