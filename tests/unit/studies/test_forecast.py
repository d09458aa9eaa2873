"""What runs and sweeps take, against counts by hand on a model of two blocks."""

import math
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from irtune.config.load import build
from irtune.config.schema import ExperimentConfig
from irtune.config.sweep_schema import AshaConfig
from irtune.layers import LayerController
from irtune.studies.forecast import SweepCost, Trial, expected_stops, mean_step_flops
from irtune.training.cost import CostModel
from irtune.training.rehearsal import Pace

# FLOPs a token: forward 10 + 10 and the head's 2, so 22; a step adds twice the head's 2, 10 for each block that is
# passed backwards, and 1 for each that trains: 48 with both, 47 with block 0 alone, 37 with block 1 alone.
COST = CostModel(np.array([10.0, 10.0]), np.array([1.0, 1.0]), head=2.0, attention=0.0, recompute=False)
LENGTHS = {"train": np.full(20, 5), "validation": np.full(4, 6), "test": np.full(3, 2)}


def experiment(selection, **tree):
    training = {"max_steps": 4, "eval_every": 3, "micro_batch_size": 2, **tree.pop("training", {})}
    return build(ExperimentConfig, tree | {"selection": selection, "training": training}, "x")


def selection(policy, interval=0, **rest):
    return {"policy": policy, "reselect_every": interval, "probe_memory": "fast", **rest}


def step_flops(selection, **tree):
    return mean_step_flops(experiment(selection, **tree), COST, length=5.0)


def test_a_step_passes_backwards_down_to_the_lowest_block():
    # 2 examples of 5 tokens.
    assert step_flops(selection({"name": "all"})) == 480
    assert step_flops(selection({"name": "static", "blocks": [1]})) == 370
    assert step_flops(selection({"name": "static", "blocks": [0]})) == 470
    assert step_flops(selection({"name": "all"}), training={"gradient_accumulation_steps": 3}) == 3 * 480


def test_a_refresh_that_reads_gradients_passes_through_all_blocks():
    found = step_flops(selection({"name": "top_k", "k": 1}, 2), training={"max_steps": 200})
    # Every other step is a refresh, and random scores choose either block about as often.
    assert found == pytest.approx((480 + (370 + 470) / 2) / 2, rel=0.05)
    # Fixed blocks read nothing, unless they are told to: once, at 110 more.
    assert step_flops(selection({"name": "static", "blocks": [1]}, measure="always")) == 370 + 110 / 4


def test_what_refreshes_compute_again_is_counted():
    # 2 examples of 5 tokens, 10 a block: the first refresh repeats both blocks, the others the one that is frozen if it
    # is the lower one, or else half of it, rounded up.
    every = selection({"name": "static", "blocks": [1]}, 1, measure="always", probe_memory="low")
    assert step_flops(every) == 480 + (200 + 3 * 100) / 4
    every = selection({"name": "static", "blocks": [0]}, 1, measure="always", probe_memory="low")
    assert step_flops(every) == 480 + (200 + 3 * 100) / 4
    half = selection({"name": "static", "blocks": [1]}, 1, measure="always", probe_memory="low")
    # A pass of half of the examples repeats half of that.
    assert step_flops(half, importance={"probe_fraction": 0.5}) == 370 + 240 + (100 + 3 * 50) / 4


def test_passes_apart_from_the_step_are_counted():
    always = selection({"name": "top_k", "k": 2}, 1)
    # Half a micro-batch, 1 example of 5 tokens, forwards and backwards before each step; or forwards only: 22 a token.
    assert step_flops(always, importance={"probe_fraction": 0.5}) == 480 + 240
    assert step_flops(always, importance={"name": "cosine_similarity"}) == 480 + 2 * 5 * 22
    assert step_flops(always, importance={"name": "weight_norm"}) == 480
    # IST's rounds of 3 forward passes are due at steps 2, 4, 6 and 8 of 10.
    ist = selection({"name": "ist", "k": 2, "probe_every": 2, "num_probes": 3}, 1)
    assert step_flops(ist, training={"max_steps": 10}) == 480 + 4 / 10 * 3 * 2 * 5 * 22


