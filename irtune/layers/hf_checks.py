"""What a Hugging Face Trainer must not do for freezing to be exact, and what about its model saves nothing."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from irtune.layers.blocks import find_blocks
from irtune.layers.compile_versions import too_old
from irtune.layers.recompute import is_checkpointing

OWN_TRAINING = "train without it, or with irtune's own DeepSpeed training (irtune train, or irtune.run)"
_INPUT_GRADIENT_HOOKS = ("make_inputs_require_grad", "make_inputs_require_grads")


def check_trainer(
    args: Any, model: nn.Module, optimizer: Any, *, unused_by_default: bool, compiles: bool = False
) -> None:
    """Refuse training in which frozen blocks would move, or their gradients could not be read.

    Args:
        args: The Trainer's ``TrainingArguments``.
        model: The model that it trains.
        optimizer: Its optimizer as accelerate has wrapped it; None before there is one.
        unused_by_default: Whether the Trainer lets DistributedDataParallel look for unused parameters if not told.
        compiles: Whether the callback is to compile blocks.

    Raises:
        ValueError: With every reason against it.
    """
    found = [*_parallelism(args, model, optimizer, unused_by_default), *_optimization(args), *_architecture(model)]
    found += _compilation(args, model) if compiles else []
    if found:
        raise ValueError("IRTuningCallback: " + "; ".join(found))


def embedding_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Trainable parameters of the modules beside the blocks that hold embeddings, with the norms in there."""
    base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    found = {id(p): p for module in _embedding_modules(base) for p in module.parameters() if p.requires_grad}
    return list(found.values())


def head_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Trainable parameters that lie neither in a block nor with the embeddings: a head, the last norm."""
    others = {id(p) for p in [*find_blocks(model)[1].parameters(), *embedding_parameters(model)]}
    return [p for p in model.parameters() if p.requires_grad and id(p) not in others]


class InputGradients:
    """The hooks that make a model's embeddings require gradients, taken away until they are put back.

    Only reentrant checkpointing needs them. They would run the backward pass down to the embeddings whatever is frozen.
    transformers and PEFT forget their handles when they set them twice, so they are told by their names.
    """

    def __init__(self, model: nn.Module) -> None:
        self._dropped: list[tuple[nn.Module, int, Any]] = []
        for module in model.modules():
            if isinstance(module, nn.Embedding):
                for key, hook in list(module._forward_hooks.items()):
                    if getattr(hook, "__name__", "") in _INPUT_GRADIENT_HOOKS:
                        self._dropped.append((module, key, hook))
                        del module._forward_hooks[key]

    def put_back(self) -> None:
        """Let the embeddings require gradients again, by the same handles."""
        for module, key, hook in self._dropped:
            module._forward_hooks[key] = hook


def _parallelism(args: Any, model: nn.Module, optimizer: Any, unused_by_default: bool) -> Iterator[str]:
    kind = str(getattr(getattr(optimizer, "accelerator_state", None), "distributed_type", "NO")).rpartition(".")[2]
    if args.deepspeed or kind == "DEEPSPEED":
        yield (
            "deepspeed: under ZeRO a missing gradient counts as zero, so momentum and weight decay go on moving frozen "
            f"blocks, and a callback cannot see gradients before they are clipped; {OWN_TRAINING}"
        )
    elif args.fsdp or kind == "FSDP" or any(hasattr(p, "device_mesh") for p in model.parameters()):
        yield (
            "fsdp: sharded parameters mix blocks that train with frozen ones, and requires_grad must not change; use "
            "DistributedDataParallel, or irtune's own DeepSpeed training (irtune train, or irtune.run)"
        )
    elif kind != "NO" and not kind.startswith("MULTI_"):
        yield f"{kind} is not supported: {OWN_TRAINING}"
    if args.n_gpu > 1:
        yield (
            "torch.nn.DataParallel copies the model for every pass; start one process a device (torchrun), or set "
            "CUDA_VISIBLE_DEVICES to one"
        )
    unused = args.ddp_find_unused_parameters
    if args.world_size > 1 and not (unused_by_default if unused is None else unused):
        yield (
            "ddp_find_unused_parameters: frozen blocks have no gradient, which DistributedDataParallel would wait for; "
            "set ddp_find_unused_parameters=True"
        )
    if args.world_size > 1 and getattr(args, "ddp_static_graph", None):
        yield "ddp_static_graph: which blocks have gradients changes as training goes; leave it unset"


def _optimization(args: Any) -> Iterator[str]:
    if str(args.device).startswith("mps"):
        yield "mps has no double precision, in which norms are compared; set use_cpu=True, or train on another device"
    if args.torch_compile:
        yield (
            "torch_compile: a graph of the whole model fixes which blocks have gradients; set torch_compile=False, and "
            'IRTuningCallback(compile="blocks") to compile each block by itself'
        )
    name = str(getattr(args.optim, "value", args.optim))
    if name in ("lomo", "adalomo"):
        yield f"optim: {name} updates weights inside the backward pass, before they could be frozen; use adamw_torch"
    if name.startswith("schedule_free"):
        yield f"optim: {name} moves all weights, frozen ones too, before and after every evaluation; use adamw_torch"


def _compilation(args: Any, model: nn.Module) -> Iterator[str]:
    """Why blocks cannot be compiled."""
    reason = too_old(torch.__version__)
    if reason:
        yield f"compile: {reason}, or leave it out"
    if args.world_size > 1:
        yield "compile: under DistributedDataParallel PyTorch cuts graphs up by its own rules; leave it out"
    if is_checkpointing(model) or getattr(args, "gradient_checkpointing", False):
        yield (
            "compile: gradient checkpointing runs blocks again in the backward pass, which compiled blocks do not; set "
            "gradient_checkpointing=False, or leave it out"
        )


def _architecture(model: nn.Module) -> Iterator[str]:
    config: Any = getattr(model, "config", None)
    if getattr(config, "is_encoder_decoder", False):
        yield (
            f"model: {type(model).__name__} has two stacks of blocks, an encoder and a decoder, and selection is over "
            "one; use a model with an encoder or a decoder alone"
        )
    for module in model.modules():
        func = getattr(module, "_gradient_checkpointing_func", None)
        keywords = getattr(func, "keywords", {})
        if getattr(module, "gradient_checkpointing", False) is True and keywords.get("use_reentrant") is not False:
            yield (
                "gradient_checkpointing: the reentrant kind runs backward passes inside the backward pass, and through "
                'every frozen block; set gradient_checkpointing_kwargs={"use_reentrant": False} '
                "(activation_checkpointing_kwargs in newer transformers)"
            )
            break


def _embedding_modules(base: nn.Module) -> Iterator[nn.Module]:
    """The largest modules that hold embeddings and none of the way to the blocks, as ``bert.embeddings``."""
    way = find_blocks(base)[0].split(".")
    for name, module in base.named_modules():
        parts = name.split(".")
        if isinstance(module, nn.Embedding) and parts[: len(way)] != way:
            shared = next(i for i, part in enumerate(parts) if i >= len(way) or part != way[i])
            yield base.get_submodule(".".join(parts[: shared + 1]))
