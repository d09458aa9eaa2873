"""The baseline once more, at the other settings of a trial that it is compared with: like with like.

A search may vary more than which blocks train, the learning rate say. Its winner then had many tries where the baseline
had one, so that a difference says nothing about selecting blocks until every block has trained at these settings too.
"""

from collections.abc import Mapping, Sequence

from irtune.analysis.metrics import Mode
from irtune.analysis.trials import TrialRow, baseline_for, beside_selection, chosen
from irtune.config.load import dotted_keys, with_overrides
from irtune.config.schema import ExperimentConfig
from irtune.config.sweep_schema import SweepConfig
from irtune.methods import METHODS
from irtune.search.list_source import ListedTrial
from irtune.search.optuna_source import BASELINE_OVERRIDES, MATCHED
from irtune.search.space import Values


def may_differ(config: SweepConfig) -> bool:
    """Whether trials of a sweep may differ from its baseline in more than which blocks train."""
    choices = config.space["method"].choices or () if "method" in config.space else ()
    of_methods = [key for name in choices if isinstance(name, str) for key in METHODS[name].settings]
    return bool(beside_selection(dict.fromkeys([*config.space, *of_methods])))


def matched_overrides(experiment: ExperimentConfig, overrides: Values, baselines: Sequence[Values]) -> Values | None:
    """What makes the baseline run at a trial's other settings.

    Args:
        experiment: What the trials of the sweep vary.
        overrides: The trial's configuration, over it.
        baselines: The configurations of baselines that run anyway.

    Returns:
        None if one of ``baselines`` has these settings.
    """
    wanted = beside_selection(dotted_keys(with_overrides(experiment, overrides)))
    if any(beside_selection(dotted_keys(with_overrides(experiment, one))) == wanted for one in baselines):
        return None
    values = dict(BASELINE_OVERRIDES) | {key: overrides[key] for key in beside_selection(overrides)}
    # What a trial owes to its method is said by the method alone, and the baseline has none.
    found = dotted_keys(with_overrides(experiment, values))
    return values | {key: value for key, value in wanted.items() if key not in found or found[key] != value}


def matched_baseline(
    config: SweepConfig, rows: Sequence[TrialRow], overrides: Mapping[str, Values], mode: Mode
) -> ListedTrial | None:
    """The baseline at the settings of the best trial that selects blocks, once a search is over.

    Args:
        config: The sweep.
        rows: All trials of the search.
        overrides: The configurations of the trials, by name.
        mode: Whether more or less of what is searched for is better.

    Returns:
        None if nothing that selects finished, or if a baseline ran at these settings.
    """
    best = chosen([row for row in rows if row.repeats is None], mode, baseline=False)
    if best is None or baseline_for(best, rows, mode) is not None:
        return None
    # A baseline that failed at the file's settings fails at the same ones again.
    values = matched_overrides(config.experiment(), overrides[best.trial_id], [BASELINE_OVERRIDES])
    return None if values is None else ListedTrial(f"{MATCHED}{best.trial_id}", values)
