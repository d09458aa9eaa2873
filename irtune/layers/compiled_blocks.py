"""Each block compiled by itself, which needs a handful of graphs for any selection, and stays exact or is not done.

A compiled model is one graph for every set of blocks that trains. Compiled by itself a block is like all others:
PyTorch uses its graphs for every block, one for each way in which a block takes part in a training step. It trains or
is frozen, its adapter is passed over or not, and below it something trains or nothing does. Lengths and batch sizes
are dynamic. Evaluation and probes run uncompiled, so that hooks in blocks are called.

What PyTorch compiles may be wrong without a sign: up to 2.11 a graph is used again after ``requires_grad`` of a
parameter has changed (pytorch/pytorch#139476), so that a block which trains again has no gradients. ``check`` compares
gradients before training, and whatever fails goes on uncompiled, with a warning.
"""

import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from irtune.layers import collectives
from irtune.layers.measured_model import Batch, MeasuredModel

logger = logging.getLogger(__name__)

BACKEND = "inductor"
MOST_GRAPHS = 64
"""Of one block's forward pass; PyTorch's own limit, 8, is below what selections and masks need together."""

MAX_ERROR = {torch.float64: 1e-6, torch.float32: 1e-3}
MAX_ERROR_OF_HALVES = 0.1
"""Of the norm of all gradients, how much compiling may change them: it rounds otherwise."""

Gather = Callable[[Any], list[Any]]
Gradients = Mapping[str, torch.Tensor]
GradientsOf = Callable[[Sequence[int]], Gradients]
"""From blocks that train to the gradients of their parameters, by name."""


