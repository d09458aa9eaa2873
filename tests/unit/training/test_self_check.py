"""The check at the start: silent about a trainer that is sound, loud about each way in which one may not be."""

import random
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from plain_blocks import HIDDEN, NUM_BLOCKS, VOCABULARY, Model, OtherBlock, PlainBlocks, build
from saying import refused, says
from torch import nn

from irtune.layers import BlockError, Blocks, map_parameters
from irtune.training.self_check import MAX_TOKENS, SelfCheckError, check_at_start, one_example


def batch(batch_size=3, length=6):
    ids = torch.randint(1, VOCABULARY, (batch_size, length), generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.arange(batch_size) % 3}


def check(blocks, **options):
    check_at_start(blocks, batch(), **options)


def complaint(blocks, **options):
    with pytest.raises(SelfCheckError) as caught:
        check(blocks, **options)
    message = str(caught.value)
    assert message.startswith("the check at the start failed:\n- ")
    assert message.endswith("selection.self_check=false trains without the check.")
    return message.split("\n", 1)[1]


def test_a_sound_trainer_passes_and_is_left_as_it_was():
    blocks = build()
    # As after some steps: moments and gradients exist, generators are anywhere.
    for _ in range(2):
        blocks.model(**batch()).backward()
        blocks.optimizer.step()
    weights = {name: tensor.clone() for name, tensor in blocks.local_state().items()}
    gradients = {name: tensor.clone() for name, tensor in blocks.local_gradients().items()}
    assert len(weights) > len(gradients) > 0
    states = torch.get_rng_state(), np.random.get_state()[2], random.getstate()

    check(blocks)

    assert all(torch.equal(blocks.local_state()[name], tensor) for name, tensor in weights.items())
    assert all(torch.equal(blocks.local_gradients()[name], tensor) for name, tensor in gradients.items())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[2], random.getstate()) == states[1:]
    assert all(parameter.requires_grad for _, parameter in blocks.blocks.all())
    blocks.model.seen.clear()
    check(blocks)
    assert blocks.model.seen == [(1, 6)] * 3


def test_one_example_is_short_and_without_padding():
    inputs = batch(batch_size=4, length=80)
    inputs["attention_mask"][0, :10] = 0
    example = one_example(inputs)
    assert torch.equal(example["input_ids"], inputs["input_ids"][:1, 10 : 10 + MAX_TOKENS])
    assert example["attention_mask"].shape == (1, MAX_TOKENS)
    assert example["attention_mask"].all()
    assert torch.equal(example["labels"], inputs["labels"][:1])
    inputs["attention_mask"][0, 12:] = 0
    assert torch.equal(one_example(inputs)["input_ids"], inputs["input_ids"][:1, 10:12])
    del inputs["attention_mask"]
    assert torch.equal(one_example(inputs)["input_ids"], inputs["input_ids"][:1, :MAX_TOKENS])


class Probing(PlainBlocks):
    """Probes that leave a trace: subclasses say which."""

    def trace(self):
        raise NotImplementedError

    @contextmanager
    def probing(self, batch, *, gradients):
        with super().probing(batch, gradients=gradients):
            yield
        self.trace()


class StepsWeights(Probing):
    def trace(self):
        with torch.no_grad():
            self.model.head.bias.add_(1e-7)


class StepsOptimizer(Probing):
    def trace(self):
        for _, parameter in self.blocks.shared:
            self.optimizer.state[parameter]["exp_avg"] = torch.zeros_like(parameter)


class MovesFrozenWeights(Probing):
    def trace(self):
        self.model.blocks[1].linear.weight.data[0, 0] = 7


class DrawsFromTorch(Probing):
    def trace(self):
        torch.rand(1)


class DrawsFromNumpy(Probing):
    def trace(self):
        np.random.rand()


class DrawsFromPython(Probing):
    def trace(self):
        random.random()


class LeavesGradients(Probing):
    def trace(self):
        self.model.head.bias.grad = torch.ones(3)


class FreezesBlocks(Probing):
    def trace(self):
        self.model.blocks[2].lora_A.weight.requires_grad_(False)


