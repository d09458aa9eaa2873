"""A PEFT adapter in every block of any model, and nowhere else, beside a classification head that is saved with it."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from irtune.config.schema import AdapterConfig
from irtune.layers.blocks import find_blocks, head_of
from irtune.plugins import nearest
from irtune.training.quantized import import_bitsandbytes

ALL_LINEAR = "all-linear"
OWN_TARGETS = ("ia3", "ln_tuning")
"""Tuners for which PEFT knows the right modules of each architecture; those that suit other tuners are wrong."""


class AdapterError(ValueError):
    """The adapter cannot be put on the model; the message names the setting and the alternatives."""


def add_adapter(model: PreTrainedModel, config: AdapterConfig, *, train_head: bool, seed: int) -> Any:
    """The model wrapped by PEFT: adapters in the blocks alone, and the head, trained or not, saved along with them.

    An adapter outside the blocks would always train. Below them, as on ELECTRA's projection of embeddings, it would
    also pull every backward pass down to the embeddings, whatever is frozen.

    The head is all that a classifier has beside its pretrained body: DistilBERT's ``pre_classifier`` and
    ``classifier``, DeBERTa's ``pooler`` and ``classifier``. Without an adapter it trains whole.

    Raises:
        BlockError: If the model has no list of blocks to select from.
        AdapterError: If PEFT does not know the tuner or its options, if the tuner has no parameters that belong to
            blocks, or if a target module does not exist.
    """
    import_bitsandbytes()
    import peft

    places = _Places.of(model)
    peft_config = _peft_config(config, places)
    torch.manual_seed(seed)
    try:
        wrapped = peft.get_peft_model(model, peft_config)
    except (TypeError, ValueError, KeyError) as error:
        _refuse_absent(config, peft_config, places)
        reason = " ".join(str(error).split())
        hint = "; set adapter.dropout=0" if config.dropout and "does not work with lora_dropout" in reason else ""
        raise AdapterError(f"adapter: PEFT cannot put {config.type!r} on {places.model}: {reason}{hint}") from error
    # PEFT passes over absent modules in silence as long as one of those named exists.
    _refuse_absent(config, peft_config, places)
    if not train_head:
        for name, parameter in wrapped.named_parameters():
            if ".modules_to_save." in name:
                parameter.requires_grad_(False)
    return wrapped


@dataclass(frozen=True)
class _Places:
    """Where on a model adapters may sit.

    Args:
        model: Class of the classifier.
        blocks: Dotted name of its list of blocks.
        modules: Dotted names of all modules in blocks.
        linear: Those of linear layers.
        head: What the classifier has beside its pretrained body.
    """

    model: str
    blocks: str
    modules: tuple[str, ...]
    linear: tuple[str, ...]
    head: tuple[str, ...]

    @classmethod
    def of(cls, model: PreTrainedModel) -> "_Places":
        blocks, members = find_blocks(model)
        inside = [(f"{blocks}.{key}", module) for key, module in members.named_modules() if key]
        return cls(
            model=type(model).__name__,
            blocks=blocks,
            modules=tuple(key for key, _ in inside),
            linear=tuple(k for k, m in inside if isinstance(m, nn.Linear) or type(m).__name__ == "Conv1D"),
            head=tuple(head_of(model)),
        )

    def meant(self, targets: str | Collection[str]) -> list[str]:
        """The modules in blocks that PEFT would target."""
        if targets == ALL_LINEAR:
            return list(self.linear)
        if isinstance(targets, str):
            return [key for key in self.modules if re.fullmatch(targets, key)]
        return [key for key in self.modules if any(key == t or key.endswith(f".{t}") for t in targets)]

    def outside(self, more: str | Collection[str] | None) -> str:
        """A pattern of everything outside the blocks, and of what the user excludes."""
        patterns = [rf"(?!{re.escape(self.blocks)}\.\d+\.).*"]
        patterns += [more] if isinstance(more, str) else [rf"(.*\.)?{re.escape(name)}" for name in more or ()]
        return "|".join(patterns)


def _tuner(config: AdapterConfig) -> tuple[str, Any]:
    """PEFT's name of the tuner and its configuration class.

    Raises:
        AdapterError: If there is no such tuner, or it cannot serve here.
    """
    import peft
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    name = "lora" if config.type == "dora" else config.type
    known = {str(tuner.value).lower(): cls for tuner, cls in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    if name not in known:
        raise AdapterError(f"adapter.type: unknown tuner {config.type!r}: {nearest(config.type, ['dora', *known])}")
    if name == "adalora":
        raise AdapterError("adapter.type: adalora prunes by reading gradients that ZeRO partitions; use lora or dora")
    if issubclass(known[name], peft.PromptLearningConfig):
        raise AdapterError(
            f"adapter.type: {name} trains virtual tokens that belong to no single block, so there is nothing to "
            "select; use a tuner with parameters in every block, such as lora, dora or ia3"
        )
    if "modules_to_save" not in known[name].__dataclass_fields__:
        raise AdapterError(
            f"adapter.type: {name} can neither train nor save a classification head; use a tuner that can, such as "
            "lora, dora or ia3"
        )
    return name, known[name]


def _peft_config(config: AdapterConfig, places: _Places) -> Any:
    """What PEFT gets."""
    import peft

    name, tuner = _tuner(config)
    fields = tuner.__dataclass_fields__
    targets = config.target_modules if isinstance(config.target_modules, str) else list(config.target_modules)
    wanted = {
        "r": config.r,
        f"{name}_alpha": config.alpha,
        "alpha": config.alpha,
        f"{name}_dropout": config.dropout,
        "module_dropout": config.dropout,
        "target_modules": targets,
        "use_dora": config.type == "dora",
    }
    options = {key: value for key, value in wanted.items() if key in fields} | config.options
    if options.get("layers_to_transform") is not None:
        raise AdapterError(
            "adapter.options.layers_to_transform: every block needs an adapter, since any may be selected; leave it "
            "out, and say with selection.policy which blocks train"
        )
    if name in OWN_TARGETS and "target_modules" not in config.options:
        del options["target_modules"]
    if "exclude_modules" in fields:
        options["exclude_modules"] = places.outside(config.options.get("exclude_modules"))
    else:
        options["target_modules"] = places.meant(options["target_modules"])
    options["modules_to_save"] = [*places.head, *config.options.get("modules_to_save", ())]
    try:
        return tuner(task_type=peft.TaskType.SEQ_CLS, **options)
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise AdapterError(f"adapter: PEFT cannot put {config.type!r} on {places.model}: {reason}") from error


def _refuse_absent(config: AdapterConfig, peft_config: Any, places: _Places) -> None:
    """Refuse target modules that no block has.

    Raises:
        AdapterError: If there are any.
    """
    asked = config.options.get("target_modules", () if config.type in OWN_TARGETS else config.target_modules)
    if isinstance(asked, str):
        absent = [] if places.meant(asked) else [asked]
    else:
        absent = [target for target in asked if not places.meant([target])]
    # PEFT knows the former names of experts that transformers keeps as one stack, and replaces them.
    if getattr(peft_config, "target_parameters", None):
        absent = [target for target in absent if target in peft_config.target_modules]
    if absent:
        key = "adapter.options.target_modules" if "target_modules" in config.options else "adapter.target_modules"
        names = dict.fromkeys(name.rpartition(".")[2] for name in places.linear)
        raise AdapterError(
            f"{key}: {', '.join(absent)} {'names' if len(absent) == 1 else 'name'} no module in the blocks of "
            f"{places.model}, whose linear layers are {', '.join(names)}; name some of these, or set {key}={ALL_LINEAR}"
        )