class CompiledBlocks:
    """Blocks whose forward passes in training are compiled, until ``release``.

    Args:
        members: The blocks.
        backend: PyTorch's compiler.
    """

    def __init__(self, members: Sequence[nn.Module], backend: str | None = None) -> None:
        self.why_not = ""
        self._on, self._members = True, list(members)
        config = torch._dynamo.config
        self._limit = config.recompile_limit
        if members:
            config.recompile_limit = max(self._limit, MOST_GRAPHS)
        self._before = _counted()
        self._own = [vars(member).get("forward") for member in members]
        backend = backend or BACKEND
        # Dropout then draws the numbers that it draws uncompiled.
        options: Any = {"fallback_random": True} if backend == "inductor" else None
        for member in members:
            eager = member.forward
            compiled = torch.compile(eager, dynamic=True, backend=backend, options=options)
            member.forward = functools.partial(self._forward, member, eager, compiled)

    @property
    def num_graphs(self) -> int:
        """Graphs that were compiled until now."""
        return _counted()["graphs"] - self._before["graphs"]

    def in_words(self) -> str:
        """Say what was compiled, or why nothing is."""
        return f"uncompiled: {self.why_not}" if self.why_not else f"blocks, {self.num_graphs} graphs"

    def give_up(self, reason: str) -> None:
        """Go on uncompiled, and warn once."""
        if not self.why_not:
            self.why_not = " ".join(reason.split())[:300]
            logger.warning("engine.compile: blocks go on uncompiled: %s", self.why_not)
        self._on = False

    def look(self) -> None:
        """Give up if PyTorch has done so, which it only logs; call it after a step."""
        if self._on:
            tried, done = (_counted()[name] - self._before[name] for name in ("tried", "done"))
            if tried > done:
                self.give_up(
                    f"PyTorch compiled {done} of {tried} graphs and left the rest, as it does beyond "
                    f"{torch._dynamo.config.recompile_limit} of one block; TORCH_LOGS=recompiles says why"
                )

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Inside, blocks run uncompiled: for hooks in blocks, and for settings of adapters that change in between."""
        on, self._on = self._on, False
        try:
            yield
        finally:
            self._on = on and not self.why_not

    def check(
        self,
        gradients_of: GradientsOf,
        num_blocks: int,
        gather: Gather,
        *,
        halves: bool = False,
    ) -> None:
        """Compare gradients with those of uncompiled blocks, as blocks freeze and thaw; give up where they differ.

        Every rank calls it, and all give up if one has to.

        Args:
            gradients_of: Runs a training pass without leaving a trace. Random generators begin alike in every call.
            num_blocks: L.
            gather: Every rank's value, on every rank.
            halves: Whether passes compute in half precision, also where gradients are kept in a longer one.
        """
        every = tuple(range(num_blocks))
        upper, lower = every[num_blocks // 2 :], every[: (num_blocks + 1) // 2]
        reason = ""
        for active in (every, upper, lower, every):
            with self.paused():
                expected = gradients_of(active)
            try:
                found = gradients_of(active)
                reason = reason or self.why_not or _difference(expected, found, active, halves)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                # Backward passes may be compiled, and fail to be, as they run.
                reason = reason or f"{type(error).__name__}: {error}"
        reasons = [each for each in gather(reason) if each]
        if reasons:
            self.give_up(reasons[0])

    def release(self) -> None:
        """Put the forward passes back."""
        for member, own in zip(self._members, self._own, strict=True):
            if own is None:
                del member.forward
            else:
                member.forward = own
        if self._members:
            torch._dynamo.config.recompile_limit = self._limit
        self._members, self._own = [], []

    def _forward(
        self, member: nn.Module, eager: Callable[..., Any], compiled: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        if not (self._on and member.training and torch.is_grad_enabled()):
            return eager(*args, **kwargs)
        try:
            return compiled(*args, **kwargs)
        except torch._dynamo.exc.TorchDynamoException as error:
            # It is raised before anything was computed.
            self.give_up(f"{type(error).__name__}: {error}")
            return eager(*args, **kwargs)


def check_compiled(
    blocks: MeasuredModel,
    batch: Batch,
    gather: Callable[[Any], list[Any]] = collectives.gather,
    *,
    halves: bool = False,
) -> None:
    """Compare a model's gradients with those of uncompiled blocks, before training; where they differ none is compiled.

    Every rank calls it. Two rows of ``batch`` pass eight times forwards and backwards.

    Args:
        blocks: The trainer, whose ``compiled`` is set.
        batch: This rank's first micro-batch, on its device.
        gather: Every rank's value in rank order, on every rank.
        halves: As in ``CompiledBlocks.check``.
    """
    compiled = blocks.compiled
    assert compiled is not None, "nothing is compiled"
    if "labels" not in batch:
        compiled.give_up("the check needs the model's own loss, and the batch has no labels for it")
        return
    rows = {name: values[:2] for name, values in batch.items()}
    compiled.check(lambda active: blocks.gradients_of_pass(rows, active), len(blocks.blocks), gather, halves=halves)


def _counted() -> dict[str, int]:
    """Count what PyTorch has compiled in this process."""
    from torch._dynamo.utils import counters

    frames = counters["frames"]
    return {"graphs": counters["stats"]["unique_graphs"], "tried": frames["total"], "done": frames["ok"]}


def _difference(
    expected: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor], active: Sequence[int], halves: bool
) -> str:
    """Say what is wrong with the gradients of compiled blocks; empty if nothing is."""
    where = f"with blocks {_range(active)} training, compiled gradients"
    if expected.keys() != found.keys():
        return f"{where} are of {len(found)} parameters instead of {len(expected)}"
    moved = sum(float((found[name].double() - expected[name].double()).square().sum()) for name in expected)
    whole = sum(float(each.double().square().sum()) for each in expected.values())
    bounds = {} if halves else MAX_ERROR
    most = max((bounds.get(each.dtype, MAX_ERROR_OF_HALVES) for each in expected.values()), default=0.0)
    # Not a number is no small distance either.
    if not moved <= most**2 * whole:
        return f"{where} are off by {(moved / whole) ** 0.5 if whole else moved:.2g} of their norm, more than {most:g}"
    return ""


def _range(blocks: Sequence[int]) -> str:
    return f"{blocks[0]} to {blocks[-1]}"
