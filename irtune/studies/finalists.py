"""The finalists of a sweep: which trials are repeated over seeds, each beside a baseline at its own settings."""

from collections.abc import Sequence

import optuna

from irtune.analysis.trials import TrialRow, best_first, chosen
from irtune.config.sweep_schema import SweepConfig
from irtune.search.optuna_source import ended_trials, num_searched
from irtune.search.source import BASELINE_OVERRIDES, BASELINE_TRIAL, MATCHED, TrialSpec
from irtune.studies.matched import matched_overrides, may_differ

FINALISTS = "finalists"
"""User attribute of a study: which trials were chosen, and out of what."""


def num_repeats(config: SweepConfig) -> int:
    """How many repeats there will be after a search whose trials all finish, the baselines' among them.

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
