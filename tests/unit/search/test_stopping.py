import math
import pickle
import random
import time
from dataclasses import asdict
from types import SimpleNamespace

import pytest
from ray.tune.schedulers import ASHAScheduler

from irtune.config.sweep_schema import AshaConfig
from irtune.search.source import TrialSpec
from irtune.search.stopping import Asha, InOrder


def asha(grace_steps=10, max_steps=100, mode="max"):
    config = AshaConfig(grace_steps=grace_steps, reduction_factor=3)
    return Asha(config, max_steps, "score", mode)


def run(scheduler, trial_id, scores, is_baseline=False):
    """The step at which a trial with these scores by step is stopped, None if it never is."""
    trial = SimpleNamespace(trial_id=trial_id, config=asdict(TrialSpec("baseline" if is_baseline else trial_id, {})))
    scheduler.on_trial_add(None, trial)
    for step, score in scores.items():
        result = {"step": step, "score": score}
        if scheduler.on_trial_result(None, trial, result) == "STOP":
            scheduler.on_trial_complete(None, trial, result)
            return step
    scheduler.on_trial_complete(None, trial, result)
    return None


def test_without_a_scheduler_nothing_is_stopped():
    scheduler = InOrder()
    assert run(scheduler, "good", {10: 0.9, 30: 0.9, 100: 0.9}) is None
    assert run(scheduler, "bad", {10: 0.1, 30: 0.1, 100: 0.1}) is None


@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize(("grace", "last", "factor"), [(1, 100, 4), (10, 90, 3), (7, 1000, 2.5), (100, 100, 2)])
def test_decisions_are_those_of_ray(grace, last, factor, mode):
    """Of trials in any order, with equal scores, scores that are no number, and steps that pass rungs by."""
    ours = Asha(AshaConfig(grace_steps=grace, reduction_factor=factor), last + 1, "score", mode)
    theirs = ASHAScheduler(
        time_attr="step", metric="score", mode=mode, max_t=last + 1, grace_period=grace, reduction_factor=factor,
        stop_last_trials=False,
    )  # fmt: skip
    draw = random.Random(0)
    running, decisions = {}, []
    for number in range(150):
        running[number] = SimpleNamespace(trial_id=f"t{number}", config=asdict(TrialSpec(f"t{number}", {})), step=0)
        for scheduler in (ours, theirs):
            scheduler.on_trial_add(None, running[number])
        for trial in draw.sample(sorted(running.values(), key=lambda one: one.trial_id), k=min(3, len(running))):
            trial.step = min(trial.step + draw.randint(1, max(last // 4, 1)), last)
            score = draw.choice([math.nan, 0.5, draw.random(), draw.random(), draw.random()])
            result = {"step": trial.step, "score": score}
            found, expected = (scheduler.on_trial_result(None, trial, result) for scheduler in (ours, theirs))
            decisions.append(found)
            assert found == expected
            if found == "STOP" or trial.step == last:
                for scheduler in (ours, theirs):
                    scheduler.on_trial_complete(None, trial, result)
                del running[int(trial.trial_id[1:])]
    assert set(decisions) == {"STOP", "CONTINUE"}


@pytest.mark.parametrize("scheduler", [InOrder(), asha()])
def test_a_trial_is_chosen_from_those_that_live_the_earliest_and_a_new_one_first(scheduler):
    names = ("over", "running", "paused", "later", "latest")
    states = ("TERMINATED", "RUNNING", "PAUSED", "PENDING", "PENDING")
    trials = [SimpleNamespace(trial_id=n, status=s, config={}) for n, s in zip(names, states, strict=True)]
    for trial in trials:
        scheduler.on_trial_add(None, trial)
    scheduler.on_trial_complete(None, trials[0], {})
    # As in Tune, where this would list ten thousand that are over; those that live are in no order.
    controller = SimpleNamespace(get_live_trials=lambda: set(), trials=trials)
    assert scheduler.choose_trial_to_run(controller) is None
    live = [trials[4], trials[2], trials[3], trials[1]]
    controller.get_live_trials = lambda: live
    chosen = []
    while (trial := scheduler.choose_trial_to_run(controller)) is not None:
        chosen.append(trial.trial_id)
        trial.status = "RUNNING"
    assert chosen == ["later", "latest", "paused"]


def test_a_rung_takes_as_long_after_many_trials():
    scheduler = asha()

    def seconds(numbers):
        started = time.thread_time()
        for number in numbers:
            run(scheduler, f"t{number}", {10: random.Random(number).random()})
        return time.thread_time() - started

    first = min(seconds(range(start, start + 100)) for start in (0, 100, 200))
    seconds(range(300, 20_000))
    assert min(seconds(range(start, start + 100)) for start in (20_000, 20_100, 20_200)) < 4 * first


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
    trial = SimpleNamespace(trial_id="a", config=asdict(TrialSpec("a", {})))
    scheduler.on_trial_add(None, trial)
    assert scheduler.on_trial_result(None, trial, {"loss": 3}) == "CONTINUE"


def test_rungs_survive_being_pickled():
    scheduler = asha()
    run(scheduler, "good", {10: 0.9, 30: 0.9})
    assert run(pickle.loads(pickle.dumps(scheduler)), "bad", {10: 0.1}) == 10


def test_trials_of_an_earlier_driver_count_at_the_rungs_that_they_reached():
    scheduler = asha()
    scheduler.remember("good", {30: 0.9, 10: 0.9})
    scheduler.remember("early", {5: 0.8})
    assert run(scheduler, "bad", {5: 0.1, 10: 0.1}) == 10
    assert run(scheduler, "better", {10: 0.95, 30: 0.1}) == 30
