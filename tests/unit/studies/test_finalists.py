"""Which trials are repeated over seeds, under which names, and which of them are left for a later driver."""

import pytest
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.trial import TrialState, create_trial
from saying import says

from irtune.analysis.trials import TrialRow
from irtune.config.load import build
from irtune.config.sweep_schema import SweepConfig
from irtune.search.optuna_source import open_study
from irtune.search.source import ListSource, Outcome
from irtune.search.space_checks import check_space
from irtune.studies.driver import known_end
from irtune.studies.finalists import FINALISTS, choose_repeats, num_repeats
from irtune.tracking.run_record import Ended, Opened, RunRecord
from irtune.training.record import RecordWriter
from irtune.workers.worker import TrialSetup

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


class Search:
    """A search that is over: its study, and its trials as the analysis sees them."""

    def __init__(self, folder, config, baseline):
        self.config = config
        self.study = open_study(folder / "study.journal", "mine", config.tune)
        self.rows = [] if baseline is None else [self._row("baseline", "all", baseline, 1.0, "finished")]

    def add(self, k, score, flops=1.0, status="finished"):
        """One trial; with k None it trains all blocks."""
        name = f"trial_{len(self.study.trials):04d}"
        params = {POLICY: "all"} if k is None else {POLICY: "top_k", K: k}
        known = {POLICY: CategoricalDistribution(["top_k", "all"]), K: IntDistribution(1, 9)}
        state = {"finished": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}[status]
        distributions = {key: known[key] for key in params}
        trial = create_trial(
            state=state, params=params, distributions=distributions, value=score, user_attrs={"trial": name}
        )
        self.study.add_trial(trial)
        self.rows.append(self._row(name, params[POLICY], score, flops, status))
        return self

    def repeats(self, config=None):
        return choose_repeats(self.study, self.rows, config or self.config)

    def repeated(self):
        """The trials repeated, by name."""
        return [repeat.repeats for repeat in self.repeats() if repeat.overrides["seed"] == self.config.seed + 1]

    def _row(self, name, strategy, score, flops, status):
        objective = score if self.config.aim.first_objective[1] == "min" else None
        return TrialRow(
            trial_id=name,
            name=name,
            strategy=strategy,
            status=status,
            num_blocks=9,
            seed=self.config.seed,
            reselect_every=3,
            flops=flops,
            validation_score=score,
            objective=objective,
        )


@pytest.fixture
def search(tmp_path):
    """Makes a search."""
    return lambda config=None, baseline=0.5: Search(tmp_path, config or sweep(), baseline)


def names(repeats):
    return [repeat.name for repeat in repeats]


def test_the_best_and_the_baseline_are_repeated_on_seeds_that_chose_nothing(search):
    repeats = search().add(1, 0.3).add(2, 0.6).add(3, 0.4).repeats()
    # The search trained with seed 4.
    assert names(repeats) == [
        "finalist_baseline_seed_5",
        "finalist_trial_0001_seed_5",
        "finalist_trial_0002_seed_5",
        "finalist_baseline_seed_6",
        "finalist_trial_0001_seed_6",
        "finalist_trial_0002_seed_6",
    ]
    assert (repeats[0].overrides, repeats[0].repeats) == ({"method": None, POLICY: "all", "seed": 5}, "baseline")
    assert (repeats[4].overrides, repeats[4].repeats) == ({POLICY: "top_k", K: 2, "seed": 6}, "trial_0001")
    assert [repeat.is_baseline for repeat in repeats] == [True, False, False, True, False, False]


def test_less_may_be_better_and_of_equals_the_cheaper_is(search):
    config = sweep(metric="eval/loss", mode="min")
    searched = search(config).add(1, 0.3, flops=2.0).add(2, 0.6).add(3, 0.3, flops=1.0)
    assert searched.repeated() == ["baseline", "trial_0002", "trial_0000"]


def test_only_what_ran_to_its_end_is_chosen(search):
    searched = search().add(1, 0.3).add(2, 0.9, status="pruned").add(3, None, status="failed")
    assert searched.repeated() == ["baseline", "trial_0000"]


@pytest.mark.parametrize(
    ("baseline", "repeated"), [(0.9, "baseline"), (0.6, "trial_0000"), (None, "trial_0000")], ids=str
)
def test_the_best_trial_of_all_blocks_is_what_others_are_compared_with(search, baseline, repeated):
    searched = search(baseline=baseline).add(None, 0.7).add(2, 0.4)
    assert searched.repeated() == [repeated, "trial_0001"]


def test_a_baseline_that_failed_is_repeated_all_the_same(search):
    searched = search(baseline=None).add(2, 0.4)
    assert searched.repeats()[0].overrides == {"method": None, POLICY: "all", "seed": 5}


def test_with_nothing_to_compare_nothing_is_repeated(search):
    assert search().add(None, 0.7).repeats() == []


def test_what_was_chosen_stays_chosen_until_more_is_searched(search):
    searched = search().add(1, 0.3).add(2, 0.6).add(3, 0.4)
    searched.repeats()
    written = dict(searched.study.user_attrs[FINALISTS])
    assert written["trials"] == ["baseline", "trial_0001", "trial_0002"]
    # Whatever another driver would choose, it keeps to what is written.
    searched.study.set_user_attr(FINALISTS, written | {"trials": ["baseline", "trial_0000"]})
    assert searched.repeated() == ["baseline", "trial_0000"]
    assert len(searched.repeats(sweep(finalists={"top": 2, "seeds": 3}))) == 2 * 3
    searched.add(4, 0.8)
    assert searched.repeated() == ["baseline", "trial_0003", "trial_0001"]


def test_a_later_driver_finds_what_is_left(search, tmp_path):
    repeats = search().add(1, 0.3).add(2, 0.6).repeats()
    setup = TrialSetup({}, tmp_path, None, 1)
    finished, failed, killed, unheard, _ = repeats[:5]
    for repeat, status in ((finished, "FINISHED"), (failed, "FAILED"), (killed, "KILLED")):
        record = RunRecord(setup.trial_folder(repeat.name))
        record.begin(Opened(repeat.name, "name", {}, 1_000))
        record.finish(Ended(status, {}, "a bug" if status == "FAILED" else None, 1))
    # The driver died before it heard of this one's end: it is begun again, finds its result, and is over at once.
    for repeat in (finished, unheard):
        RecordWriter(setup.trial_folder(repeat.name)).result({"final": True})
    known = [known_end(repeat, setup) for repeat in repeats[:5]]
    assert known == [Outcome("finished"), Outcome("failed", reason="a bug"), None, None, None]
    source = ListSource(repeats, lambda repeat: known_end(repeat, setup))
    assert source.ended() == [(finished, known[0]), (failed, known[1])]
    assert [source.ask() for _ in repeats] == [*repeats[2:], None, None]
    assert source.is_exhausted


def test_progress_counts_on_repeats_of_what_there_will_be():
    # Two trials and the baseline on two seeds; a space of one configuration has only one trial.
    assert num_repeats(sweep()) == 6
    assert num_repeats(sweep(num_trials=1)) == 4
    assert num_repeats(sweep(finalists=None)) == 0


def test_finalists_are_some_of_the_trials_on_several_seeds():
    (mistake,) = check_space(sweep(num_trials=1))
    assert says(mistake, "tune.finalists.top: 2 … tune.num_trials (1)", "lower … raise tune.num_trials")
    assert check_space(sweep()) == []
    with pytest.raises(ValueError, match=r"tune\.finalists\.seeds"):
        sweep(finalists={"seeds": 1})
