"""The baseline once more, at the other settings of a trial that it is compared with: like with like.

A search may vary more than which blocks train, the learning rate say. Its winner then had many tries where the baseline
had one, so that a difference says nothing about selecting blocks until every block has trained at these settings too.
"""

from collections.abc import Sequence

import optuna

from irtune.analysis.trials import TrialRow, baseline_for, beside_selection, chosen
from irtune.config.load import dotted_keys, with_overrides
from irtune.config.schema import ExperimentConfig
from irtune.config.sweep_schema import SweepConfig
from irtune.methods import METHODS
from irtune.search.optuna_source import ended_trials
from irtune.search.source import BASELINE_OVERRIDES, MATCHED, TrialSpec
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


def matched_baseline(study: optuna.Study, rows: Sequence[TrialRow], config: SweepConfig) -> list[TrialSpec]:
    """The baseline at the settings of the best trial that selects blocks, once a search is over.

    Args:
        study: The study of the sweep.
        rows: All trials of the search.
        config: The sweep.

    Returns:
        Nothing if nothing that selects finished, or if a baseline ran at these settings.
    """
    mode = config.aim.first_objective[1]
    best = chosen([row for row in rows if row.repeats is None], mode, baseline=False)
    if best is None or baseline_for(best, rows, mode) is not None:
        return []
    overrides = next(spec.overrides for spec, _ in ended_trials(study) if spec.name == best.trial_id)
    # A baseline that failed at the file's settings fails at the same ones again.
    values = matched_overrides(config.experiment(), overrides, [BASELINE_OVERRIDES])
    return [] if values is None else [TrialSpec(f"{MATCHED}{best.trial_id}", values)]
