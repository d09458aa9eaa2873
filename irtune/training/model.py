"""From a checkpoint folder to a classifier, or to the shapes of one."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from irtune.config.schema import AdapterConfig, Attention, Quantization
from irtune.layers.blocks import head_of
from irtune.training.adapter import add_adapter
from irtune.training.errors import ModelError
from irtune.training.quantized import keep_layout, loading_arguments
from irtune.training.quiet_loading import QuietLoading

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""The numbers that each ``engine.precision`` computes with."""


def load_classifier(
    folder: Path,
    labels: Sequence[str],
    pad_token_id: int | None,
    seed: int,
    dtype: torch.dtype = torch.float32,
    attention: Attention = "auto",
    quantization: Quantization | None = None,
) -> PreTrainedModel:
    """The checkpoint as a sequence classifier on the CPU whose new head is drawn with ``seed``.

    Weights that the file has in ``dtype`` stay in the file, which is mapped into memory and shared by all processes of
    a machine; others are cast one by one. What the file has not is drawn, and left, in fp32, so that the engine casts
    the same numbers whatever the file was read as.

    Raises:
        ModelError: If attention cannot be computed so by this model, or on this machine.
    """
    head = head_of(classifier_shape(folder)) if quantization else []
    torch.manual_seed(seed)
    try:
        model, found = AutoModelForSequenceClassification.from_pretrained(
            folder,
            num_labels=len(labels),
            id2label=dict(enumerate(labels)),
            label2id={label: index for index, label in enumerate(labels)},
            pad_token_id=pad_token_id,
            dtype=dtype,
            attn_implementation=None if attention == "auto" else attention,
            local_files_only=True,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            problem_type="single_label_classification",
            output_loading_info=True,
            **loading_arguments(quantization, head, dtype),
        )
    except (ImportError, ValueError) as error:
        if attention != "auto" and "attention" in str(error).lower():
            reason = " ".join(str(error).split())
            raise ModelError(f"model.attention: {attention} cannot be used here: {reason} Or set it to auto") from error
        raise
    if dtype != torch.float32:
        _draw_in_fp32(model, {*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])}, seed)
    keep_layout(model)
    model.config.use_cache = False
    return model


def _draw_in_fp32(model: PreTrainedModel, names: Collection[str], seed: int) -> None:
    """Draw the parameters of these names anew, as transformers does where everything is fp32."""
    for name in names:
        owner = model.get_submodule(name.rpartition(".")[0])
        parameter = model.get_parameter(name)
        parameter.data = parameter.data.float()
        # transformers' own marks of what need not be drawn.
        for marked in (owner, parameter):
            marked._is_hf_initialized = False
    torch.manual_seed(seed)
    model.initialize_weights()


def enable_gradient_checkpointing(model: Any) -> None:
    """Recompute activations in the backward pass without running it through the frozen prefix.

    Raises:
        ModelError: If the model cannot.
    """
    try:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    except ValueError as error:
        raise ModelError(f"model.gradient_checkpointing: {error} Set it to false.") from error
    # transformers makes the embeddings require gradients here, which only reentrant checkpointing needs, and which
    # would make the backward pass run down to the embeddings whatever is frozen.
    model.get_base_model().disable_input_require_grads()


def refuse_attention(model: Any, attention: Attention) -> None:
    """Refuse a way to compute attention that the model's class does not know.

    Raises:
        ModelError: With those that it knows.
    """
    has = {"sdpa": model._supports_sdpa, "flash_attention_2": model._supports_flash_attn}
    if not has.get(attention, True):
        known = ", ".join(["auto", "eager", *(name for name, is_known in has.items() if is_known)])
        raise ModelError(f"model.attention: {type(model).__name__} has no {attention}; use one of {known}")


def classifier_shape(folder: Path, attention: Attention = "auto") -> Any:
    """The classifier without storage for weights: enough to ask for names and sizes.

    Raises:
        ModelError: If transformers has no classifier for the model, or that has no such attention.
    """
    model_config = AutoConfig.from_pretrained(folder, local_files_only=True, num_labels=2)
    with QuietLoading(), torch.device("meta"):
        try:
            model = AutoModelForSequenceClassification.from_config(model_config)
        except ValueError as error:
            kind = type(model_config).__name__
            raise ModelError(f"model.name: transformers has no sequence classifier for {kind} ({folder})") from error
    refuse_attention(model, attention)
    if attention != "auto":
        model.config._attn_implementation = attention
    return model


def shapes_only(folder: Path, config: AdapterConfig, attention: Attention = "auto") -> Any:
    """The classifier with its adapter, without storage for weights.

    Raises:
        ModelError: If transformers has no classifier for the model, or that has no such attention.
        BlockError: If it has no list of blocks to select from.
        AdapterError: If the adapter cannot be put on it.
    """
    base = classifier_shape(folder, attention)
    with QuietLoading(), torch.device("meta"):
        return add_adapter(base, config, train_head=True, seed=0)
