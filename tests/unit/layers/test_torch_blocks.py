"""Freezing and measuring in a plain PyTorch loop."""

from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from saying import refused
from torch import nn

from irtune.importance import GradientNorm
from irtune.layers import LayerController, MemoryTrace, map_parameters
from irtune.layers.torch_blocks import TorchBlocks
from irtune.selection import SelectionPolicy

EVERY = (0, 1, 2)
SCHEDULE = {0: (0, 1), 2: (2,), 4: (0, 1)}


class Scheduled(SelectionPolicy):
    """Chooses by a fixed timetable, but looks at scores, so that every refresh is a probe."""

    name: Literal["scheduled"] = "scheduled"

    def select(self, context: Any) -> Any:
        return SCHEDULE[context.step], {}


class Model(nn.Module):
    """Three linear blocks and a head."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(num_hidden_layers=len(EVERY)))
        self.blocks = nn.ModuleList(nn.Linear(4, 4, bias=index > 0) for index in EVERY)
        self.head = nn.Linear(4, 1)

    def forward(self, inputs):
        for block in self.blocks:
            inputs = torch.tanh(block(inputs))
        return self.head(inputs).square().mean()


def inputs(step):
    return torch.randn(8, 4, generator=torch.Generator().manual_seed(step))


def make(model=None, optimizer=None, **options):
    model = model or Model()
    optimizer = optimizer or torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.2)
    return TorchBlocks(model, map_parameters(model), optimizer, **options)


def backward(blocks, step=0, scale=1.0):
    blocks.model.zero_grad()
    (blocks.model(inputs(step)) * scale).backward()


def train(blocks, first, last, clip=0.05):
    for step in range(first, last):
        backward(blocks, step)
        nn.utils.clip_grad_norm_(blocks.model.parameters(), clip)
        blocks.optimizer.step()


def of_block(blocks, index):
    return [p for _, p in blocks.blocks.per_block[index]]


def known(blocks, index):
    """Weights, moments and step counts of a block."""
    parameters = of_block(blocks, index)
    states = [blocks.optimizer.state[p] for p in parameters]
    return [p.detach().clone() for p in parameters] + [v.clone() for state in states for v in state.values()]


def test_a_plain_loop_with_a_controller_trains_as_by_hand():
    blocks = make()
    controller = LayerController(
        blocks,
        3,
        Scheduled(),
        GradientNorm(tensors="all"),
        reselect_every=2,
        total_steps=6,
        seed=0,
        sinks=[MemoryTrace()],
    )
    reference = Model()
    optimizer = torch.optim.AdamW(reference.parameters(), lr=0.1, weight_decay=0.2)
    for step in range(6):
        controller.before_step(step)
        backward(blocks, step)
        controller.after_backward(step)
        nn.utils.clip_grad_norm_(blocks.model.parameters(), 0.05)
        blocks.optimizer.step()

        reference.zero_grad()
        reference(inputs(step)).backward()
        for index in set(EVERY) - set(SCHEDULE[step - step % 2]):
            for parameter in reference.blocks[index].parameters():
                parameter.grad = None
        nn.utils.clip_grad_norm_(reference.parameters(), 0.05)
        optimizer.step()
    for ours, theirs in zip(blocks.model.parameters(), reference.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert [record.active for record in controller.trace.records] == list(SCHEDULE.values())


def test_a_frozen_block_keeps_weights_moments_and_step_count():
    blocks = make()
    train(blocks, 0, 3)
    before = known(blocks, 1)
    blocks.set_active([0, 2])
    train(blocks, 3, 6)
    # Also what somebody else left there does not count.
    for parameter in of_block(blocks, 1):
        parameter.grad = torch.ones_like(parameter)
    blocks.optimizer.step()
    for old, new in zip(before, known(blocks, 1), strict=True):
        assert torch.equal(old, new)
    blocks.set_active(EVERY)
    train(blocks, 6, 7)
    assert [float(blocks.optimizer.state[p]["step"]) for p in of_block(blocks, 1)] == [4, 4]
    assert [float(blocks.optimizer.state[p]["step"]) for p in of_block(blocks, 0)] == [8]


def test_the_backward_pass_stops_below_the_lowest_active_block():
    blocks = make()
    reached = []
    for index, block in enumerate(blocks.model.blocks):
        block.register_forward_hook(lambda _, args, out, index=index: reached.append((index, out.requires_grad)))
    blocks.set_active([2])
    backward(blocks)
    assert reached == [(0, False), (1, False), (2, True)]
    assert all(p.grad is None for index in (0, 1) for p in of_block(blocks, index))


def test_norms_are_those_of_the_gradients_without_the_loss_scale():
    plain, scaled = make(), make(scaler=torch.amp.GradScaler("cpu", init_scale=8.0))
    backward(plain)
    backward(scaled, scale=8.0)
    expected = [[float(p.grad.double().norm()) for p in of_block(plain, index)] for index in EVERY]
    for blocks in (plain, scaled):
        for norms, block in zip(blocks.gradient_norms("all"), expected, strict=True):
            np.testing.assert_allclose(norms, block, rtol=1e-6)
    assert scaled.skips_overflow
    assert not plain.skips_overflow
    gradient = of_block(plain, 1)[0].grad
    torch.testing.assert_close(scaled.whole_gradient(of_block(scaled, 1)[0]), gradient)
    plain.discard_gradients([1])
    assert [len(norms) for norms in plain.gradient_norms("all")] == [1, 2, 2]
    assert plain.gradient_norms("all")[1].tolist() == [0, 0]
    assert plain.whole_gradient(of_block(plain, 1)[0]).tolist() == torch.zeros(4, 4).tolist()


def test_an_overflow_at_a_probe_is_tried_again():
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20)
    blocks = TorchBlocks(model, map_parameters(model), optimizer, scaler=scaler)
    trace = MemoryTrace()
    controller = LayerController(
        blocks, 3, Scheduled(), GradientNorm(tensors="all"), reselect_every=2, total_steps=6, seed=0, sinks=[trace]
    )
    SCHEDULE[1] = SCHEDULE[0]
    try:
        for step in range(2):
            controller.before_step(step)
            model.zero_grad()
            # The first step's scaled loss does not fit fp32.
            scaler.scale(model(inputs(step)) * (1e38 if step == 0 else 1)).backward()
            controller.after_backward(step)
            scaler.step(optimizer)
            scaler.update()
            if step == 0:
                assert not trace.records
                assert not optimizer.state
    finally:
        del SCHEDULE[1]
    assert [(record.step, record.active) for record in trace.records] == [(1, (0, 1))]
    assert scaler.get_scale() == 2.0**19
    assert {id(p) for p in optimizer.state} == {id(p) for p in model.parameters()} - set(map(id, of_block(blocks, 2)))


def test_a_reset_block_starts_anew():
    blocks, fresh = make(), make()
    train(blocks, 0, 3)
    blocks.reset_optimizer_state([1])
    fresh.model.load_state_dict(blocks.model.state_dict())
    train(blocks, 3, 5)
    train(fresh, 3, 5)
    steps = [[float(blocks.optimizer.state[p]["step"]) for p in of_block(blocks, index)] for index in EVERY]
    assert steps == [[5], [2, 2], [5, 5]]


def test_dropped_state_is_freed_while_a_block_is_frozen():
    blocks = make(frozen_state="drop")
    train(blocks, 0, 2)
    # A probe makes all blocks active for the backward pass; nothing is lost before an optimizer step.
    blocks.set_active([0])
    blocks.set_active(EVERY)
    assert len(blocks.optimizer.state) == len(list(blocks.model.parameters()))
    blocks.set_active([0, 2])
    train(blocks, 2, 3)
    assert not {id(p) for p in blocks.optimizer.state} & set(map(id, of_block(blocks, 1)))
    blocks.set_active(EVERY)
    train(blocks, 3, 4)
    assert [float(blocks.optimizer.state[p]["step"]) for p in of_block(blocks, 1)] == [1, 1]
    assert [float(blocks.optimizer.state[p]["step"]) for p in of_block(blocks, 0)] == [4]


class ZeroForNone(torch.optim.SGD):
    """Takes a missing gradient for zero, so that weight decay or momentum moves the weights all the same."""

    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
        return super().step(closure)


@pytest.mark.parametrize(("settings", "trained_first"), [({"weight_decay": 0.1}, False), ({"momentum": 0.9}, True)])
def test_an_optimizer_that_moves_frozen_weights_is_refused(settings, trained_first):
    model = Model()
    blocks = make(model, ZeroForNone(model.parameters(), lr=0.1, **settings))
    if trained_first:
        # Without moments nothing moves, and a look at such a block alone would not find out.
        blocks.set_active([0, 2])
        train(blocks, 0, 1)
        blocks.set_active(EVERY)
        train(blocks, 1, 2)
    blocks.set_active([0, 2])
    with refused(ValueError, "optimizer: ZeroForNone … frozen"):
        train(blocks, 2, 3)


def test_a_step_without_learning_rate_proves_nothing():
    model = Model()
    optimizer = ZeroForNone(model.parameters(), lr=0.0, weight_decay=0.1)
    blocks = make(model, optimizer)
    blocks.set_active([1])
    train(blocks, 0, 1)
    optimizer.param_groups[0]["lr"] = 0.1
    with pytest.raises(ValueError, match="moved frozen weights"):
        train(blocks, 1, 2)


def test_an_optimizer_that_lacks_parameters_is_refused():
    model = Model()
    for parameter in model.blocks[1].parameters():
        parameter.requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    with refused(ValueError, "SGD", "2 of the blocks' parameters", "blocks.1.weight"):
        make(model, optimizer)
    with pytest.raises(ValueError, match=r"^optimizer: SimpleNamespace is no torch\.optim\.Optimizer"):
        make(model, SimpleNamespace())


def test_released_blocks_are_as_they_were_found():
    blocks = make()
    blocks.set_active([0])
    blocks.release()
    assert all(parameter.requires_grad for parameter in blocks.model.parameters())
    assert not blocks.optimizer._optimizer_step_pre_hooks
    assert not blocks.optimizer._optimizer_step_post_hooks