def test_a_growing_policy_is_played_through_to_its_end():
    growing = selection({"name": "auto_freeze"}, 10)
    # Its first choice is all blocks; the first of two freezes sooner or later, and is passed at refreshes only.
    assert step_flops(growing, training={"max_steps": 10}) == 480
    assert 370 < step_flops(growing, training={"max_steps": 1000}) < 400


class CountedBlocks:
    """A trainer of the two blocks that measures nothing, and knows which train."""

    rank, skips_overflow, trains_weights = 0, False, False

    def __init__(self):
        self.active = (0, 1)

    def set_active(self, active):
        self.active = tuple(active)

    def probing(self, batch, *, gradients):
        return nullcontext()

    def gradient_norms(self, tensors, gradient="averaged"):
        return [np.array([1.0 + block]) for block in range(2)]

    def tensor_sizes(self, tensors):
        return [np.array([8])] * 2

    def similarities(self):
        return np.array([0.5, 0.6])

    def token_states(self, token):
        return [(np.eye(3), np.eye(3)[:, : 1 + block]) for block in range(2)]

    def activation_energies(self):
        return [np.array([1.0, 2.0 + block]) for block in range(2)]

    def record_features(self):
        pass

    def low_rank_moments(self):
        return [[(np.eye(2) * (1 + block), np.eye(2))] for block in range(2)]

    def weight_matrices(self, block):
        yield "o_proj", torch.full((2, 2), 1.0 + block)

    def suppressed_losses(self, probes, batch):
        return np.ones(len(probes))

    def trainable_parameters(self, active):
        return len(active)

    def recompute(self, blocks):
        pass

    def discard_gradients(self, blocks):
        pass

    def broadcast(self, value):
        return value


@pytest.mark.parametrize(
    "policy",
    [
        {"name": "static", "blocks": [1]},
        {"name": "all"},
        {"name": "top_k", "k": 2},
        {"name": "ist", "k": 2, "probe_every": 2, "num_probes": 3},
    ],
    ids=lambda policy: policy["name"],
)
@pytest.mark.parametrize(
    "importance",
    [
        {},
        {"probe_fraction": 0.5},
        {"frozen_blocks": "stale"},
        {"name": "cosine_similarity"},
        {"name": "cka_distance"},
        {"name": "activation_energy", "probe_fraction": 0.5},
        {"name": "residual_norm"},
        {"name": "weight_norm", "modules": "o_proj"},
    ],
    ids=str,
)
@pytest.mark.parametrize("measure", ["when_needed", "always"])
def test_a_forecast_is_what_the_controller_has_the_trainer_run(policy, importance, measure):
    config = experiment(
        selection(policy, 3, measure=measure, probe_memory="low"),
        importance=importance,
        training={"max_steps": 10, "gradient_accumulation_steps": 2, "micro_batch_size": 4},
    )
    blocks = CountedBlocks()
    controller = LayerController(
        blocks,
        2,
        config.selection.policy,
        config.importance,
        reselect_every=3,
        total_steps=10,
        seed=0,
        always_measure=measure == "always",
    )
    spent = []
    for step in range(10):
        controller.before_step(step, {"input_ids": np.zeros((4, 5))})
        through = blocks.active
        controller.after_backward(step)
        spent.append(COST.optimizer_step_flops(through, [(4, 5), (4, 5)], controller.passes))
    assert mean_step_flops(config, COST, length=5.0) == pytest.approx(np.mean(spent), rel=1e-12)


def pace(**changes):
    measured = {"process_s": 9.0, "load_s": 1.0, "flops": (24.0, 48.0), "token_s": (0.25, 0.5), "tokens": 10}
    return Pace(**measured | changes, peak_bytes=0.0, passing_bytes=0.0, cost=COST)


