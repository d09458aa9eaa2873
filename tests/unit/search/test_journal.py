"""The study's storage: who asks for a trial gets those that wait, without a look at all others."""

import optuna
import pytest
from optuna.trial import TrialState

from irtune.search.journal import StudyStorage


@pytest.fixture
def open_study(tmp_path):
    def open_study():
        return optuna.create_study(storage=StudyStorage(tmp_path / "study"), study_name="s", load_if_exists=True)

    return open_study


def test_waiting_trials_come_first_in_their_order_whoever_queued_them(open_study):
    study = open_study()
    study.tell(study.ask(), 1.0)
    study.enqueue_trial({"x": 1})
    open_study().enqueue_trial({"x": 2})
    numbers = [study.ask().number for _ in range(3)]
    assert numbers == [1, 2, 3]
    assert [trial.system_attrs.get("fixed_params") for trial in study.trials[1:]] == [{"x": 1}, {"x": 2}, None]
    # One that waits behind others that have begun.
    study.enqueue_trial({"x": 3})
    assert study.ask().number == 4
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] + [TrialState.RUNNING] * 4


def test_asking_looks_at_trials_that_began_only_once(open_study, monkeypatch):
    study = open_study()
    looked_at = []
    get_trial = StudyStorage.get_trial

    def noting(self, trial_id):
        looked_at.append(trial_id)
        return get_trial(self, trial_id)

    for _ in range(50):
        study.ask()
    monkeypatch.setattr(StudyStorage, "get_trial", noting)
    study._storage.get_all_trials(study._study_id, deepcopy=False, states=(TrialState.WAITING,))
    study._storage.get_all_trials(study._study_id, deepcopy=False, states=(TrialState.WAITING,))
    assert len(looked_at) <= 1
