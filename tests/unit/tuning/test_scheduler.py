import pickle
from types import SimpleNamespace

import pytest
from ray.tune.schedulers import FIFOScheduler

from irtune.config.sweep import AshaConfig
from irtune.tuning.scheduler import build_scheduler


def asha(grace_steps=10, max_steps=100, mode="max"):
    config = AshaConfig(grace_steps=grace_steps, reduction_factor=3)
    return build_scheduler(config, max_steps=max_steps, metric="score", mode=mode)


def run(scheduler, trial_id, scores, is_baseline=False):
    """The step at which a trial with these scores by step is stopped, None if it never is."""
    trial = SimpleNamespace(trial_id=trial_id, config={"is_baseline": is_baseline})
    scheduler.on_trial_add(None, trial)
    for step, score in scores.items():
        result = {"step": step, "score": score}
        if scheduler.on_trial_result(None, trial, result) == "STOP":
            scheduler.on_trial_complete(None, trial, result)
            return step
    scheduler.on_trial_complete(None, trial, result)
    return None


def test_without_a_scheduler_nothing_is_stopped():
    assert type(build_scheduler(None, max_steps=100, metric="score", mode="max")) is FIFOScheduler


def test_the_worse_are_stopped_at_a_rung_and_not_before():
    scheduler = asha()
    good, bad = {5: 0.9, 10: 0.9, 30: 0.9, 100: 0.9}, {5: 0.1, 10: 0.1, 30: 0.1, 100: 0.1}
    assert run(scheduler, "good", good) is None
    assert run(scheduler, "bad", bad) == 10
    assert run(scheduler, "best", dict.fromkeys(good, 0.95)) is None


def test_smaller_may_be_better():
    scheduler = asha(mode="min")
    assert run(scheduler, "good", {10: 0.1, 30: 0.1}) is None
    assert run(scheduler, "bad", {10: 0.9, 30: 0.9}) == 10


def test_the_baseline_is_never_stopped_but_counts():
    scheduler = asha()
    assert run(scheduler, "good", {10: 0.9, 30: 0.9, 90: 0.9}) is None
    assert run(scheduler, "baseline", {10: 0.5, 30: 0.5, 90: 0.5, 100: 0.5}, is_baseline=True) is None
    # Rung 10 holds .9 and .5, of which the upper third begins at .77; without the baseline it would begin at .9.
    assert run(scheduler, "middling", {10: 0.8, 20: 0.8}) is None


@pytest.mark.parametrize("last_step", [90, 91, 100])
def test_a_trial_at_its_last_step_has_finished(last_step):
    """Also where the last step is a rung: 10, 30, 90."""
    scheduler = asha(max_steps=last_step)
    assert run(scheduler, "good", {10: 0.5, 30: 0.5, last_step: 0.9}) is None
    assert run(scheduler, "late", {10: 0.6, 30: 0.6, last_step: 0.1}) is None


def test_a_restarted_trial_is_not_judged_again_at_a_rung_it_passed():
    scheduler = asha()
    assert run(scheduler, "first", {10: 0.5}) is None
    assert run(scheduler, "better", {10: 0.9}) is None
    assert run(scheduler, "first", {10: 0.5, 20: 0.5}) is None


def test_grace_beyond_the_end_stops_nothing():
    scheduler = asha(grace_steps=500, max_steps=100)
    assert run(scheduler, "good", {10: 0.9, 100: 0.9}) is None
    assert run(scheduler, "bad", {10: 0.1, 100: 0.1}) is None


def test_results_without_the_metric_are_passed_over():
    scheduler = asha()
    trial = SimpleNamespace(trial_id="a", config={})
    scheduler.on_trial_add(None, trial)
    assert scheduler.on_trial_result(None, trial, {"loss": 3}) == "CONTINUE"


def test_rungs_survive_a_restart_of_the_sweep(tmp_path):
    scheduler = asha()
    run(scheduler, "good", {10: 0.9, 30: 0.9})
    scheduler.save(str(tmp_path / "state"))
    restored = pickle.loads(pickle.dumps(asha()))
    restored.restore(str(tmp_path / "state"))
    assert run(restored, "bad", {10: 0.1}) == 10


def test_trials_of_an_earlier_driver_count_at_the_rungs_that_they_reached():
    scheduler = asha()
    scheduler.remember("good", {30: 0.9, 10: 0.9})
    scheduler.remember("early", {5: 0.8})
    assert run(scheduler, "bad", {5: 0.1, 10: 0.1}) == 10
    assert run(scheduler, "better", {10: 0.95, 30: 0.1}) == 30
