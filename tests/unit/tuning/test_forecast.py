"""A sweep played through on a clock of its own, against what it takes by hand."""

import pytest

from irtune.config.load import build
from irtune.config.schema import AshaConfig, SweepConfig
from irtune.training.estimate import IN_FLOPS, Times
from irtune.training.workload import Workload
from irtune.tuning.forecast import SweepCost, TrialCost, num_planned, play

TIMES = Times(
    process_s=7.0,
    start_s=1.0,
    step_s=2.0,
    step_flops=10.0,
    evaluation_s=1.0,
    evaluation_flops=5.0,
    checkpoint_s=0.5,
    finish_s=0.25,
)
# 1 to start, 4 steps of 2, 2 evaluations of 1, a checkpoint of 0.5, and 0.25 + 0.75 at the end: 12.5.
WORK = Workload(max_steps=4, eval_every=2, checkpoint_every=2, step_flops=10.0, evaluation_flops=5.0, test_flops=3.75)
WHOLE = 12.5


def played(num_trials, *, at_once=1, asha=None, fresh=False, times=TIMES):
    return play(WORK, [WORK], num_trials, times, at_once=at_once, asha=asha, fresh_processes=fresh)


def test_one_trial_after_the_other():
    # The process starts once, or anew for each.
    assert played(3).wall == played(3).busy == 7 + 3 * WHOLE
    assert played(3, fresh=True).wall == 3 * (7 + WHOLE)


def test_two_at_a_time():
    # Two side by side, each in a process that has to start, and the third in one that is there.
    found = played(3, at_once=2)
    assert (found.wall, found.busy, found.stopped) == ((7 + WHOLE) + WHOLE, 2 * (7 + WHOLE) + WHOLE, 0)


def test_a_free_slot_is_taken_at_once_while_a_longer_trial_goes_on():
    long = Workload(max_steps=12, eval_every=2, checkpoint_every=100, step_flops=10.0, evaluation_flops=5, test_flops=0)
    # The baseline: 7 + 1 + 12 x 2 + 6 x 1 + 0.25 = 38.25; beside it two of 7 + 12.5 and 12.5.
    found = play(long, [WORK], 3, TIMES, at_once=2, asha=None, fresh_processes=False)
    assert (found.wall, found.busy) == (38.25, 38.25 + 19.5 + 12.5)


def test_a_trial_that_asha_stops_saves_the_rest_of_itself():
    asha = AshaConfig(grace_steps=2, reduction_factor=2)
    most, expected = played(8), played(8, asha=asha)
    # Of a trial that is stopped after step 2: 2 steps, an evaluation and the end.
    assert expected.stopped > 1
    assert most.busy - expected.busy == pytest.approx(expected.stopped * (2 * 2 + 1 + 1))
    # The second of two is stopped when it is worse than the baseline, which is never stopped: every other time.
    assert 0.25 < played(2, asha=asha).stopped < 0.75
    assert played(1, asha=asha).stopped == 0


def test_none_is_stopped_before_its_grace_steps():
    assert played(20, asha=AshaConfig(grace_steps=3, reduction_factor=2)).stopped == 0


def test_a_long_sweep_is_played_through_in_part():
    assert played(100_000).busy == pytest.approx(100_000 * WHOLE, rel=0.01)


def test_counted_in_flops():
    # 4 x 10 for training, 2 x 5 and 3.75 for scoring.
    assert played(3, times=IN_FLOPS).busy == 3 * 53.75


def test_an_average_of_trials():
    assert TrialCost.mean([TrialCost(1.0, 10.0, 100.0), TrialCost(3.0, 30.0, 300.0)]) == TrialCost(2.0, 20.0, 200.0)
    assert TrialCost.mean([TrialCost(None, None, 100.0)]) == TrialCost(None, None, 100.0)


def test_the_first_trial_starts_the_process_and_workers_start_anew():
    assert TrialCost.of(WORK, TIMES, num_workers=1) == TrialCost(2.0, WHOLE, 40.0)
    assert TrialCost.of(WORK, TIMES, num_workers=1, is_first=True) == TrialCost(2.0, 7 + WHOLE, 40.0)
    assert TrialCost.of(WORK, TIMES, num_workers=2) == TrialCost(2.0, 7 + WHOLE, 80.0)


def test_without_times_a_sweep_is_counted_in_flops_alone():
    config = build(
        SweepConfig,
        {
            "space": {"selection.policy.k": {"type": "int", "low": 1, "high": 2}},
            "engine": {"num_workers": 2},
            "tune": {"num_trials": 9},
        },
        "x",
    )
    # The baseline and both configurations, on two workers.
    assert num_planned(config) == 3
    assert SweepCost.of(config, WORK, [WORK], None, None, None) == SweepCost(None, None, 2 * 3 * 53.75, 0.0)
    # On a cluster of unknown size what all trials take is known, and not how many of them run at once.
    found = SweepCost.of(config, WORK, [WORK], TIMES, None, None)
    assert (found.wall_s, found.trials_s) == (None, 3 * (7 + WHOLE))
