"""Trials that follow a search: the baseline at the winner's other settings, and the finalists over seeds.

A search may vary more than which blocks train, the learning rate say. Its winner then had many tries where the baseline
had one, so that a difference says nothing about selecting blocks until every block has trained at these settings too.
"""

from collections.abc import Sequence

import optuna

from irtune.analysis.trials import TrialRow, baseline_for, beside_selection, best_first, chosen
from irtune.config.load import dotted_keys, with_overrides
from irtune.config.schema import ExperimentConfig
from irtune.config.sweep_schema import SweepConfig
from irtune.search.optuna_source import ended_trials, num_searched
from irtune.search.source import BASELINE_OVERRIDES, BASELINE_TRIAL, MATCHED, TrialSpec
from irtune.search.space import Values
from irtune.search.space_checks import set_by_methods

FINALISTS = "finalists"
"""User attribute of a study: which trials were chosen, and out of what."""


def may_differ(config: SweepConfig) -> bool:
    """Tell whether trials of a sweep may differ from its baseline in more than which blocks train."""
    return bool(beside_selection(dict.fromkeys([*config.space, *set_by_methods(config.space)])))


def matched_overrides(experiment: ExperimentConfig, overrides: Values, baselines: Sequence[Values]) -> Values | None:
    """Return what makes the baseline run at a trial's other settings.

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


def num_repeats(config: SweepConfig) -> int:
    """Count the repeats after a search whose trials all finish, the baselines' among them.

    Where trials may differ in more than which blocks train, every finalist has a baseline at its own settings at most.
    """
    finalists = config.tune.finalists
    if finalists is None:
        return 0
    best = min(finalists.top, num_searched(config.tune, config.space))
    return (best + 1 + best * may_differ(config)) * finalists.seeds


def choose_repeats(study: optuna.Study, rows: Sequence[TrialRow], config: SweepConfig) -> list[TrialSpec]:
    """The repeats of the best trials of a search that is over, and of the baseline, seed after seed.

    Where a finalist differs from the baseline in more than which blocks train, the baseline is also repeated at the
    finalist's other settings, which alone it is compared with.

    The trials are chosen on validation. Their seeds follow the one that the search trained with, which chose them, and
    so has no part in the comparison. The choice is written into the study, and stands until more is searched or
    ``tune.finalists.top`` is another: whichever driver goes on, it goes on with the same finalists.

    Args:
        study: The study of the sweep.
        rows: All trials of the search.
        config: The sweep.

    Returns:
        Nothing if no trial that selects blocks finished.
    """
    finalists, mode = config.tune.finalists, config.aim.first_objective[1]
    assert finalists is not None
    searched = [row for row in rows if row.repeats is None and not row.trial_id.startswith(MATCHED)]
    best = [row.trial_id for row in best_first(searched, mode, baseline=False)]
    if not best:
        return []
    out_of = {"top": finalists.top, "num_finished": len(best)}
    chosen_before = study.user_attrs.get(FINALISTS)
    if chosen_before is None or chosen_before["out_of"] != out_of:
        # A baseline that failed may not do so with another seed.
        baseline = chosen(searched, mode, baseline=True)
        names = [BASELINE_TRIAL if baseline is None else baseline.trial_id, *best[: finalists.top]]
        study.set_user_attr(FINALISTS, {"out_of": out_of, "trials": names})
    overrides = {BASELINE_TRIAL: BASELINE_OVERRIDES} | {spec.name: spec.overrides for spec, _ in ended_trials(study)}
    configurations = {name: overrides[name] for name in study.user_attrs[FINALISTS]["trials"]}
    baselines = [next(iter(configurations.values()))]
    for name in list(configurations)[1:]:
        matched = matched_overrides(config.experiment(), overrides[name], baselines)
        if matched is not None:
            configurations[f"{MATCHED}{name}"] = matched
            baselines.append(matched)
    seeds = range(config.seed + 1, config.seed + 1 + finalists.seeds)
    # A sweep that is stopped halfway has the first seeds of all finalists.
    return [
        TrialSpec(f"finalist_{name}_seed_{seed}", values | {"seed": seed}, name)
        for seed in seeds
        for name, values in configurations.items()
    ]