def test_a_trial_takes_its_flops_at_the_measured_pace():
    trial = Trial.of(experiment(selection({"name": "all"})), COST, LENGTHS, pace())
    # 10 tokens at 48 FLOPs: 5 s. Validation has 24 tokens and test 6, at 22 FLOPs: 22 / 96 s each.
    assert (trial.step_s, trial.load_s, trial.step_flops) == (5.0, 1.0, 480.0)
    assert trial.evaluation_s == pytest.approx(24 * 22 / 96)
    # 4 steps, evaluations after step 3 and at the end.
    assert trial.until(3) == pytest.approx(1 + 3 * 5 + 5.5)
    assert trial.seconds == pytest.approx(1 + 4 * 5 + 2 * 5.5 + 6 * 22 / 96)


def test_two_workers_share_validation_and_double_the_batch():
    trial = Trial.of(experiment(selection({"name": "all"}), engine={"num_workers": 2}), COST, LENGTHS, pace())
    assert (trial.step_s, trial.step_flops) == (5.0, 960.0)
    assert trial.evaluation_s == pytest.approx(5.5 / 2)


def test_without_a_pace_a_trial_has_flops_and_no_seconds():
    trial = Trial.of(experiment(selection({"name": "all"})), COST, LENGTHS, None)
    assert trial.step_flops == 480
    assert math.isnan(trial.seconds)


def trial(**changes):
    return Trial(**{"num_steps": 16, "eval_every": 4, "step_flops": 2.0} | changes)


# 1 to start, 16 steps of 2, 4 evaluations of 3, and test: 50.
WHOLE = trial(load_s=1.0, step_s=2.0, evaluation_s=3.0, test_s=5.0)


def test_asha_stops_all_but_a_share_at_each_rung():
    asha = AshaConfig(grace_steps=4, reduction_factor=2)
    # The three that come to step 4 after the baseline go on with probability (1 + (n - 1) / 2) / (n + 1): 1/2 each.
    # That is 1.5, rounded to 2 at step 8, where one goes on.
    assert expected_stops(asha, 3, trial()) == {4: 1.5, 8: 1.0}
    # With a factor of 3: 1/2, (1 + 1/3) / 3 and (1 + 2/3) / 4. The next rung, 12, is left to one or two.
    assert expected_stops(AshaConfig(grace_steps=4, reduction_factor=3), 3, trial())[4] == pytest.approx(
        3 - 1 / 2 - 4 / 9 - 5 / 12
    )
    # A rung is decided at the next evaluation, and never at the last step.
    assert list(expected_stops(AshaConfig(grace_steps=5, reduction_factor=3), 3, trial())) == [8]
    assert expected_stops(AshaConfig(grace_steps=16), 3, trial()) == {}
    assert expected_stops(None, 3, trial()) == {}
    assert expected_stops(asha, 0, trial()) == {4: 0, 8: 0}


def test_a_sweep_adds_up_its_trials():
    assert WHOLE.seconds == 50
    # The baseline, one other whole, and two that end after 4 steps: 1 + 8 + 3 = 12 s.
    found = SweepCost.of(WHOLE, WHOLE, 1, {4: 2.0}, at_once=1)
    assert found == SweepCost(trials_s=50 + 50 + 24, wall_s=124, flops=2 * (16 + 16 + 8))


def test_trials_side_by_side_end_when_the_last_does():
    # 4 trials of 50 s, 2 at a time: 100 s, and half of a trial on average while one place is free for half the time.
    assert SweepCost.of(WHOLE, WHOLE, 3, {}, at_once=2).wall_s == 100 + 12.5
    assert SweepCost.of(trial(load_s=400.0, step_s=0, evaluation_s=0, test_s=0), WHOLE, 1, {}, 2).wall_s == 400


def test_an_average_of_trials():
    found = Trial.mean([WHOLE, trial(num_steps=8, load_s=3.0, step_s=4.0, evaluation_s=3.0, test_s=5.0)])
    assert (found.num_steps, found.load_s, found.step_s, found.test_s) == (12, 2, 3, 5)
