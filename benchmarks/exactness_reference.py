"""What plain PyTorch makes of a step in a cell of benchmarks/exactness.py, and how far rounding may take another.

It is one process that sees the batches of all ranks, knows nothing of the engine, and freezes by leaving gradients out.
In what order gradients of ranks and micro-batches are added is part of what a ZeRO stage is, and in bf16 it shows, so
they are added in the same order here.

Every step starts from the state that the engine was in. A run compared only at its end has no tolerance that follows
from arithmetic: where a master of the last bit lies on the edge between two bf16 numbers, the model's weight is one or
the other, 2^-8 apart, and every gradient after that is another one. A step that starts from the same bits cannot do
that, and all steps together are the run. How far a step may be off, element by element, with the unit roundoff of fp32
u = 2^-24 and N trained elements:

- A gradient g that is added in the same order is the same. The clipping norm adds N squares in any order, which can
  move its root by N u / 2 in each of two programs, and the coefficient by as much: |g| (N + 4) u.
- ZeRO stage 3 has a linear layer and graph nodes of its own, which add in another order inside the backward pass. How
  much a tensor's gradient is rounded there is measured, as the root mean square e of its distance to the gradient that
  the next higher precision comes to. Two programs whose roundings are of that size differ by sqrt(2) e, and by less
  than 6 times that in every element. Of the n = ranks * accumulation gradients that are added, each program rounds
  every sum: 2 n u' of the sum of the terms' magnitudes in both, u' being the model's unit roundoff, 2^-8 in bf16.
- A moment is a sum of two terms, m = b1 m + (1 - b1) g: (1 - b1) times what g may be off, and 4 u of the sum of the
  terms' magnitudes. The second moment adds squares, which are off by 2 |g| d + d^2 where g is off by d.
- A master follows from its old value and the *engine's* new moments, by three divisions, a root and two subtractions:
  8 u of the sum of the terms' magnitudes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from exactness_cells import (
    DTYPES,
    LEARNING_RATE,
    MAX_GRAD_NORM,
    NUM_BLOCKS,
    NUM_STEPS,
    RESELECT_EVERY,
    WARMUP_STEPS,
    WEIGHT_DECAY,
    Cell,
    active_at,
    batch,
    make_model,
)

from irtune.layers import map_parameters

State = dict[str, torch.Tensor]
"""``gather_state``'s form: ``master/<name>``, ``exp_avg/<name>``, ``exp_avg_sq/<name>``, ``step/<name>``."""

UNIT = 2.0**-24
"""The unit roundoff of fp32, in which norms, moments and masters are computed."""
SMALLEST = 2.0**-126
"""Below this, fp32 has fewer digits than it rounds to elsewhere."""
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


@dataclass(frozen=True)
class Snapshot:
    """What an engine knows between two steps, whole, on the CPU.

    Args:
        state: In the form of ``gather_state``.
        weights: The model's weights by name, in its precision.
    """

    state: State
    weights: State


@dataclass(frozen=True)
class Errors:
    """How far an engine is from plain PyTorch; errors are the worst element's, as a part of what rounding allows it."""

    weights_error: float
    moments_error: float
    scores_error: float
    wrong_weights: int
    """Tensors of the model that are not their masters rounded."""
    largest_difference: float
    """Of a weight, after one step from the same state."""

    def __or__(self, other: "Errors") -> "Errors":
        # NumPy's maximum of anything with a NaN is NaN.
        worst = {f.name: np.maximum(getattr(self, f.name), getattr(other, f.name)).item() for f in fields(self)}
        return Errors(**worst | {"wrong_weights": self.wrong_weights + other.wrong_weights})


def errors(cell: Cell, first: int, snapshots: Sequence[Snapshot], scores: np.ndarray) -> Errors:
    """Compare every step of a run with plain PyTorch's step from the same state.

    Args:
        cell: How it trained.
        first: Its first step.
        snapshots: Before that step and after every step to the end.
        scores: ``(refreshes, L)`` gradient norms that it measured.
    """
    total = Errors(0, 0, 0, _wrong_weights(cell, snapshots[0]), 0)
    measured = iter(scores)
    for step, (before, after) in enumerate(pairwise(snapshots), start=first):
        total |= _errors_of_step(cell, step, before, after, measured)
    return total


