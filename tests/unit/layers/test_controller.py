"""When the controller measures, chooses and freezes, held against a trainer that notes every call."""

import json
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from saying import refused

from irtune.importance import GradientNorm
from irtune.layers import LayerController, MemoryTrace
from irtune.selection import AllBlocks, RandomBlocks, SelectionPolicy, TopK, VarianceSplit

EVERY = (0, 1, 2, 3)
LOWEST_FIRST = np.array([4.0, 3.0, 2.0, 1.0])


class FakeBlocks:
    """A trainer of L blocks, whose gradients come from a function of the step; a frozen block has none."""

    rank = 0

    def __init__(self, num_blocks, gradients, skips_overflow=False):
        self.num_blocks = num_blocks
        self.gradients = gradients
        self.skips_overflow = skips_overflow
        self.active = tuple(range(num_blocks))
        self.calls = []
        self.step = -1

    def train(self, controller, first, last):
        """Optimizer steps ``first`` to ``last - 1``."""
        for self.step in range(first, last):
            controller.before_step(self.step)
            self.calls.append(("train", self.active))
            controller.after_backward(self.step)

    def set_active(self, active):
        self.active = tuple(active)
        self.calls.append(("set_active", self.active))

    def recompute(self, blocks):
        pass

    def discard_gradients(self, blocks):
        self.calls.append(("discard", list(blocks)))

    def trainable_parameters(self, active):
        return 100 + 10 * len(active)

    def gradient_norms(self, tensors, gradient="averaged"):
        norms = self.gradients(self.step)
        self.calls.append(("measure", self.active))
        assert self.active == tuple(range(self.num_blocks)), "only blocks that train have gradients"
        return [np.array([norm]) for norm in norms]

    def tensor_sizes(self, tensors):
        return [np.array([8])] * self.num_blocks

    def broadcast(self, value):
        return value


def random_gradients(num_blocks, seed=0):
    return lambda step: np.random.default_rng([seed, step]).random(num_blocks)


def controller_of(blocks, policy, reselect_every=3, seed=0, total_steps=100, **options):
    return LayerController(
        blocks,
        blocks.num_blocks,
        policy,
        options.pop("signal", GradientNorm()),
        reselect_every=reselect_every,
        total_steps=total_steps,
        seed=seed,
        **options,
    )


def run(policy, num_steps, gradients=lambda step: LOWEST_FIRST, skips_overflow=False, **options):
    """A run of 4 blocks; returns the trainer, with the calls of the run, and the trace."""
    blocks, trace = FakeBlocks(4, gradients, skips_overflow), MemoryTrace()
    blocks.train(controller_of(blocks, policy, sinks=[trace], **options), 0, num_steps)
    return blocks, trace


@pytest.mark.parametrize("policy", [TopK(k=2), VarianceSplit(), RandomBlocks(k=2), AllBlocks()], ids=lambda p: p.name)
def test_refreshes_are_due_at_step_0_and_every_interval(policy):
    _, trace = run(policy, 10, reselect_every=3)
    assert [record.step for record in trace.records] == [0, 3, 6, 9]


def test_an_interval_of_0_chooses_once():
    _, trace = run(RandomBlocks(k=2), 10, reselect_every=0, total_steps=10)
    assert [record.step for record in trace.records] == [0]


def test_a_probe_trains_all_blocks_once_and_then_the_chosen_ones():
    blocks, _ = run(TopK(k=2), 3, reselect_every=2)
    refresh = [
        ("set_active", EVERY),
        ("train", EVERY),
        ("measure", EVERY),
        ("set_active", (0, 1)),
        ("discard", [2, 3]),
    ]
    assert blocks.calls == [*refresh, ("train", (0, 1)), *refresh]


def test_frozen_blocks_have_fresh_scores_and_can_come_back():
    # Block 3 is weakest at step 0 and strongest from then on.
    strongest_last = np.array([1.0, 2.0, 3.0, 9.0])
    _, trace = run(TopK(k=1), 3, lambda step: LOWEST_FIRST if step == 0 else strongest_last, reselect_every=2)
    assert [record.active for record in trace.records] == [(0,), (3,)]
    np.testing.assert_array_equal(trace.scores(), [LOWEST_FIRST, strongest_last])
    np.testing.assert_array_equal(trace.records[1].importance.measured_at, [2, 2, 2, 2])


def test_a_record_says_what_was_chosen_and_what_it_costs():
    _, trace = run(TopK(k=2), 1, lambda step: np.array([1.0, 2.0, 3.0, 4.0]))
    record = trace.records[0]
    assert record.to_json() == {
        "step": 0,
        "active": [2, 3],
        "scores": [1.0, 2.0, 3.0, 4.0],
        "measured_at": [0, 0, 0, 0],
        "trainable_parameters": 120,
        "lowest_active": 2,
    }
    np.testing.assert_array_equal(trace.active(), [[False, False, True, True]])


