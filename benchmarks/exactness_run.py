"""The engine in the cells of benchmarks/exactness.py, and how far it is off."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from exactness_cells import (
    ACTIVE_SETS,
    DTYPES,
    LOSS_SCALE,
    MAX_GRAD_NORM,
    NUM_BLOCKS,
    NUM_STEPS,
    RESELECT_EVERY,
    SAVED_AT,
    Cell,
    Move,
    active_at,
    batch,
    make_model,
    training_settings,
)
from exactness_reference import Snapshot, State, errors, start_state
from safetensors.torch import load_file

from irtune.config.engine_schema import EngineConfig
from irtune.importance import GradientNorm
from irtune.layers import LayerController, MemoryTrace, map_parameters
from irtune.selection import SelectionPolicy
from irtune.training.checkpoint import OPTIMIZER_STATE, load_checkpoint, save_checkpoint
from irtune.training.engine import DeepSpeedBlocks
from irtune.training.optimizer_state import gather_state, stepped_slices

NAME = f"step_{SAVED_AT:06d}"
FAULTS = ("hooks", "scale", "micro-batch", "clipping")
"""What may be broken on purpose: no hooks that freeze, a block's gradients 1 % larger, the last micro-batch left out
(for it the first is counted twice), and clipping to a norm 1 % larger."""


class Scripted(SelectionPolicy):
    """Goes through ``ACTIVE_SETS``. Its place there is its state, and it draws from its generator."""

    name: Literal["scripted"] = "scripted"

    def select(self, context: Any) -> tuple[tuple[int, ...], Mapping[str, Any]]:
        """The next set; scores don't matter, but every refresh probes for them."""
        turn = context.state.get("turn", 0)
        drawn = [*context.state.get("drawn", []), context.generator.random()]
        return ACTIVE_SETS[turn], {"turn": turn + 1, "drawn": drawn}


class Run:
    """The engine and the controller in a cell, with a look at every rank's state after each step.

    Args:
        cell: How to train.
        sabotage: Which of ``FAULTS`` it has.
        watched: Whether to keep a snapshot of everything, before the first step and after each.
    """

    def __init__(self, cell: Cell, *, sabotage: str | None = None, watched: bool = True) -> None:
        model = make_model(cell.precision, cell.tuner)
        engine = EngineConfig(
            zero_stage=cell.stage,
            precision=cell.precision,
            gpus_per_worker=int(cell.device == "cuda"),
            deepspeed={"fp16": {"loss_scale": LOSS_SCALE}} if cell.precision == "fp16" else {},
        )
        self.cell, self.sabotage, self.watched = cell, sabotage, watched
        training = training_settings(cell)
        if sabotage == "clipping":
            training = training.model_copy(update={"max_grad_norm": 1.01 * MAX_GRAD_NORM})
        self.blocks = DeepSpeedBlocks(model, map_parameters(model), training, engine)
        dtype = str(DTYPES[cell.precision]).removeprefix("torch.")
        real = {"zero_stage": str(cell.stage), "world_size": str(cell.ranks), "dtype": dtype}
        assert real.items() <= self.blocks.description().items(), self.blocks.description()
        self.trace = MemoryTrace()
        self.controller = LayerController(
            self.blocks,
            NUM_BLOCKS,
            Scripted(),
            GradientNorm(tensors="lora_B" if cell.tuner in ("lora", "dora") else "all"),
            reselect_every=RESELECT_EVERY,
            total_steps=NUM_STEPS,
            seed=0,
            sinks=[self.trace],
        )
        self.trained: list[list[int]] = []
        """Per step the blocks of the param groups that stepped, -1 for shared parameters."""
        self.frozen_drift = 0.0
        self.frozen_changed = 0
        self.latest = self._by_block()
        self.snapshots: list[Snapshot] = []
        if sabotage == "hooks":
            self.blocks.base_optimizer._optimizer_step_pre_hooks.clear()
            self.blocks.base_optimizer._optimizer_step_post_hooks.clear()

    def train(self, first: int, last: int) -> None:
        """Steps ``first`` to ``last - 1``."""
        if self.watched and not self.snapshots:
            self.snapshots.append(self._snapshot())
        for step in range(first, last):
            self.controller.before_step(step)
            indices = [micro * self.cell.ranks + dist.get_rank() for micro in range(self.cell.accumulation)]
            if self.sabotage == "micro-batch":
                indices[-1] = 0
            self.blocks.train_step([batch(step, index, self.cell.device) for index in indices])
            if self.sabotage == "scale":
                for parameter, gradient in self.blocks._gradients():
                    if self.blocks._place.get(id(parameter), (-1, 0))[0] == active_at(step)[0]:
                        gradient.mul_(1.01)
            self.controller.after_backward(step)
            self.blocks.optimizer_step()
            # What trains is read off the optimizer, not off the controller that told it.
            self.trained.append(sorted(g["block"] for g in self.blocks.base_optimizer.param_groups if not g["frozen"]))
            after = self._by_block()
            for block in set(range(NUM_BLOCKS)) - set(active_at(step)):
                for old, new in zip(self.latest[block], after[block], strict=True):
                    if not torch.equal(_bits(old), _bits(new)):
                        self.frozen_changed += 1
                        self.frozen_drift = max(self.frozen_drift, float((new.float() - old.float()).abs().max()))
            self.latest = after
            if self.watched:
                self.snapshots.append(self._snapshot())

    def save(self, folder: Path) -> None:
        """As the training loop does."""
        save_checkpoint(self.blocks, folder, SAVED_AT, {"controller": self.controller.state_dict()})

    def load(self, folder: Path) -> None:
        """As the training loop does."""
        state = load_checkpoint(self.blocks, folder / NAME)
        self.controller.load_state_dict(state["controller"])
        self.latest = self._by_block()

    def close(self, first: int = 0) -> dict[str, Any]:
        """Free the engine; returns what all ranks saw of steps ``first`` to the end."""
        mine = (self.trained, self.frozen_changed, self.frozen_drift, self._step_counts())
        seen: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(seen, mine)
        trained, changed, drifts, counts = zip(*seen, strict=True)
        steps = range(NUM_STEPS)
        expected = {-1: [NUM_STEPS]} | {b: [sum(b in active_at(s) for s in steps)] for b in range(NUM_BLOCKS)}
        self.blocks.destroy()
        return {
            "frozen_changed": sum(changed),
            "frozen_drift": max(drifts),
            "wrong_step_counts": sum(each != expected for each in counts),
            "wrong_active_sets": sum(each != [[-1, *active_at(s)] for s in steps[first:]] for each in trained),
        }

    def _snapshot(self) -> Snapshot:
        """Of all ranks together; of use on rank 0."""
        with self.blocks.gathered([parameter for _, parameter in self.blocks.blocks.all()]):
            weights = {name: p.detach().cpu().clone() for name, p in self.blocks.blocks.all()}
        return Snapshot(gather_state(self.blocks), weights)

    def _step_counts(self) -> dict[int, list[float]]:
        """Block (-1 for shared parameters) -> the different step counts that this rank keeps for it."""
        owner = self._owners()
        counts: dict[int, set[float]] = {}
        for tensor, slices in stepped_slices(self.blocks):
            count = float(self.blocks.base_optimizer.state[tensor]["step"])
            counts.setdefault(owner[slices[0].name], set()).add(count)
        return {block: sorted(found) for block, found in counts.items()}

    def _owners(self) -> dict[str, int]:
        shared = {name: -1 for name, _ in self.blocks.blocks.shared}
        return shared | {name: i for i, block in enumerate(self.blocks.blocks.per_block) for name, _ in block}

    def _by_block(self) -> dict[int, list[torch.Tensor]]:
        """Copies of what this rank has of each block: weights of the model, masters, moments, step counts."""
        owner = self._owners()
        found: dict[int, list[torch.Tensor]] = {}
        for tensor, slices in stepped_slices(self.blocks):
            weights = [getattr(each.parameter, "ds_tensor", each.parameter) for each in slices]
            state = self.blocks.base_optimizer.state[tensor].values()
            copies = [value.detach().clone() for value in (tensor, *state, *weights)]
            found.setdefault(owner[slices[0].name], []).extend(copies)
        return found


