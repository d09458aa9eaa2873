"""Plain PyTorch training, alone or under DistributedDataParallel, in which blocks freeze and thaw bit-exactly.

PyTorch's optimizers pass over a parameter without a gradient: weight, moments and step count stay as they are. A hook
before each optimizer step therefore takes away what gradients frozen blocks may have. ``requires_grad`` is toggled for
what that saves, the backward pass below the lowest active block.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from irtune.layers.blocks import Blocks, shape_of
from irtune.layers.measured_model import MeasuredModel, norms_of

FrozenState = Literal["keep", "drop"]
"""What becomes of the optimizer's state of a block that is frozen: it waits, or makes room and later starts anew."""


class TorchBlocks(MeasuredModel):
    """A model, a PyTorch optimizer and their blocks; the controller's view of them.

    Under DistributedDataParallel the wrapper needs ``find_unused_parameters=True``, since frozen blocks have no
    gradient, and has to be made while every block requires gradients.

    Args:
        model: The model itself, not its DistributedDataParallel wrapper.
        blocks: Its trainable parameters by block.
        optimizer: Any optimizer that passes over parameters without gradients; it must hold every block's parameters.
        scaler: The loss scaler of fp16 training.
        frozen_state: ``drop`` frees what the optimizer knows of a block when it is frozen.

    Raises:
        ValueError: If the optimizer lacks parameters, or cannot be told to pass over some.
    """

    def __init__(
        self,
        model: nn.Module,
        blocks: Blocks,
        optimizer: torch.optim.Optimizer,
        *,
        scaler: torch.amp.GradScaler | None = None,
        frozen_state: FrozenState = "keep",
    ) -> None:
        super().__init__(model, blocks)
        self.optimizer = optimizer
        self.scaler = scaler
        self.skips_overflow = scaler is not None and scaler.is_enabled()
        self.frozen_state = frozen_state
        self._check_optimizer()
        self._before: torch.Tensor | None = None
        self._verified: set[bool] = set()
        self._handles = [
            optimizer.register_step_pre_hook(self._before_optimizer),
            optimizer.register_step_post_hook(self._after_optimizer),
        ]

    def set_active(self, active: Sequence[int]) -> None:
        """Exactly these blocks train from the next forward pass on; the others are frozen bit-exactly."""
        self.active = tuple(active)
        self.require_gradients(active)

    def loss_scale(self) -> float:
        """The fp16 loss scale; 1 in other precisions."""
        return float(self.scaler.get_scale()) if self.scaler is not None and self.skips_overflow else 1.0

    def averaged_norms(self) -> np.ndarray:
        """``(L, P_max)`` norms of the step's gradients, which DistributedDataParallel has averaged."""
        gradients = {id(p): p.grad for block in self.blocks.per_block for _, p in block if p.grad is not None}
        return np.asarray((self._table(norms_of(gradients)) / self.loss_scale()).cpu().numpy())

    def whole_gradient(self, parameter: nn.Parameter) -> torch.Tensor:
        """The step's gradient of one parameter in fp32."""
        if parameter.grad is None:
            return torch.zeros(shape_of(parameter), device=parameter.device)
        return parameter.grad.detach().float() / self.loss_scale()

    def discard_gradients(self, blocks: Sequence[int]) -> None:
        """Forget this step's gradients of these blocks, so that they don't count for the clipping norm either."""
        for parameter in self._parameters(blocks):
            parameter.grad = None

    def reset_optimizer_state(self, blocks: Sequence[int]) -> None:
        """Forget moments and step counts of these blocks; the optimizer makes new ones when it next needs them."""
        for parameter in self._parameters(blocks):
            self.optimizer.state.pop(parameter, None)

    def release(self) -> None:
        """Make every block trainable again, and leave model and optimizer as they were found.

        A second call does nothing: by then the blocks may be somebody else's to freeze.
        """
        if not self._handles:
            return
        self.set_active(range(len(self.blocks)))
        self.stop_local_norms()
        self.recompute(())
        if self.compiled is not None:
            self.compiled.release()
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _parameters(self, blocks: Sequence[int]) -> Iterator[nn.Parameter]:
        yield from (parameter for index in blocks for _, parameter in self.blocks.per_block[index])

    def _frozen(self) -> list[int]:
        return sorted(set(range(len(self.blocks))) - set(self.active))

    def _check_optimizer(self) -> None:
        optimizer = self.optimizer
        name = type(optimizer).__name__
        if not (isinstance(optimizer, torch.optim.Optimizer) and hasattr(optimizer, "_optimizer_step_pre_hooks")):
            raise ValueError(f"optimizer: {name} is no torch.optim.Optimizer, so nothing can be hidden from it")
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        missing = [name for block in self.blocks.per_block for name, parameter in block if id(parameter) not in held]
        if missing:
            raise ValueError(
                f"optimizer: {name} does not hold {len(missing)} of the blocks' parameters, {missing[0]} for one; it "
                "must be made of all of them while they all require gradients, and step them itself (layer-wise "
                "optimizers that step inside the backward pass do not)"
            )

    def _before_optimizer(self, *_: Any) -> None:
        frozen = self._frozen()
        self.discard_gradients(frozen)
        if self.frozen_state == "drop":
            self.reset_optimizer_state(frozen)
        self._before = self._fingerprint() if self._should_verify(frozen) else None

    def _after_optimizer(self, *_: Any) -> None:
        if self._before is not None and not torch.equal(self._before, self._fingerprint()):
            raise ValueError(
                f"optimizer: {type(self.optimizer).__name__} moved frozen weights, which have no gradient; use one "
                "that passes over parameters without gradients, as torch.optim.AdamW does"
            )

    def _should_verify(self, frozen: Sequence[int]) -> bool:
        """Once for blocks without and once for blocks with moments, in a step that would move them."""
        moments = any(self.optimizer.state.get(parameter) for parameter in self._parameters(frozen))
        moving = any(float(group.get("lr", 1)) for group in self.optimizer.param_groups)
        if not frozen or not moving or moments in self._verified:
            return False
        self._verified.add(moments)
        return True

    def _fingerprint(self) -> torch.Tensor:
        """``(P, 2)`` sum and norm of each frozen tensor: without memory of the weights' size, and moved by any step."""
        with torch.no_grad():
            frozen = [p.detach() for p in self._parameters(self._frozen())]
            sums = [
                torch.stack([p.sum(dtype=torch.float64), torch.linalg.vector_norm(p, dtype=torch.float64)])
                for p in frozen
            ]
            return torch.stack([pair.to(self.device) for pair in sums])
