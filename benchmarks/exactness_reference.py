"""What plain PyTorch comes to in a cell of benchmarks/exactness.py.

It is one process that sees the batches of all ranks, knows nothing of the engine, and freezes by leaving gradients out.
In what order gradients of ranks and micro-batches are added is part of what a ZeRO stage is, and in bf16 it shows, so
they are added in the same order here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from exactness_cells import (
    LEARNING_RATE,
    MAX_GRAD_NORM,
    NUM_BLOCKS,
    NUM_STEPS,
    RESELECT_EVERY,
    SAVED_AT,
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


@cache
def reference(first: Cell, second: Cell) -> "Reference":
    """Plain PyTorch, up to ``SAVED_AT`` with the sums of one cell and from then on with those of another."""
    model = make_model(first.precision, first.tuner).to(first.device)
    blocks = map_parameters(model)
    named = dict(blocks.all())
    owner = {name: index for index, block in enumerate(blocks.per_block) for name, _ in block}
    masters = {name: p.detach().float().clone() for name, p in named.items()}
    start = {name: master.clone() for name, master in masters.items()}
    optimizer = torch.optim.AdamW(masters.values(), weight_decay=WEIGHT_DECAY)
    scores = []
    for step in range(NUM_STEPS):
        gradients = _averaged_gradients(first if step < SAVED_AT else second, model, named, step)
        if step % RESELECT_EVERY == 0:
            squares = np.zeros(NUM_BLOCKS)
            for name, index in owner.items():
                squares[index] += float(gradients[name].double().square().sum()) * _counts(first.tuner, name)
            scores.append(np.sqrt(squares) / first.loss_scale)
        trained = [name for name in named if name not in owner or owner[name] in active_at(step)]
        for name, master in masters.items():
            master.grad = gradients[name].float() / first.loss_scale if name in trained else None
        if first.clipping:
            norm = torch.nn.utils.clip_grad_norm_([masters[name] for name in trained], MAX_GRAD_NORM)
            assert norm > MAX_GRAD_NORM, f"nothing to clip at step {step} of {first}: the gradient norm is {norm}"
        # Linear warm-up, then linear decay to zero, by hand.
        decay = (NUM_STEPS - step) / (NUM_STEPS - WARMUP_STEPS)
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * min(step / WARMUP_STEPS, decay)
        optimizer.step()
        for name, p in named.items():
            p.data.copy_(masters[name])
    final = {f"master/{name}": master for name, master in masters.items()}
    for name, master in masters.items():
        final |= {f"{kind}/{name}": value for kind, value in optimizer.state[master].items()}
    names = [[name for name, _ in block] for block in (blocks.shared, *blocks.per_block)]
    on_cpu = [{name: value.cpu() for name, value in state.items()} for state in (start, final)]
    return Reference(names, *on_cpu, np.array(scores))


@dataclass(frozen=True)
class Reference:
    """What plain PyTorch comes to.

    Args:
        names: Names of the parameters of each block, the shared ones first.
        start: Weights at the start, by name.
        final: State at the end, in the form of ``gather_state``.
        scores: ``(refreshes, L)`` gradient norms.
    """

    names: list[list[str]]
    start: State
    final: State
    scores: np.ndarray

    def errors(self, found: State) -> dict[str, float]:
        """How far a state is from the final one.

        Returns:
            ``weights_error`` and ``moments_error``, the worst block's distance as a part of how far its weights moved
            and of how long its moments are; ``largest_difference`` of any weight.
        """
        distances: dict[str, list[float]] = {}
        for names in self.names:
            for kind in ("master", "exp_avg", "exp_avg_sq"):
                there, here = (_flat(state, [f"{kind}/{n}" for n in names]) for state in (self.final, found))
                scale = there - _flat(self.start, names) if kind == "master" else there
                distances.setdefault(kind, []).append(float((here - there).norm() / scale.norm()))
        masters = [key for key in self.final if key.startswith("master/")]
        differences = [float((found[key] - self.final[key]).abs().max()) for key in masters]
        # NumPy's maximum of anything with a NaN is NaN.
        return {
            "weights_error": float(np.max(distances["master"])),
            "moments_error": float(np.max([distances["exp_avg"], distances["exp_avg_sq"]])),
            "largest_difference": float(np.max(differences)),
        }


def _flat(state: State, keys: Sequence[str]) -> torch.Tensor:
    return torch.cat([state[key].flatten() for key in keys]).double()


def _counts(tuner: str, name: str) -> bool:
    """Whether a tensor counts for its block's score."""
    return "lora_B" in name or tuner not in ("lora", "dora")


def _averaged_gradients(cell: Cell, model: Any, named: Mapping[str, Any], step: int) -> State:
    """The mean over ranks and micro-batches, added up in the model's precision and in the stage's order."""

    def gradients(micro: int, rank: int) -> State:
        model.zero_grad()
        loss = model(**batch(step, micro * cell.ranks + rank, cell.device)).loss
        (loss.float() * cell.loss_scale / cell.accumulation).backward()
        return {name: p.grad for name, p in named.items()}

    per_micro = [[gradients(micro, rank) for rank in range(cell.ranks)] for micro in range(cell.accumulation)]
    if cell.stage < 2:
        # Every rank adds up its micro-batches, and the sums are averaged.
        return _average([_sum(of_rank) for of_rank in zip(*per_micro, strict=True)])
    # Every micro-batch is averaged over ranks as soon as it is there, and the averages are added up.
    return _sum([_average(of_micro) for of_micro in per_micro])


def _sum(states: Sequence[State]) -> State:
    return {name: torch.stack([state[name] for state in states]).sum(0) for name in states[0]}


def _average(states: Sequence[State]) -> State:
    return {name: total / len(states) for name, total in _sum(states).items()}