def check_cell(cell: Cell, folder: Path, *, sabotage: str | None = None) -> dict[str, Any]:
    """Train, saving on the way, and resume in a new engine; returns on rank 0 how far everything is off."""
    run = Run(cell, sabotage=sabotage)
    run.train(0, SAVED_AT)
    run.save(folder)
    run.train(SAVED_AT, NUM_STEPS)
    final, seen = gather_state(run.blocks), run.close()
    again = Run(cell, sabotage=sabotage, watched=False)
    again.load(folder)
    again.train(SAVED_AT, NUM_STEPS)
    resumed, _ = gather_state(again.blocks), again.close()
    if dist.get_rank() > 0:
        return {}
    started_elsewhere = differing(_masters(run.snapshots[0].state), start_state(cell))
    same_choices = (
        run.controller.state_dict() == again.controller.state_dict() and run.trained[SAVED_AT:] == again.trained
    )
    return {
        **seen,
        **_compared(cell, 0, run, started_elsewhere),
        "resume_differing": differing(final, resumed) + (not same_choices),
    }


def save_half(move: Move, folder: Path) -> None:
    """The first half of a run that is resumed elsewhere."""
    run = Run(move.source, watched=False)
    run.train(0, SAVED_AT)
    run.save(folder)
    run.close()


def check_move(move: Move, folder: Path) -> dict[str, Any]:
    """The second half; returns on rank 0 how far everything is off."""
    run = Run(move.target)
    run.load(folder)
    loaded = gather_state(run.blocks)
    run.train(SAVED_AT, NUM_STEPS)
    seen = run.close(first=SAVED_AT)
    if dist.get_rank() > 0:
        return {}
    return {
        **seen,
        **_compared(move.target, SAVED_AT, run),
        "resume_differing": differing(load_file(folder / NAME / OPTIMIZER_STATE), loaded),
    }


def _compared(cell: Cell, first: int, run: Run, started_elsewhere: int = 0) -> dict[str, Any]:
    """How far a run is from plain PyTorch, from this step on."""
    found = asdict(errors(cell, first, run.snapshots, np.array(run.trace.scores())))
    return found | {"wrong_weights": found["wrong_weights"] + started_elsewhere}


def _masters(state: State) -> State:
    return {name: value for name, value in state.items() if name.startswith("master/")}


def differing(first: State, second: State) -> int:
    """How many tensors differ in any bit."""
    assert first.keys() == second.keys()
    return sum(not torch.equal(_bits(first[key]), _bits(second[key])) for key in first)


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1).view(torch.uint8)