def test_scores_are_folded_over_probes_as_the_signal_says():
    _, trace = run(
        TopK(k=2), 5, lambda step: LOWEST_FIRST + step, reselect_every=2, signal=GradientNorm(over_time="mean")
    )
    np.testing.assert_allclose(trace.scores(), [LOWEST_FIRST, LOWEST_FIRST + 1, LOWEST_FIRST + 2])


def test_random_blocks_are_chosen_before_the_step_without_a_probe():
    blocks, trace = run(RandomBlocks(k=2), 4, reselect_every=2)
    first, second = (record.active for record in trace.records)
    assert blocks.calls == [
        ("set_active", first),
        ("train", first),
        ("train", first),
        ("set_active", second),
        ("train", second),
        ("train", second),
    ]
    assert np.isnan(trace.scores()).all()
    assert [record.to_json()["scores"] for record in trace.records] == [[None] * 4] * 2


def test_random_choices_depend_on_seed_and_step_alone():
    def chosen(seed):
        _, trace = run(RandomBlocks(k=2), 20, reselect_every=1, seed=seed)
        return [record.active for record in trace.records]

    assert chosen(0) == chosen(0)
    assert chosen(0) != chosen(1)
    assert len(set(chosen(0))) > 1


def test_training_all_blocks_has_a_trace_at_no_cost():
    blocks, trace = run(AllBlocks(), 4, lambda step: LOWEST_FIRST * (step + 1), reselect_every=2)
    np.testing.assert_array_equal(trace.scores(), [LOWEST_FIRST, LOWEST_FIRST * 3])
    assert {call for call, _ in blocks.calls} == {"set_active", "train", "measure"}
    assert all(active == EVERY for _, active in blocks.calls)


def test_always_measure_gives_a_trace_to_a_policy_that_looks_at_no_scores():
    plain_blocks, plain = run(RandomBlocks(k=2), 9)
    blocks, trace = run(RandomBlocks(k=2), 9, always_measure=True)
    np.testing.assert_array_equal(trace.active(), plain.active())
    np.testing.assert_array_equal(trace.scores(), [LOWEST_FIRST] * 3)
    discarded = [frozen for call, frozen in blocks.calls if call == "discard"]
    assert discarded == [sorted(set(EVERY) - set(record.active)) for record in trace.records]
    assert not [call for call, _ in plain_blocks.calls if call in ("measure", "discard")]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_overflow_keeps_the_former_choice_and_is_tried_again_at_the_next_step(bad):
    def gradients(step):
        return np.array([1.0, bad, 1.0, 1.0]) if step in (2, 3) else LOWEST_FIRST

    blocks, trace = run(TopK(k=2), 8, gradients, skips_overflow=True, reselect_every=2)
    # The overflows at 2 and 3 decide nothing; the probe at 4 does, and the next is an interval later.
    assert [record.step for record in trace.records] == [0, 4, 6]
    probe = [("set_active", EVERY), ("train", EVERY), ("measure", EVERY)]
    # Nothing is discarded: the loss scaler must see the overflow, also one of blocks that do not train.
    kept = [("set_active", (0, 1))]
    chosen = [*kept, ("discard", [2, 3])]
    assert blocks.calls[len(probe) + len(chosen) + 1 :][:13] == probe + kept + probe + kept + probe + chosen
    np.testing.assert_array_equal(trace.records[1].importance.num_probes, [2, 2, 2, 2])


def test_an_overflow_of_the_first_probe_leaves_all_blocks_training():
    blocks, trace = run(
        TopK(k=2), 2, lambda step: np.full(4, np.inf) if step == 0 else LOWEST_FIRST, skips_overflow=True
    )
    assert blocks.calls[:4] == [("set_active", EVERY), ("train", EVERY), ("measure", EVERY), ("set_active", EVERY)]
    assert blocks.calls[4] == ("set_active", EVERY)
    assert [(record.step, record.active) for record in trace.records] == [(1, (0, 1))]


def test_an_overflow_does_not_move_the_choice_of_a_policy_that_looks_at_no_scores():
    def gradients(step):
        return np.full(4, np.inf) if step == 0 else LOWEST_FIRST

    _, trace = run(AllBlocks(), 4, gradients, skips_overflow=True, reselect_every=2)
    assert [record.step for record in trace.records] == [1, 3]
    assert np.isfinite(trace.scores()).all()


def test_without_loss_scaling_gradients_that_are_not_finite_end_the_run():
    def gradients(step):
        return np.array([1.0, np.nan, 1.0, np.inf]) if step == 3 else LOWEST_FIRST

    with refused(FloatingPointError, "[1, 3] … not finite … step 3", "lower training.learning_rate"):
        run(TopK(k=2), 9, gradients)


class Rotating(SelectionPolicy):
    """Block after block; remembers which one was last, and at which steps it was asked."""

    name: Literal["rotating"] = "rotating"

    def select(self, context):
        block = (context.state.get("last", -1) + 1) % context.num_blocks
        return (block,), {"last": block, "asked_at": [*context.state.get("asked_at", []), context.step]}


