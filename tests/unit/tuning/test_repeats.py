"""Which trials are repeated over seeds, under which names, and which of them are left for a later driver."""

import pytest
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from irtune.config.load import build
from irtune.config.schema import SweepConfig
from irtune.tracking.ledger import RunEnd, RunLedger
from irtune.training.run import RESULT
from irtune.tuning.finalists import FINALISTS, RepeatSearcher, choose_repeats, num_repeats
from irtune.tuning.searcher import EndedTrial, open_study
from irtune.tuning.space_checks import check_space
from irtune.tuning.worker import TrialSetup

K, POLICY = "selection.policy.k", "selection.policy.name"


@pytest.fixture(autouse=True)
def _nothing_has_to_survive_a_power_cut(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


def sweep(**tune):
    tree = {
        "seed": 4,
        "selection": {"policy": {"name": "top_k", "k": 3}},
        "space": {
            K: {"type": "int", "low": 1, "high": 9, "when": {"key": POLICY, "in": ["top_k"]}},
            POLICY: {"type": "categorical", "choices": ["top_k", "all"]},
        },
        "tune": {"num_trials": 9, "finalists": {"top": 2, "seeds": 2}} | tune,
    }
    return build(SweepConfig, tree, "test")


@pytest.fixture
def searched(tmp_path):
    """Makes the study of a search that is over: its trials by k (None: all blocks), with score and FLOPs."""

    def search(trials, *, config=None, baseline=0.5):
        config = config or sweep()
        study = open_study(tmp_path / "study.journal", "mine", config.tune)
        for key, value in {"state": "COMPLETE", "value": baseline}.items() if baseline is not None else ():
            study.set_user_attr(f"baseline/{key}", value)
        extend(study, trials)
        return study

    return search


def extend(study, trials, state=TrialState.COMPLETE):
    known = {POLICY: CategoricalDistribution(["top_k", "all"]), K: IntDistribution(1, 9)}
    for k, value, flops in trials:
        params = {POLICY: "all"} if k is None else {POLICY: "top_k", K: k}
        number = len(study.trials)
        study.add_trial(
            create_trial(
                state=state,
                params=params,
                distributions={key: known[key] for key in params},
                value=value,
                user_attrs={"trial": f"trial_{number:04d}", "cost/total_flops": flops},
            )
        )


def names(repeats):
    return [repeat.name for repeat in repeats]


def test_the_best_and_the_baseline_are_repeated_on_seeds_that_chose_nothing(searched):
    study = searched([(1, 0.3, 1.0), (2, 0.6, 1.0), (3, 0.4, 1.0)])
    repeats = choose_repeats(study, sweep())
    # The search trained with seed 4.
    assert names(repeats) == [
        "finalist_baseline_seed_5",
        "finalist_trial_0001_seed_5",
        "finalist_trial_0002_seed_5",
        "finalist_baseline_seed_6",
        "finalist_trial_0001_seed_6",
        "finalist_trial_0002_seed_6",
    ]
    assert repeats[0].suggestion() == {
        "overrides": {"method": None, POLICY: "all", "seed": 5},
        "trial": "finalist_baseline_seed_5",
        "is_baseline": True,
        "repeats": "baseline",
    }
    assert repeats[4].suggestion() == {
        "overrides": {POLICY: "top_k", K: 2, "seed": 6},
        "trial": "finalist_trial_0001_seed_6",
        "is_baseline": False,
        "repeats": "trial_0001",
    }


def test_less_may_be_better_and_of_equals_the_cheaper_is(searched):
    config = sweep(metric="eval/loss", mode="min")
    study = searched([(1, 0.3, 2.0), (2, 0.6, 1.0), (3, 0.3, 1.0)], config=config)
    assert [repeat.repeats for repeat in choose_repeats(study, config)[:3]] == ["baseline", "trial_0002", "trial_0000"]


def test_only_what_ran_to_its_end_is_chosen(searched):
    study = searched([(1, 0.3, 1.0)])
    extend(study, [(2, 0.9, 1.0)], TrialState.PRUNED)
    extend(study, [(3, None, 1.0)], TrialState.FAIL)
    assert {repeat.repeats for repeat in choose_repeats(study, sweep())} == {"baseline", "trial_0000"}


@pytest.mark.parametrize(
    ("baseline", "repeated"), [(0.9, "baseline"), (0.6, "trial_0000"), (None, "trial_0000")], ids=str
)
def test_the_best_trial_of_all_blocks_is_what_others_are_compared_with(searched, baseline, repeated):
    study = searched([(None, 0.7, 1.0), (2, 0.4, 1.0)], baseline=baseline)
    assert [repeat.repeats for repeat in choose_repeats(study, sweep())[:2]] == [repeated, "trial_0001"]


def test_a_baseline_that_failed_is_repeated_all_the_same(searched):
    study = searched([(2, 0.4, 1.0)], baseline=None)
    assert [repeat.repeats for repeat in choose_repeats(study, sweep())[:2]] == ["baseline", "trial_0000"]


def test_with_nothing_to_compare_nothing_is_repeated(searched):
    assert choose_repeats(searched([(None, 0.7, 1.0)]), sweep()) == []


def test_what_was_chosen_stays_chosen_until_more_is_searched(searched):
    study = searched([(1, 0.3, 1.0), (2, 0.6, 1.0), (3, 0.4, 1.0)])
    choose_repeats(study, sweep())
    written = dict(study.user_attrs[FINALISTS])
    assert written["trials"] == ["baseline", "trial_0001", "trial_0002"]
    # Whatever another driver would choose, it keeps to what is written.
    study.set_user_attr(FINALISTS, written | {"trials": ["baseline", "trial_0000"]})
    assert {repeat.repeats for repeat in choose_repeats(study, sweep())} == {"baseline", "trial_0000"}
    more_seeds = sweep(finalists={"top": 2, "seeds": 3})
    assert len(choose_repeats(study, more_seeds)) == 2 * 3
    extend(study, [(4, 0.8, 1.0)])
    assert {repeat.repeats for repeat in choose_repeats(study, sweep())} == {"baseline", "trial_0003", "trial_0001"}


def test_a_later_driver_finds_what_is_left(searched, tmp_path):
    repeats = choose_repeats(searched([(1, 0.3, 1.0), (2, 0.6, 1.0)]), sweep())
    setup = TrialSetup({}, tmp_path, None, 1)
    finished, failed, killed, unheard, _ = repeats[:5]
    for repeat, status in ((finished, "FINISHED"), (failed, "FAILED"), (killed, "KILLED")):
        ledger = RunLedger(setup.trial_folder(repeat.name))
        ledger.begin(repeat.name, "name", {}, "spool")
        ledger.finish(RunEnd(status, {}, "a bug" if status == "FAILED" else None, 1))
    # The driver died before it heard of this one's end: it is begun again, finds its result, and is over at once.
    for repeat in (finished, unheard):
        folder = setup.trial_folder(repeat.name)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RESULT).write_text("{}")
    assert [repeat.ended(setup) for repeat in repeats[:5]] == [
        EndedTrial(finished.name, finished.overrides, "finished", None, finished.repeats),
        EndedTrial(failed.name, failed.overrides, "failed", "a bug", failed.repeats),
        None,
        None,
        None,
    ]


def test_the_searcher_suggests_each_once_and_then_ends(searched):
    repeats = choose_repeats(searched([(1, 0.3, 1.0)]), sweep())
    searcher = RepeatSearcher(repeats)
    suggested = [searcher.suggest(f"t{number}") for number in range(len(repeats))]
    assert suggested == [repeat.suggestion() for repeat in repeats]
    searcher.on_trial_complete("t0", error=True)
    assert searcher.suggest("t9") == "FINISHED"
    assert searcher.suggest("t10") == "FINISHED"


def test_progress_counts_on_repeats_of_what_there_will_be():
    finalists = sweep().tune.finalists
    # Two trials and the baseline on two seeds; a space of one configuration has only one trial.
    assert num_repeats(finalists, 9) == 6
    assert num_repeats(finalists, 1) == 4
    assert num_repeats(None, 9) == 0


def test_finalists_are_some_of_the_trials_on_several_seeds():
    (mistake,) = check_space(sweep(num_trials=1))
    assert mistake == ("tune.finalists.top: 2 is more than tune.num_trials (1); lower it, or raise tune.num_trials")
    assert check_space(sweep()) == []
    with pytest.raises(ValueError, match=r"tune\.finalists\.seeds"):
        sweep(finalists={"seeds": 1})
