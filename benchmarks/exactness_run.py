"""The engine in the cells of benchmarks/exactness.py, and how far it is off."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from exactness_cells import (
    ACTIVE_SETS,
    DTYPES,
    LOSS_SCALE,
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
from exactness_reference import State, reference
from safetensors.torch import load_file

from irtune.config.schema import EngineConfig
from irtune.importance import GradientNorm
from irtune.layers import LayerController, MemoryTrace, map_parameters
from irtune.selection import SelectionPolicy
from irtune.training.checkpoint import OPTIMIZER_STATE, load_checkpoint, save_checkpoint
from irtune.training.engine import DeepSpeedBlocks
from irtune.training.optimizer_state import gather_state, stepped_slices

NAME = f"step_{SAVED_AT:06d}"


class Scripted(SelectionPolicy):
    """Goes through ``ACTIVE_SETS``. Its place there is its state, and it draws from its generator."""

    name: Literal["scripted"] = "scripted"

    def select(self, context: Any) -> tuple[tuple[int, ...], Mapping[str, Any]]:
        """The next set; scores don't matter, but every refresh probes for them."""
        turn = context.state.get("turn", 0)
        drawn = [*context.state.get("drawn", []), context.generator.random()]
        return ACTIVE_SETS[turn], {"turn": turn + 1, "drawn": drawn}


class Run:
    """The engine and the controller in a cell, with a look at every rank's state after each step."""

    def __init__(self, cell: Cell, *, sabotage: bool = False) -> None:
        model = make_model(cell.precision, cell.tuner)
        engine = EngineConfig(
            zero_stage=cell.stage,
            precision=cell.precision,
            gpus_per_worker=int(cell.device == "cuda"),
            deepspeed={"fp16": {"loss_scale": LOSS_SCALE}} if cell.precision == "fp16" else {},
        )
        self.cell = cell
        self.blocks = DeepSpeedBlocks(model, map_parameters(model), training_settings(cell), engine)
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
        if sabotage:
            self.blocks.base_optimizer._optimizer_step_pre_hooks.clear()
            self.blocks.base_optimizer._optimizer_step_post_hooks.clear()

    def train(self, first: int, last: int) -> None:
        """Steps ``first`` to ``last - 1``."""
        for step in range(first, last):
            self.controller.before_step(step)
            indices = [micro * self.cell.ranks + dist.get_rank() for micro in range(self.cell.accumulation)]
            self.blocks.train_step([batch(step, index, self.cell.device) for index in indices])
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


def check_cell(cell: Cell, folder: Path, *, sabotage: bool = False) -> dict[str, Any]:
    """Train, saving on the way, and resume in a new engine; returns on rank 0 how far everything is off."""
    run = Run(cell, sabotage=sabotage)
    run.train(0, SAVED_AT)
    run.save(folder)
    run.train(SAVED_AT, NUM_STEPS)
    final, seen = gather_state(run.blocks), run.close()
    again = Run(cell, sabotage=sabotage)
    again.load(folder)
    again.train(SAVED_AT, NUM_STEPS)
    resumed, _ = gather_state(again.blocks), again.close()
    if dist.get_rank() > 0:
        return {}
    plain = reference(_arithmetic(cell), _arithmetic(cell))
    same_choices = (
        run.controller.state_dict() == again.controller.state_dict() and run.trained[SAVED_AT:] == again.trained
    )
    return {
        **seen,
        **plain.errors(final),
        "scores_error": float(np.max(np.abs(run.trace.scores() / plain.scores - 1))),
        "resume_differing": differing(final, resumed) + (not same_choices),
    }


def save_half(move: Move, folder: Path) -> None:
    """The first half of a run that is resumed elsewhere."""
    run = Run(move.source)
    run.train(0, SAVED_AT)
    run.save(folder)
    run.close()


def check_move(move: Move, folder: Path) -> dict[str, Any]:
    """The second half; returns on rank 0 how far everything is off."""
    run = Run(move.target)
    run.load(folder)
    loaded = gather_state(run.blocks)
    run.train(SAVED_AT, NUM_STEPS)
    final, seen = gather_state(run.blocks), run.close(first=SAVED_AT)
    if dist.get_rank() > 0:
        return {}
    plain = reference(_arithmetic(move.source), _arithmetic(move.target))
    return {
        **seen,
        **plain.errors(final),
        "scores_error": float(np.max(np.abs(run.trace.scores() / plain.scores[-len(run.trace.records) :] - 1))),
        "resume_differing": differing(load_file(folder / NAME / OPTIMIZER_STATE), loaded),
    }


def _arithmetic(cell: Cell) -> Cell:
    """One cell for all whose reference is the same."""
    return replace(cell, stage=2 if cell.stage >= 2 else 0)


def differing(first: State, second: State) -> int:
    """How many tensors differ in any bit."""
    assert first.keys() == second.keys()
    return sum(not torch.equal(_bits(first[key]), _bits(second[key])) for key in first)


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1).view(torch.uint8)