def test_a_policy_gets_back_the_state_that_it_returned():
    blocks, trace = FakeBlocks(4, lambda step: LOWEST_FIRST), MemoryTrace()
    controller = controller_of(blocks, Rotating(), 2, sinks=[trace])
    blocks.train(controller, 0, 9)
    assert [record.active for record in trace.records] == [(0,), (1,), (2,), (3,), (0,)]
    assert controller.state_dict()["policy_state"] == {"last": 0, "asked_at": [0, 2, 4, 6, 8]}


def policies(num_blocks):
    counts = st.integers(1, num_blocks) | st.floats(0.01, 1)
    return st.one_of(
        st.builds(TopK, k=counts),
        st.builds(RandomBlocks, k=counts),
        st.builds(VarianceSplit, splits=st.sampled_from([1, 2])),
        st.just(AllBlocks()),
        st.just(Rotating()),
    )


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_a_run_that_is_cut_and_resumed_goes_on_as_if_it_were_not(data):
    num_blocks = data.draw(st.integers(1, 12), "L")
    policy = data.draw(policies(num_blocks), "policy")
    reselect_every, cut = data.draw(st.integers(1, 6), "refresh"), data.draw(st.integers(0, 14), "cut")
    over_time = data.draw(st.sampled_from(["last", "mean", "ema"]))
    options = {
        "seed": data.draw(st.integers(0, 2**32 - 1), "seed"),
        "signal": GradientNorm(over_time=over_time),
        "always_measure": data.draw(st.booleans(), "always_measure"),
    }
    overflows = data.draw(st.sets(st.integers(0, 14)), "overflows")
    finite = random_gradients(num_blocks)

    def gradients(step):
        return np.full(num_blocks, np.inf) if step in overflows else finite(step)

    def start():
        blocks, trace = FakeBlocks(num_blocks, gradients, skips_overflow=True), MemoryTrace()
        return blocks, trace, controller_of(blocks, policy, reselect_every, sinks=[trace], **options)

    whole_blocks, whole, controller = start()
    whole_blocks.train(controller, 0, 15)

    first_blocks, first, controller = start()
    first_blocks.train(controller, 0, cut)
    state = json.loads(json.dumps(controller.state_dict(), allow_nan=False))
    second_blocks, second, controller = start()
    controller.load_state_dict(state)
    assert second_blocks.calls == [("set_active", first_blocks.active)]
    second_blocks.train(controller, cut, 15)

    assert first_blocks.calls + second_blocks.calls[1:] == whole_blocks.calls
    resumed = [record.to_json() for record in first.records + second.records]
    assert resumed == [record.to_json() for record in whole.records]


class Scripted(SelectionPolicy):
    """Returns what it is told to, right or wrong."""

    name: Literal["scripted"] = "scripted"
    choice: Any

    def select(self, context):
        return self.choice, {}


@pytest.mark.parametrize("choice", [(), (1, 4), (-1, 0), (2, 1), (1, 1)])
def test_a_policy_that_chooses_what_there_is_not_is_told_what_to_return(choice):
    with refused(ValueError, "scripted", "sorted", "from 0 to 3"):
        run(Scripted(choice=choice), 1)


class Follower(FakeBlocks):
    """Rank 1, to which rank 0 broadcasts the given decisions."""

    rank = 1

    def __init__(self, decisions, **options):
        super().__init__(4, lambda step: LOWEST_FIRST, **options)
        self.decisions = iter(decisions)

    def broadcast(self, value):
        assert value is None, "rank 1 must not decide"
        return next(self.decisions)


def test_other_ranks_do_as_rank_0_has_decided_and_record_nothing():
    # Their own scores would choose (0, 1).
    blocks, trace = Follower([(0, (1, 3), {"last": 7}), (2, (2,), {})]), MemoryTrace()
    controller = controller_of(blocks, TopK(k=2), 2, sinks=[trace])
    blocks.train(controller, 0, 1)
    assert blocks.active == (1, 3)
    assert blocks.calls[-1] == ("discard", [0, 2])
    assert controller.state_dict()["policy_state"] == {"last": 7}
    blocks.train(controller, 1, 4)
    assert blocks.active == (2,)
    assert not trace.records


def test_ranks_that_are_not_at_the_same_step_stop():
    blocks = Follower([(4, (1, 3), {})])
    with refused(AssertionError, "rank 1 … step 0 … rank 0 … 4"):
        blocks.train(controller_of(blocks, RandomBlocks(k=2)), 0, 1)


@pytest.mark.parametrize("policy", [TopK(k=5), RandomBlocks(k=5)], ids=lambda p: p.name)
def test_more_blocks_than_the_model_has_are_refused_at_once(policy):
    with refused(ValueError, "selection.policy.k: 5 … 4"):
        controller_of(FakeBlocks(4, random_gradients(4)), policy)
