"""What a run has to compute, counted before it runs, on a model of two blocks that is counted by hand."""

import numpy as np
import pytest

from irtune.config.load import build
from irtune.config.schema import ExperimentConfig
from irtune.training.cost import CostModel
from irtune.training.workload import Workload, evaluation_flops

# FLOPs a token: forward 10 + 10 and the head's 2, so 22; a step adds twice the head's 2, 10 for each block that is
# passed backwards, and 1 for each that trains: 48 with both, 47 with block 0 alone, 37 with block 1 alone.
COST = CostModel(np.array([10.0, 10.0]), np.array([1.0, 1.0]), head=2.0, attention=0.0, recompute=False)
LENGTHS = {"train": np.full(20, 5), "validation": np.array([3, 5, 4]), "test": np.array([7])}


def work(lengths=LENGTHS, **tree):
    tree.setdefault("selection", {"policy": {"name": "all"}})
    training = {"max_steps": 4, "micro_batch_size": 2, "eval_batch_size": 2, **tree.pop("training", {})}
    return Workload.of(build(ExperimentConfig, tree | {"training": training}, "x"), COST, lengths)


def selection(policy, interval=0, **rest):
    return {"policy": policy, "reselect_every": interval, **rest}


def test_with_every_block_training_a_step_takes_a_pass_through_both():
    # 2 examples of 5 tokens at 48 FLOPs.
    assert work().step_flops == 480
    assert work(training={"gradient_accumulation_steps": 3}).step_flops == 3 * 480
    # Padded to the longest of a batch, and cut to max_length.
    assert work(LENGTHS | {"train": np.array([2, 5])}).step_flops == 480
    assert work(LENGTHS | {"train": np.full(20, 50)}, model={"max_length": 8}).step_flops == 2 * 8 * 48


def test_fixed_blocks_are_costed_from_the_lowest_one_up():
    assert work(selection=selection({"name": "static", "blocks": [1]})).step_flops == 370
    assert work(selection=selection({"name": "static", "blocks": [0]})).step_flops == 470


def test_a_step_that_probes_passes_through_all_blocks_and_the_others_do_not():
    interval, steps = 2, 200
    found = work(selection=selection({"name": "top_k", "k": 1}, interval), training={"max_steps": steps}).step_flops
    # Every other step probes, and random scores choose either block about as often.
    assert found == pytest.approx((480 + (370 + 470) / 2) / 2, rel=0.02)
    # Chosen once: one probe.
    found = work(selection=selection({"name": "top_k", "k": 2})).step_flops
    assert found == 480


def test_passes_apart_from_the_step_are_counted():
    # Weight scores need no pass; a random policy measures nothing.
    random = selection({"name": "random", "k": 2}, 1)
    assert work(selection=random).step_flops == 480
    # Half a micro-batch, 1 example of 5 tokens through everything, before each step.
    halved = work(selection=selection({"name": "top_k", "k": 2}, 1), importance={"probe_fraction": 0.5})
    assert halved.step_flops == 480 + 240


def test_a_long_run_is_played_through_in_part():
    once_a_step = selection({"name": "top_k", "k": 2}, 1)
    assert work(selection=once_a_step, training={"max_steps": 1_000_000}).step_flops == pytest.approx(480)


def test_scoring_a_split_takes_forward_passes_over_padded_batches():
    # Longest first: (5, 4) padded to 5 and 5, then 3: 13 tokens at 22 FLOPs.
    assert work().evaluation_flops == 13 * 22
    assert work().test_flops == 7 * 22
    # The first of two ranks has 5 and 3, padded to 5 and 5.
    assert evaluation_flops(COST, LENGTHS["validation"], 2, num_ranks=2) == 10 * 22


@pytest.mark.parametrize(
    ("max_steps", "every", "start", "end", "evaluations", "checkpoints"),
    [
        (16, 8, 0, 8, 1, 1),
        # At its last step a run scores validation, and saves no state to go on from.
        (16, 8, 8, 16, 1, 0),
        (16, 8, 0, 16, 2, 1),
        (10, 4, 8, 10, 1, 0),
        (10, 4, 0, 10, 3, 2),
        (10, 20, 0, 10, 1, 0),
        (10, 4, 0, 3, 0, 0),
    ],
)
def test_evaluations_and_checkpoints_within_a_run(max_steps, every, start, end, evaluations, checkpoints):
    run = Workload(max_steps, every, every, step_flops=1.0, evaluation_flops=1.0, test_flops=1.0)
    assert (run.evaluations(start, end), run.checkpoints(start, end)) == (evaluations, checkpoints)