def start_state(cell: Cell) -> State:
    """The masters that a run starts with."""
    model = make_model(cell.precision, cell.tuner)
    return {f"master/{name}": parameter.detach().float() for name, parameter in map_parameters(model).all()}


def _errors_of_step(cell: Cell, step: int, before: Snapshot, after: Snapshot, measured: Any) -> Errors:
    model, exact, named, owner = _models(cell)
    gradients, magnitudes = _averaged_gradients(cell, model, named, before.weights, step)
    slack = {name: torch.zeros_like(gradient) for name, gradient in gradients.items()}
    if cell.stage == 3:
        higher, _ = _averaged_gradients(cell, exact, dict(exact.named_parameters()), before.weights, step)
        # PyTorch's eps is twice the unit roundoff.
        added = cell.ranks * cell.accumulation * torch.finfo(DTYPES[cell.precision]).eps
        slack = {
            name: 6 * (2 * (gradient - higher[name]).square().mean()).sqrt() + added * magnitudes[name]
            for name, gradient in gradients.items()
        }
    scores_error = _score_error(cell, gradients, slack, owner, next(measured)) if step % RESELECT_EVERY == 0 else 0.0
    trained = [name for name in named if name not in owner or owner[name] in active_at(step)]
    moments, weights, largest = [0.0], [0.0], 0.0
    scale, scale_error = _clipping(cell, step, [gradients[n] for n in trained], [slack[n] for n in trained])
    for name in named:
        old, new = ({k: s.state[f"{k}/{name}"].double() for k in _KINDS} for s in (before, after))
        if name not in trained:
            # On every rank this is counted elsewhere.
            moments.append(0.0 if all(torch.equal(old[kind], new[kind]) for kind in _KINDS) else float("inf"))
            continue
        gradient = gradients[name] * scale
        off = slack[name] * scale + gradient.abs() * scale_error
        for kind, term, term_off in (
            ("exp_avg", gradient, off),
            ("exp_avg_sq", gradient**2, 2 * gradient.abs() * off + off**2),
        ):
            beta = BETA1 if kind == "exp_avg" else BETA2
            kept, added = beta * old[kind], (1 - beta) * term
            allowed = (1 - beta) * term_off + 4 * UNIT * (kept.abs() + added.abs()) + SMALLEST
            moments.append(_largest((new[kind] - (kept + added)).abs() / allowed))
        expected, magnitude = _stepped(old, new, step, float(old["step"]) + 1)
        difference = (new["master"] - expected).abs()
        weights.append(_largest(difference / (8 * UNIT * magnitude + SMALLEST)))
        largest = max(largest, _largest(difference))
    return Errors(
        float(np.max(weights)), float(np.max(moments)), scores_error, _wrong_weights(cell, after), float(largest)
    )


_KINDS = ("master", "exp_avg", "exp_avg_sq", "step")


def _clipping(
    cell: Cell, step: int, gradients: Sequence[torch.Tensor], slack: Sequence[torch.Tensor]
) -> tuple[float, float]:
    """What gradients are multiplied by, and how far that may be off, relative to it."""
    elements = sum(gradient.numel() for gradient in gradients)
    if not cell.clipping:
        return 1 / cell.loss_scale, 4 * UNIT
    norm = _norm(gradients)
    assert norm / cell.loss_scale > MAX_GRAD_NORM, f"nothing to clip at step {step} of {cell}: the norm is {norm}"
    coefficient = MAX_GRAD_NORM / (norm / cell.loss_scale + 1e-6)
    return coefficient / cell.loss_scale, (elements + 4) * UNIT + _norm(slack) / norm