@pytest.mark.parametrize(
    ("trainer", "message"),
    [
        (StepsWeights, "probe moves … of head.bias;"),
        (StepsOptimizer, "probe moves … optimizer … of head.bias.exp_avg, head.weight.exp_avg;"),
        (MovesFrozenWeights, "probe moves … of blocks.1.linear.weight;"),
        (DrawsFromTorch, "probe draws … of torch;"),
        (DrawsFromNumpy, "probe draws … of numpy;"),
        (DrawsFromPython, "probe draws … of python;"),
        (LeavesGradients, "probe leaves gradients … of head.bias;"),
        (FreezesBlocks, "probe changes which … train … of blocks.2.lora_A.weight;"),
    ],
)
def test_a_probe_that_leaves_a_trace(trainer, message):
    assert says(complaint(build(trainer)), message, "put back")


def test_a_probe_that_draws_on_the_gpu(monkeypatch):
    drawn = iter(range(100))
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda: torch.tensor([next(drawn)], dtype=torch.uint8))
    assert says(complaint(build()), "probe … random", "torch.cuda")


class ProbesNothing(PlainBlocks):
    def run_probe(self, batch, gradients):
        super().run_probe(batch, gradients=False)


class ProbesAnything(PlainBlocks):
    """Its own dropout comes from a generator that nobody puts back."""

    generator = torch.Generator().manual_seed(0)

    def run_probe(self, batch, gradients):
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=self.generator)))
        super().run_probe(batch, gradients)


def test_a_probe_without_gradients():
    assert says(complaint(build(ProbesNothing)), "probe … no gradients", "probing(…, gradients=True)")


def test_a_probe_that_cannot_be_repeated():
    assert says(complaint(build(ProbesAnything)), "gradients … two probes … differ")


class ForgetsToThaw(PlainBlocks):
    def set_active(self, active):
        super().set_active(active)
        if len(active) == NUM_BLOCKS:
            self.blocks.per_block[2][1][1].requires_grad_(False)


class ForgetsToFreeze(PlainBlocks):
    def set_active(self, active):
        super().set_active(active)
        self.blocks.per_block[3][0][1].requires_grad_(True)


class FreezesShared(PlainBlocks):
    def set_active(self, active):
        super().set_active(active)
        for _, parameter in self.blocks.shared:
            parameter.requires_grad_(len(active) == NUM_BLOCKS)


class MovesWeightsAsItFreezes(PlainBlocks):
    def set_active(self, active):
        super().set_active(active)
        self.model.head.bias.data[0] += 1


class NeverTheSameAgain(PlainBlocks):
    """As if thawed adapters were scaled otherwise from then on: nothing that can be seen, but other gradients."""

    frozen_before = False

    def set_active(self, active):
        super().set_active(active)
        self.frozen_before = True

    def run_probe(self, batch, gradients):
        super().run_probe(batch, gradients)
        if self.frozen_before:
            gradient = self.blocks.per_block[1][0][1].grad
            # The smallest change that there is.
            gradient[0, 0] = torch.nextafter(gradient[0, 0], torch.tensor(torch.inf))


@pytest.mark.parametrize(
    ("trainer", "message"),
    [
        (ForgetsToThaw, "set_active([0, 1, 2, 3]) leaves frozen blocks.2.lora_B.weight;"),
        (ForgetsToFreeze, "set_active([0]) lets train blocks.3.lora_A.weight;"),
        (FreezesShared, "set_active([0]) leaves frozen head.weight, head.bias;"),
        (MovesWeightsAsItFreezes, "freezing and thawing moves … of head.bias;"),
        (NeverTheSameAgain, "freezing and thawing … changes … gradients … blocks.1.lora_A.weight"),
    ],
)
def test_freezing_that_is_not_undone_or_not_exact(trainer, message):
    assert says(complaint(build(trainer)), message)


class Noisy(PlainBlocks):
    """Kernels that add up in another order every time."""

    noise = 1e-6
    generator = torch.Generator().manual_seed(0)

    def run_probe(self, batch, gradients):
        super().run_probe(batch, gradients)
        for _, parameter in self.blocks.all():
            parameter.grad *= 1 + self.noise * torch.randn(1, generator=self.generator)


class NoisyAndWrong(Noisy):
    def run_probe(self, batch, gradients):
        super().run_probe(batch, gradients)
        if len(self.model.seen) == 3:
            self.blocks.per_block[1][1][1].grad *= 1.01


def test_kernels_that_are_not_deterministic_are_told_from_mistakes(caplog):
    check(build(Noisy))
    assert "kernels are not deterministic" in caplog.text
    assert says(complaint(build(NoisyAndWrong)), "freezing … changes … gradients")


