"""DeepSpeed training in which blocks can be frozen and thawed at any step, bit-exactly, at every ZeRO stage.

Toggling ``requires_grad`` alone is not exact: ZeRO 1-3 take a missing gradient for zero, so momentum and weight decay
go on moving a frozen block. Here every block has an optimizer param group of its own, and step hooks hide the gradients
of frozen groups, so that the optimizer passes over them: weights, moments and step counts stay as they are. The toggle
is kept for what it saves, the backward pass below the lowest active block.
"""

import functools
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from irtune.config.engine_schema import EngineConfig
from irtune.config.schema import TrainingConfig
from irtune.layers import Blocks
from irtune.layers.blocks import shape_of
from irtune.layers.compiled_blocks import CompiledBlocks
from irtune.layers.measured_model import SHARED, MeasuredModel, innermost_optimizer, norms_of
from irtune.layers.recompute import Recomputed
from irtune.layers.torch_blocks import FrozenState
from irtune.training.class_weights import weighted_loss
from irtune.training.deepspeed_config import deepspeed_config
from irtune.training.dropout_streams import give_streams
from irtune.training.idle_adapters import IdleAdapters
from irtune.training.model import DTYPES
from irtune.training.partition import partition
from irtune.training.shared_prefix import SharedPrefix


class DeepSpeedBlocks(MeasuredModel):
    """A DeepSpeed engine over a model whose blocks freeze and thaw; the controller's view of it.

    Args:
        model: The classifier with its adapter; every parameter in ``blocks`` has ``requires_grad``.
        blocks: Its trainable parameters by block.
        training: Optimisation settings.
        engine: DeepSpeed settings.
        class_weights: How much examples of each class count in the loss ``(C,)``; None where all count alike, and the
            loss is the model's own.
        prefix: Computes once what rows of batches begin alike with, in training and evaluation; None does not. Probes
            that are passes of their own see every row whole.
        frozen_state: ``drop`` keeps no moments of frozen blocks, which start anew when they thaw.

    Raises:
        ValueError: If a raw DeepSpeed setting contradicts exact freezing.
    """

    def __init__(
        self,
        model: nn.Module,
        blocks: Blocks,
        training: TrainingConfig,
        engine: EngineConfig,
        class_weights: np.ndarray | None = None,
        prefix: SharedPrefix | None = None,
        frozen_state: FrozenState = "keep",
    ) -> None:
        import deepspeed
        from transformers import get_scheduler

        super().__init__(model, blocks)
        _without_compiled_ops()
        # ZeRO stage 3 replaces this function for the whole process.
        self._linear = torch.nn.functional.linear
        settings = deepspeed_config(training, engine)
        if engine.zero_stage == 3:
            partition(model, settings, DTYPES[engine.precision])
        with _frozen_not_broadcast(model):
            self.engine = deepspeed.initialize(
                model=model,
                optimizer=_adamw(blocks, training, fused=engine.fused_optimizer),
                config=settings,
                dist_init_required=False,
            )[0]
        self.outputs: Callable[..., Any] = functools.partial(prefix.outputs, self.engine) if prefix else self.engine
        self._class_weights: torch.Tensor | None = None
        if class_weights is not None:
            self._class_weights = torch.tensor(class_weights, dtype=torch.float32, device=self.device)
        self.stage = int(self.engine.zero_optimization_stage())
        self.skips_overflow = bool(self.engine.fp16_enabled())
        self.base_optimizer = innermost_optimizer(self.engine.optimizer)
        self._norm: torch.Tensor | None = None
        give_streams(self.members, self.device)
        self._idle = IdleAdapters(self) if engine.skip_idle_adapters else None
        self.compiled = CompiledBlocks(self.members) if engine.compile == "blocks" else None
        self._hide_frozen_gradients()
        self.frozen_state = frozen_state
        # Some wrappers of DeepSpeed's have taken a step by now, which would be counted.
        self.base_optimizer.state.clear()
        if frozen_state == "keep":
            for _, tensor, _ in self.stepped():
                self.moments_of(tensor)
        # ZeRO 1-2 and DeepSpeed's bf16 optimizer would keep views of all moments for functions that nothing calls here.
        self.engine.optimizer._hp_optimizer_states_linked = True
        for group in self.base_optimizer.param_groups:
            group["lr"] = training.learning_rate
        self.scheduler = get_scheduler(
            training.lr_schedule,
            self.base_optimizer,
            num_warmup_steps=training.warmup_steps,
            num_training_steps=training.max_steps,
        )

    def train_step(self, micro_batches: Iterable[Mapping[str, torch.Tensor]]) -> torch.Tensor:
        """Forward and backward over the micro-batches of one optimizer step; returns their mean loss ``()``, detached.

        Call ``optimizer_step`` after it; in between gradients may be read and discarded.
        """
        self.start_step()
        losses = []
        pending = list(micro_batches)
        for index, batch in enumerate(pending):
            loss = self._loss_of(self.outputs, batch)
            self.engine.backward(loss)
            losses.append(loss.detach().float())
            if index + 1 < len(pending):
                self.engine.step()
        return torch.stack(losses).mean()

    def optimizer_step(self) -> None:
        """Apply the gradients and move on to the next learning rate."""
        if self.stage == 0 and not hasattr(self.engine.optimizer, "_global_grad_norm"):
            # Plain fp32 optimizers are clipped by the engine, which keeps no norm.
            self._norm = torch.nn.utils.get_total_norm([gradient for _, gradient in self._gradients()])
        self.engine.step()
        self.scheduler.step()
        if self.compiled is not None:
            self.compiled.look()

    def set_active(self, active: Sequence[int]) -> None:
        """Exactly these blocks train from the next forward pass on; the others are frozen bit-exactly."""
        self.active = tuple(active)
        self.require_gradients(active)
        chosen = {SHARED, *active}
        for group in self.base_optimizer.param_groups:
            group["frozen"] = group["block"] not in chosen
        if self.frozen_state == "drop":
            self.forget_moments(set(range(len(self.blocks))) - chosen)

    def require_gradients(self, active: Sequence[int]) -> None:
        """Let the backward pass reach exactly these blocks; adapters of others are passed over that add nothing."""
        super().require_gradients(active)
        if self._idle is not None:
            self._idle.pass_over(active)

    @property
    def device(self) -> torch.device:
        """Where the engine computes."""
        return torch.device(self.engine.device)

    def loss_scale(self) -> float:
        """The fp16 loss scale; 1 in other precisions."""
        return float(getattr(self.engine.optimizer, "loss_scale", 1.0)) if self.skips_overflow else 1.0

    def gathered(self, parameters: Sequence[nn.Parameter], *, writer: int | None = None) -> AbstractContextManager[Any]:
        """Whole parameters inside the context, also at ZeRO stage 3, where only what ``writer`` changes stays."""
        if self.stage < 3:
            return nullcontext()
        import deepspeed

        context: AbstractContextManager[Any] = deepspeed.zero.GatheredParameters(list(parameters), modifier_rank=writer)
        return context

    def averaged_norms(self) -> np.ndarray:
        """``(L, P_max)`` norms of the gradients as the optimizer sees them."""
        norms = self._table(norms_of({id(parameter): gradient for parameter, gradient in self._gradients()}))
        if self.stage > 0:
            # A gradient's parts lie on several ranks.
            squares = norms.square()
            dist.all_reduce(squares)
            norms = squares.sqrt()
        return np.asarray((norms / self.loss_scale()).cpu().numpy())

    def whole_gradient(self, parameter: nn.Parameter) -> torch.Tensor:
        """The averaged gradient of one parameter in fp32, whole, on every rank."""
        from deepspeed.utils import safe_get_full_grad

        gradient = parameter.grad if self.stage == 0 else safe_get_full_grad(parameter)
        if gradient is None:
            return torch.zeros(shape_of(parameter), device=self.device)
        return gradient.float() / self.loss_scale()

    def whole_weight(self, parameter: nn.Parameter) -> torch.Tensor:
        """One trained parameter in fp32, whole, on every rank."""
        from deepspeed.utils import safe_get_full_fp32_param

        if self.stage < 3:
            return parameter.detach().float()
        # Stage 3 does not let a parameter be gathered between a forward pass and its backward pass, but its optimizer
        # has a copy, which it shows of trainable parameters only.
        trains = parameter.requires_grad
        parameter.requires_grad_(True)
        weight: torch.Tensor = safe_get_full_fp32_param(parameter)
        parameter.requires_grad_(trains)
        return weight.detach()

    def discard_gradients(self, blocks: Sequence[int]) -> None:
        """Zero this step's gradients of these blocks, so that they don't count for the clipping norm either."""
        discarded = set(blocks)
        for parameter, gradient in self._gradients():
            if self._place.get(id(parameter), (SHARED, 0))[0] in discarded:
                gradient.zero_()
                if self.stage == 0:
                    parameter.grad = None

    def reset_optimizer_state(self, blocks: Sequence[int]) -> None:
        """Zero moments and step counts of these blocks, as if they had never trained."""
        for block, tensor, _ in self.stepped():
            if block in blocks:
                for value in self.moments_of(tensor).values():
                    value.zero_()

    def moments_of(self, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
        """What Adam knows of a tensor that it steps, to be changed in place; from now on zeros if that was nothing."""
        state: dict[str, torch.Tensor] = self.base_optimizer.state[tensor]
        if not state:
            state.update(self.no_moments(tensor))
        return state

    def no_moments(self, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
        """What Adam knows of a tensor before its first step."""
        # A fused kernel counts steps where it computes.
        device = tensor.device if self.base_optimizer.defaults["fused"] else "cpu"
        step = torch.zeros((), dtype=torch.float32, device=device)
        return {"step": step, "exp_avg": torch.zeros_like(tensor), "exp_avg_sq": torch.zeros_like(tensor)}

    def forget_moments(self, blocks: Collection[int]) -> None:
        """Free what Adam knows of these blocks; it begins anew when it next steps them."""
        for block, tensor, _ in self.stepped():
            if block in blocks:
                self.base_optimizer.state.pop(tensor, None)

    def local_state(self) -> dict[str, torch.Tensor]:
        """This rank's part of the trained weights, and of what the optimizer knows of them, by a name of its own."""
        return {
            f"{name} of part {part}, in block {block}": value
            for part, (block, tensor, _) in enumerate(self.stepped())
            for name, value in {"weights": tensor, **self.base_optimizer.state[tensor]}.items()
        }

    def local_gradients(self) -> dict[str, torch.Tensor]:
        """This rank's part of all gradients by parameter name; inside a probe the whole ones of the probe."""
        names = {id(parameter): name for name, parameter in self.blocks.all()}
        found = self._probed or {id(parameter): gradient for parameter, gradient in self._gradients()}
        return {names[key]: gradient for key, gradient in found.items()}

    def stepped(self) -> Iterator[tuple[int, torch.Tensor, list[nn.Parameter]]]:
        """Each tensor that the optimizer steps, in the same order on every rank.

        Yields:
            Its block (or ``SHARED``), the tensor (a parameter, its fp32 master, or this rank's flat partition of some
            parameters), and the parameters that lie in it.
        """
        optimizer, groups = self.engine.optimizer, self.base_optimizer.param_groups
        if self.stage == 0:
            # The groups hold all parameters in this order, or in half precision their masters.
            blocks_and_tensors = [(group["block"], tensor) for group in groups for tensor in group["params"]]
            for (block, tensor), (_, parameter) in zip(blocks_and_tensors, self.blocks.all(), strict=True):
                yield block, tensor, [parameter]
        elif self.stage == 3:
            # Stage 3 puts its partitions into the groups for the time of a step only.
            partitions = zip(optimizer.fp32_partitioned_groups_flat, optimizer.fp16_groups, strict=True)
            for index, (tensor, members) in enumerate(partitions):
                yield groups[optimizer.sub_group_to_group_id[index]]["block"], tensor, members
        else:
            for group, members in zip(groups, optimizer.bit16_groups, strict=True):
                yield group["block"], group["params"][0], members

    def gradient_norm(self) -> float:
        """Global gradient norm of the last optimizer step, before clipping; NaN if unknown."""
        norm = self.engine.get_global_grad_norm() if self._norm is None else self._norm
        return float("nan") if norm is None else float(norm)

    def description(self) -> dict[str, str]:
        """What really runs, read off the live objects."""
        return {
            "engine": type(self.engine).__name__,
            "optimizer": type(self.engine.optimizer).__name__,
            "base_optimizer": type(self.base_optimizer).__name__,
            "zero_stage": str(self.stage),
            "world_size": str(dist.get_world_size()),
            "backend": str(dist.get_backend()),
            "device": str(self.engine.device),
            "threads": str(torch.get_num_threads()),
            "attention": str(getattr(self.model.config, "_attn_implementation", "")),
            "dtype": str(next(self.engine.module.parameters()).dtype).removeprefix("torch."),
            **({} if self.compiled is None else {"compile": self.compiled.in_words()}),
        }

    def destroy(self) -> None:
        """Free the engine, its hooks and its memory."""
        if self.compiled is not None:
            self.compiled.release()
            torch._dynamo.reset()
        self.engine.destroy()
        torch.nn.functional.linear = self._linear
        self.base_optimizer.state.clear()
        self.engine = self.base_optimizer = self.scheduler = None
        self.outputs = lambda **batch: None
        self.blocks = Blocks(self.blocks.name, (), ())
        self.model, self.members, self._idle = nn.Module(), [], None
        self._recomputed = Recomputed(self.model, ())

    def _loss(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The loss ``()`` that is trained on, of a pass that does not train."""
        return self._loss_of(self.model, batch)

    def _loss_of(self, forward: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        outputs = forward(**batch)
        if self._class_weights is None:
            loss: torch.Tensor = outputs.loss
            return loss
        return weighted_loss(outputs.logits, batch["labels"], self._class_weights)

    def _gradients(self) -> Iterable[tuple[nn.Parameter, torch.Tensor]]:
        """This rank's part of the averaged gradient of each parameter, as views that can be written to."""
        optimizer = self.engine.optimizer
        if self.stage == 0:
            yield from ((p, p.grad) for _, p in self.blocks.all() if p.grad is not None)
        elif self.stage == 3:
            for index, gradients in optimizer.averaged_gradients.items():
                yield from zip(optimizer.fp16_groups[index], gradients, strict=True)
        else:
            for index, gradients in optimizer.averaged_gradients.items():
                parts = [part for part in gradients if not getattr(part, "_zero_padding", False)]
                # A rank that holds no parameter of a group holds one buffer of zeros for it.
                if optimizer.params_in_partition[index]:
                    yield from zip(optimizer.params_in_partition[index], parts, strict=True)

    def _hide_frozen_gradients(self) -> None:
        hidden: list[tuple[torch.Tensor, torch.Tensor | None]] = []

        def hide(optimizer: torch.optim.Optimizer, *_: Any) -> None:
            for group in optimizer.param_groups:
                if group["frozen"]:
                    for parameter in group["params"]:
                        hidden.append((parameter, parameter.grad))
                        parameter.grad = None

        def restore(*_: Any) -> None:
            for parameter, gradient in hidden:
                parameter.grad = gradient
            hidden.clear()

        self.base_optimizer.register_step_pre_hook(hide)
        self.base_optimizer.register_step_post_hook(restore)


def _adamw(blocks: Blocks, training: TrainingConfig, *, fused: bool) -> torch.optim.AdamW:
    """AdamW with one param group per block and one for shared parameters.

    The learning rate is 0 until the engine is built: at stage 0 in half precision DeepSpeed takes an optimizer step
    without gradients as it starts, which would decay the weights once.
    """
    members = [(SHARED, blocks.shared), *enumerate(blocks.per_block)]
    return torch.optim.AdamW(
        [{"params": [p for _, p in named], "block": index, "frozen": False} for index, named in members if named],
        lr=0.0,
        betas=(training.adam_beta1, training.adam_beta2),
        eps=training.adam_epsilon,
        weight_decay=training.weight_decay,
        fused=fused,
    )


@contextmanager
def _frozen_not_broadcast(model: nn.Module) -> Iterator[None]:
    """Keep DeepSpeed from broadcasting what is not trained, which every rank has from the same file: written to, it
    would no longer be the one memory-mapped copy that all processes of a machine share."""
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    for parameter in frozen:
        # DeepSpeed's own mark of parameters that are no copies of rank 0's.
        parameter.ds_optim_param = True  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for parameter in frozen:
            del parameter.ds_optim_param  # type: ignore[attr-defined]


def _without_compiled_ops() -> None:
    """Keep DeepSpeed from compiling a C++ extension on a CPU, which takes a minute and a compiler, and saves nothing
    for the small tensors that are reduced here."""
    import deepspeed.ops
    from deepspeed.utils import logger

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    logger.setLevel(logging.ERROR)