def _stepped(old: State, new: State, step: int, count: float) -> tuple[torch.Tensor, torch.Tensor]:
    """AdamW's new master, from the old one and the new moments, and the sum of its terms' magnitudes."""
    # Linear warm-up, then linear decay to zero, by hand.
    rate = LEARNING_RATE * min(step / WARMUP_STEPS, (NUM_STEPS - step) / (NUM_STEPS - WARMUP_STEPS))
    kept = old["master"] * (1 - rate * WEIGHT_DECAY)
    root = (new["exp_avg_sq"] / (1 - BETA2**count)).sqrt() + EPSILON
    update = rate * new["exp_avg"] / (1 - BETA1**count) / root
    return kept - update, old["master"].abs() + update.abs()


def _score_error(cell: Cell, gradients: State, slack: State, owner: Mapping[str, int], measured: np.ndarray) -> float:
    """The worst block's distance from its gradient norm, as a part of what the gradients' slack and fp64 allow."""
    found = [0.0]
    for block in range(NUM_BLOCKS):
        names = [name for name, index in owner.items() if index == block and _counts(cell.tuner, name)]
        norm = _norm([gradients[name] for name in names])
        allowed = _norm([slack[name] for name in names]) + norm * UNIT
        found.append(abs(float(measured[block]) * cell.loss_scale - norm) / allowed)
    return float(np.max(found))


@cache
def _models(cell: Cell) -> tuple[Any, Any, dict[str, Any], dict[str, int]]:
    """The model, the same in the next higher precision, its trained parameters and the block of each."""
    model = make_model(cell.precision, cell.tuner).to(cell.device)
    higher = make_model(cell.precision, cell.tuner).to(cell.device)
    higher = higher.double() if cell.precision == "fp32" else higher.float()
    blocks = map_parameters(model)
    owner = {name: index for index, block in enumerate(blocks.per_block) for name, _ in block}
    return model, higher, dict(blocks.all()), owner


def _wrong_weights(cell: Cell, found: Snapshot) -> int:
    masters = {name: found.state[f"master/{name}"].to(DTYPES[cell.precision]) for name in found.weights}
    return sum(not torch.equal(weight, masters[name]) for name, weight in found.weights.items())


def _averaged_gradients(
    cell: Cell, model: Any, named: Mapping[str, Any], weights: State, step: int
) -> tuple[State, State]:
    """The mean over ranks and micro-batches, added up in the model's precision and in the stage's order, and the mean
    of the magnitudes of what is added; both in fp64."""
    for name, weight in weights.items():
        named[name].data.copy_(weight)

    def gradients(micro: int, rank: int) -> State:
        model.zero_grad()
        loss = model(**batch(step, micro * cell.ranks + rank, cell.device)).loss
        (loss * cell.loss_scale / cell.accumulation).backward()
        return {name: named[name].grad for name in weights}

    per_micro = [[gradients(micro, rank) for rank in range(cell.ranks)] for micro in range(cell.accumulation)]
    if cell.stage < 2:
        # Every rank adds up its micro-batches, and the sums are averaged.
        found = _average([_sum(of_rank) for of_rank in zip(*per_micro, strict=True)])
    else:
        # Every micro-batch is averaged over ranks as soon as it is there, and the averages are added up.
        found = _sum([_average(of_micro) for of_micro in per_micro])
    magnitudes = _sum([{name: g.abs() for name, g in each.items()} for of_micro in per_micro for each in of_micro])
    return (
        {name: gradient.double().cpu() for name, gradient in found.items()},
        {name: magnitude.double().cpu() / cell.ranks for name, magnitude in magnitudes.items()},
    )


def _sum(states: Sequence[State]) -> State:
    return {name: torch.stack([state[name] for state in states]).sum(0) for name in states[0]}


def _average(states: Sequence[State]) -> State:
    return {name: total / len(states) for name, total in _sum(states).items()}


def _norm(tensors: Sequence[torch.Tensor]) -> float:
    return float(sum(tensor.double().square().sum() for tensor in tensors)) ** 0.5


def _largest(values: torch.Tensor) -> float:
    return float(values.max())


def _counts(tuner: str, name: str) -> bool:
    """Whether a tensor counts for its block's score."""
    return "lora_B" in name or tuner not in ("lora", "dora")