def without(trainable, name):
    return Blocks(
        trainable.name,
        tuple(tuple(item for item in block if item[0] != name) for block in trainable.per_block),
        tuple(item for item in trainable.shared if item[0] != name),
    )


@pytest.mark.parametrize("lost", ["head.bias", "blocks.2.lora_B.weight"])
def test_a_tuner_parameter_in_nobodys_hands(lost):
    blocks = build()
    blocks.blocks = without(blocks.blocks, lost)
    assert says(complaint(blocks), f"neither in a block nor shared: {lost}")


def test_parameters_in_two_places_or_of_no_model():
    blocks = build()
    mapped = blocks.blocks
    blocks.blocks = Blocks(mapped.name, mapped.per_block, (*mapped.shared, mapped.per_block[0][0]))
    assert says(complaint(blocks), "two places: blocks.0.lora_A.weight")
    blocks.blocks = Blocks(mapped.name, mapped.per_block, (*mapped.shared, ("stray", nn.Parameter(torch.ones(1)))))
    assert says(complaint(blocks), "not trained: stray")


def mapped_on_another_model():
    blocks = build()
    blocks.blocks = Blocks("layers", blocks.blocks.per_block[:2], blocks.blocks.shared)
    return blocks


def test_parameters_mapped_on_another_model():
    assert says(complaint(mapped_on_another_model()), "2 blocks of layers", "4 in blocks")


def test_blocks_of_another_class():
    model = Model()
    model.blocks[2] = OtherBlock()
    assert says(complaint(build(model=model)), "- model.name: block 2 of blocks … OtherBlock … block 0 … Block")


def test_blocks_of_unequal_shapes():
    wide, more = Model(), Model()
    wide.blocks[3].lora_A, wide.blocks[3].lora_B = nn.Linear(HIDDEN, 3, bias=False), nn.Linear(3, HIDDEN, bias=False)
    assert says(
        complaint(build(model=wide)),
        "- adapter.target_modules: lora_A.weight … (3, 8) in block 3 of blocks … (2, 8) in block 0",
    )
    more.blocks[1].lora_A.bias = nn.Parameter(torch.zeros(2))
    assert says(complaint(build(model=more)), "lora_A.bias … (2,) in block 1 of blocks … absent in block 0")


def test_shapes_are_whole_where_zero_has_partitioned_parameters_away():
    blocks = build()
    for index, block in enumerate(blocks.blocks.per_block):
        for _, parameter in block:
            parameter.ds_shape = parameter.shape if index < 3 else torch.Size([9, 9])
    assert says(complaint(blocks), "lora_A.weight … (9, 9) in block 3 of blocks")


def test_a_block_without_parameters_is_refused_before():
    model = Model()
    model.blocks[1].requires_grad_(False)
    with refused(BlockError, "[1] of blocks … no trainable"):
        map_parameters(model)


class Ranks:
    """A gather of two ranks, of which the other one found ``others``, call by call."""

    def __init__(self, *others):
        self.others = iter(others)
        self.calls = 0

    def __call__(self, value):
        self.calls += 1
        return [value, next(self.others)]


def test_a_mistake_on_one_rank_is_raised_on_all_and_none_goes_on():
    blocks = build()
    ranks = Ranks(["something is wrong"])
    assert "- rank 1: something is wrong\n" in complaint(blocks, gather=ranks)
    # Nothing has run: the other rank would not have taken part.
    assert blocks.model.seen == []
    assert ranks.calls == 1
    ranks = Ranks([], True, ["something else is wrong"])
    assert "- rank 1: something else is wrong\n" in complaint(blocks, gather=ranks)


def test_a_mistake_of_this_rank_is_told_to_the_others():
    ranks = Ranks([], True, [])
    message = complaint(build(DrawsFromTorch), gather=ranks)
    assert says(message, "rank 0: … probe … random … torch;")
    assert ranks.calls == 3


def test_a_mistake_of_all_ranks_is_said_once():
    message = complaint(mapped_on_another_model(), gather=lambda value: [value, value])
    assert message.count("2 blocks of layers") == 1
    assert "rank" not in message


def test_a_rank_without_gradients_of_its_own_is_none_of_a_mistake():
    # Under ZeRO a rank may hold no part of anything, as long as another does.
    check(build(), gather=Ranks([], False, []))
    blocks = build(ProbesNothing)
    check(blocks, gather=Ranks([], True, []))
