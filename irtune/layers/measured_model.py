"""What can be measured on any PyTorch model whose blocks freeze and thaw, whoever trains it."""

import functools
import random
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from irtune.importance import Gradient, Token
from irtune.layers import collectives
from irtune.layers.activations import ForwardPass, LowRankFeatures
from irtune.layers.blocks import EFFECTIVE_UPDATE, Blocks, counts, find_blocks, low_rank_pairs, shape_of, size_of
from irtune.layers.recompute import Recomputed
from irtune.selection import Suppression

if TYPE_CHECKING:
    from irtune.layers.compiled_blocks import CompiledBlocks

Batch = Mapping[str, Any]
"""Keyword arguments of a forward pass: tensors whose first dimension is the example."""

SHARED = -1
"""Stands for the parameters that belong to no single block."""


class MeasuredModel(ABC):
    """A model and its blocks, as signals and the controller ask for them; a trainer adds how it averages and steps.

    Args:
        model: The whole model, as a forward pass calls it. May be wrapped later, but stays the one that is measured.
        blocks: Its trainable parameters by block.
    """

    skips_overflow = False
    """Whether an optimizer step with non-finite gradients is skipped and tried again (fp16 loss scaling)."""
    trains_weights: bool
    """Whether training changes the pretrained matrices themselves, so that what was read from them grows old."""

    def __init__(self, model: nn.Module, blocks: Blocks) -> None:
        self.model = model
        self.blocks = blocks
        members = find_blocks(model)[1]
        self.members = [members[index] for index in blocks.indices]
        self.active: tuple[int, ...] = tuple(range(len(blocks)))
        trained = {id(parameter) for _, parameter in blocks.all()}
        pretrained = [p for member in self.members for p in member.parameters() if p.dim() > 1]
        self.trains_weights = any(id(p) in trained for p in pretrained) and not hasattr(model, "peft_config")
        self._adapters = set() if self.trains_weights else trained
        self._place = {
            id(parameter): (index, place)
            for index, block in enumerate(blocks.per_block)
            for place, (_, parameter) in enumerate(block)
        }
        self._local_norms: dict[int, torch.Tensor] | None = None
        self._local_hooks: list[Any] = []
        self._probe_batch: Batch | None = None
        self._probed: dict[int, torch.Tensor] | None = None
        self._features: LowRankFeatures | None = None
        self.compiled: CompiledBlocks | None = None
        self._recomputed = Recomputed(model, self.members)

    # What a trainer defines.

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return next(self.model.parameters()).device

    def loss_scale(self) -> float:
        """By how much gradients are multiplied for the sake of half precision."""
        return 1.0

    def gathered(self, parameters: Sequence[nn.Parameter], *, writer: int | None = None) -> AbstractContextManager[Any]:
        """Whole parameters inside the context, where training keeps them partitioned.

        Args:
            parameters: Which.
            writer: The rank whose changes reach all ranks; by default changes are lost.
        """
        return nullcontext()

    @abstractmethod
    def averaged_norms(self) -> np.ndarray:
        """``(L, P_max)`` norms of the step's averaged gradients, 0 where a block has fewer tensors or no gradient."""

    @abstractmethod
    def whole_gradient(self, parameter: nn.Parameter) -> torch.Tensor:
        """The step's averaged gradient of one parameter in fp32, whole; collective."""

    def whole_weight(self, parameter: nn.Parameter) -> torch.Tensor:
        """One trained parameter in fp32, whole; collective."""
        return parameter.detach().float()

    @abstractmethod
    def set_active(self, active: Sequence[int]) -> None:
        """From now on exactly these blocks (and the shared parameters) train; the others are frozen bit-exactly."""

    @abstractmethod
    def discard_gradients(self, blocks: Sequence[int]) -> None:
        """Forget the gradients of these blocks, so that they neither move weights nor count for clipping."""

    @abstractmethod
    def reset_optimizer_state(self, blocks: Sequence[int]) -> None:
        """Forget moments and step counts of these blocks."""

    # What a signal asks for (irtune.importance.MeasuredBlocks).

    def gradient_norms(self, tensors: str, gradient: Gradient = "averaged") -> list[np.ndarray]:
        """Per block the L2 norm ``(P,)`` of each tensor's gradient.

        Call it between the backward pass and the optimizer step, or inside ``probing``; on all ranks.
        """
        if tensors == EFFECTIVE_UPDATE:
            return self._update_norms()
        norms = self._local() if gradient == "local" else self._averaged()
        return [
            norms[index, [place for place, (name, _) in enumerate(block) if counts(name, tensors)]]
            for index, block in enumerate(self.blocks.per_block)
        ]

    def tensor_sizes(self, tensors: str) -> list[np.ndarray]:
        """Per block the number of elements ``(P,)`` of each of those tensors."""
        return self.blocks.sizes(tensors)

    def record_local_norms(self) -> None:
        """Sum the norm of every micro-batch's own gradient, before ranks and accumulation average it."""
        self._local_norms = {}
        for key, parameter in ((id(p), p) for block in self.blocks.per_block for _, p in block):
            hook = functools.partial(self._add_local_norm, key)
            self._local_hooks.append(parameter.register_hook(hook))  # type: ignore[no-untyped-call]

    def stop_local_norms(self) -> None:
        """Take back ``record_local_norms``."""
        self._local_norms = None
        for hook in self._local_hooks:
            hook.remove()
        self._local_hooks = []

    def weight_matrices(self, block: int) -> Iterator[tuple[str, torch.Tensor]]:
        """The pretrained matrices of a block, whole, one after the other: name in the block, tensor ``(out, in)``.

        A stack of experts gives one matrix for each expert.
        """
        for name, parameter in self.members[block].named_parameters():
            if id(parameter) in self._adapters or len(shape_of(parameter)) not in (2, 3):
                continue
            with torch.no_grad(), self.gathered([parameter]):
                short = name.removesuffix(".weight").removesuffix(".base_layer")
                if parameter.dim() == 2:
                    yield short, parameter.detach()
                else:
                    yield from ((f"{short}.{index}", matrix) for index, matrix in enumerate(parameter.detach()))

    def similarities(self) -> np.ndarray:
        """``(L,)`` mean over the real tokens of all ranks of the cosine between hidden states before and after a block.

        Runs a forward pass over the probe's batch.
        """
        return self._forward_pass().similarities()

    def token_states(self, token: Token) -> list[tuple[np.ndarray, np.ndarray]]:
        """Per block the hidden states ``(n, d)`` before and after it, at one token of the examples of all ranks.

        Runs a forward pass over the probe's batch.
        """
        return self._forward_pass().token_states(token)

    def activation_energies(self) -> list[np.ndarray]:
        """Per block ``(P,)`` mean over the real tokens of all ranks of the squared norm of what enters a layer.

        Runs a forward pass over the probe's batch.
        """
        return self._forward_pass().activation_energies({id(parameter) for _, parameter in self.blocks.all()})

    def record_features(self) -> None:
        """Read what enters ``lora_B`` in the forward pass of every gradient probe that is a pass of its own."""
        ups = [[up for _, up in low_rank_pairs(block)] for block in self.blocks.per_block]
        self._features = LowRankFeatures(ups, self.members)

    def low_rank_moments(self) -> list[list[tuple[np.ndarray, np.ndarray]]]:
        """Per block, for each ``lora_B`` that saw tokens, Gram matrix of its gradient and moments of features.

        Call it inside ``probing`` with gradients.
        """
        assert self._features is not None, "record_features comes first"
        assert self._probed is not None, "features are read in a gradient probe of its own"
        return self._features.moments(self._probed)

    # What the controller asks for.

    @property
    def rank(self) -> int:
        """This process among those that train together."""
        return collectives.rank()

    def broadcast(self, value: Any) -> Any:
        """Rank 0's ``value``, on every rank."""
        return collectives.broadcast(value)

    def trainable_parameters(self, active: Sequence[int]) -> int:
        """Number of parameters that train with these blocks active, shared ones included."""
        chosen = [self.blocks.shared, *(self.blocks.per_block[index] for index in active)]
        return sum(size_of(parameter) for group in chosen for _, parameter in group)

    @contextmanager
    def probing(self, batch: Batch, *, gradients: bool) -> Iterator[None]:
        """Inside, measurements are of a pass of their own over ``batch``, through the backward pass of every block if
        ``gradients``. Weights, gradients, optimizer and random generators come out as they went in."""
        self._probe_batch = batch
        try:
            if gradients:
                self._probed = self._probe_gradients(batch)
            yield
        finally:
            self._probe_batch = self._probed = None

    def suppressed_losses(self, probes: Sequence[Suppression], batch: Batch) -> np.ndarray:
        """``(len(probes),)`` the loss on ``batch`` with some blocks' adapters scaled down, averaged over ranks.

        Raises:
            ValueError: If the adapters of a block have no scaling.
        """
        losses = torch.zeros(len(probes), dtype=torch.float64, device=self.device)
        for index, probe in enumerate(probes):
            with self._suppressed(probe):
                losses[index] = self._losses_apart(batch)
        return np.asarray(collectives.sum_over_ranks(losses).cpu().numpy() / collectives.world_size())

    def require_gradients(self, active: Sequence[int]) -> None:
        """Let the backward pass reach exactly these blocks and the shared parameters."""
        chosen = set(active)
        for index, block in enumerate(self.blocks.per_block):
            for _, parameter in block:
                parameter.requires_grad_(index in chosen)

    def gradients_of_pass(self, batch: Batch, active: Sequence[int]) -> dict[str, torch.Tensor]:
        """This rank's gradients, by name, of a training pass in which these blocks train; it leaves no trace."""
        trained = [named for index in active for named in self.blocks.per_block[index]]
        self.require_gradients(active)
        try:
            with _generators_kept(self.device):
                found = torch.autograd.grad(self._loss(batch), [p for _, p in trained], allow_unused=True)
        finally:
            self.require_gradients(self.active)
        return {name: each for (name, _), each in zip(trained, found, strict=True) if each is not None}

    def recompute(self, blocks: Collection[int]) -> None:
        """From the next forward pass on keep of these blocks, and of no others, only what enters them; the backward
        pass computes the rest again."""
        self._recomputed.only(blocks)

    def start_step(self) -> None:
        """Forget the local norms of the last step."""
        if self._local_norms is not None:
            self._local_norms = {}

    def _add_local_norm(self, key: int, gradient: torch.Tensor) -> None:
        if self._local_norms is not None and self._probe_batch is None:
            norm = gradient.detach().float().norm().double()
            self._local_norms[key] = self._local_norms.get(key, 0) + norm

    def _local(self) -> np.ndarray:
        assert self._local_norms is not None, "record_local_norms comes first"
        norms = collectives.sum_over_ranks(self._table(self._local_norms)) / collectives.world_size()
        return np.asarray((norms / self.loss_scale()).cpu().numpy())

    def _averaged(self) -> np.ndarray:
        if self._probed is None:
            return self.averaged_norms()
        return np.asarray(self._table(norms_of(self._probed)).cpu().numpy())

    def _table(self, values: Mapping[int, torch.Tensor]) -> torch.Tensor:
        """``(L, P_max)`` what is known of each parameter of the blocks, by its id; 0 where nothing is."""
        width = max(len(block) for block in self.blocks.per_block)
        zero = torch.zeros((), dtype=torch.float64, device=self.device)
        rows = [[values.get(id(p), zero) for _, p in block] for block in self.blocks.per_block]
        return torch.stack([cell for row in rows for cell in row + [zero] * (width - len(row))]).view(-1, width)

    def _update_norms(self) -> list[np.ndarray]:
        """Norm of the change of each product ``B A`` along the gradient: ``G_B A + B G_A``."""
        pairs = [low_rank_pairs(block) for block in self.blocks.per_block]
        norms = [torch.zeros((), dtype=torch.float64, device=self.device)]
        for down, up in (pair for block in pairs for pair in block):
            change = self._gradient(up) @ self.whole_weight(down) + self.whole_weight(up) @ self._gradient(down)
            norms.append(change.double().norm())
        return np.split(torch.stack(norms)[1:].cpu().numpy(), np.cumsum([len(block) for block in pairs])[:-1])

    def _gradient(self, parameter: nn.Parameter) -> torch.Tensor:
        return self.whole_gradient(parameter) if self._probed is None else self._probed[id(parameter)]

    def _probe_gradients(self, batch: Batch) -> dict[int, torch.Tensor]:
        """Gradients of every block on ``batch``, averaged over ranks, without touching those of the step."""
        parameters = [p for block in self.blocks.per_block for _, p in block]
        self.require_gradients(range(len(self.blocks)))
        recorded = nullcontext() if self._features is None else self._features.recorded(batch)
        # Hooks in compiled blocks would not be called, and what is computed again is to be as it was.
        uncompiled = nullcontext() if self.compiled is None else self.compiled.paused()
        with _generators_kept(self.device), uncompiled:
            # A block that is recomputed passes its features again in the backward pass.
            with recorded:
                loss = self._loss(batch) * self.loss_scale()
            found = torch.autograd.grad(loss, parameters, allow_unused=True)
        self.require_gradients(self.active)
        scale = collectives.world_size() * self.loss_scale()
        # A parameter that this batch did not use (an expert without tokens) has a gradient of zero.
        gradients = [
            torch.zeros(size_of(parameter), device=self.device) if gradient is None else gradient.reshape(-1).float()
            for parameter, gradient in zip(parameters, found, strict=True)
        ]
        flat = collectives.sum_over_ranks(torch.cat(gradients)) / scale
        parts = torch.split(flat, [len(gradient) for gradient in gradients])
        return {id(p): part.view(shape_of(p)) for p, part in zip(parameters, parts, strict=True)}

    def _loss(self, batch: Batch) -> torch.Tensor:
        """The model's own loss ``()`` on ``batch``."""
        loss: torch.Tensor | None = getattr(self.model(**batch), "loss", None)
        if loss is None:
            raise ValueError(
                f"importance: a probe that is a pass of its own needs the loss of the model, and "
                f"{type(self.model).__name__} gives none for {sorted(batch)}; let it have the labels, or use gradients "
                "with probe_fraction=1, which are read from the training step itself"
            )
        return loss

    def _forward_pass(self) -> ForwardPass:
        assert self._probe_batch is not None, "what passes forward is measured inside probing"
        return ForwardPass(self.members, self._probe_batch, self._losses_apart, self.device)

    def _losses_apart(self, batch: Batch) -> torch.Tensor:
        """Loss ``()`` of a forward pass in evaluation mode, that is without dropout."""
        was_training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad(), _generators_kept(self.device):
                return self._loss(batch).detach().double()
        finally:
            self.model.train(was_training)

    @contextmanager
    def _suppressed(self, probe: Suppression) -> Iterator[None]:
        scaled: list[tuple[dict[str, float], dict[str, float]]] = []
        for index in probe.blocks:
            scalings = [getattr(module, "scaling", None) for module in self.members[index].modules()]
            found = [scaling for scaling in scalings if isinstance(scaling, dict)]
            if not found:
                raise ValueError(
                    f"selection.policy: it turns adapters down, and those of block {self.blocks.indices[index]} have "
                    "no scaling; use lora, dora, loha or lokr, or another policy"
                )
            scaled += [(scaling, dict(scaling)) for scaling in found]
        for scaling, before in scaled:
            scaling.update({name: value * probe.scale for name, value in before.items()})
        try:
            yield
        finally:
            for scaling, before in scaled:
                scaling.update(before)


def norms_of(tensors: Mapping[int, torch.Tensor]) -> dict[int, torch.Tensor]:
    """The L2 norm ``()`` in fp64 of each tensor, where it lies: on a GPU a few kernels for all of them."""
    with torch.no_grad():
        # Names of dtype and order are those of torch.linalg.vector_norm.
        norms = torch._foreach_norm(list(tensors.values()), 2, torch.float64) if tensors else ()
    return dict(zip(tensors, norms, strict=True))


def innermost_optimizer(optimizer: Any) -> Any:
    """PyTorch's optimizer inside the wrappers of DeepSpeed or accelerate."""
    while hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    return optimizer


@contextmanager
def _generators_kept(device: torch.device) -> Iterator[None]:
    """Random generators come out as they went in, whatever a forward pass draws for its dropout."""
    python, numpy = random.getstate(), np.random.get_state()
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
