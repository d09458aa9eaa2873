"""From a checkpoint folder to a classifier, or to the shapes of one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from irtune.config.schema import AdapterConfig
from irtune.training.adapter import add_adapter
from irtune.training.errors import ModelError
from irtune.training.quiet_loading import QuietLoading


def load_classifier(folder: Path, labels: Sequence[str], pad_token_id: int | None, seed: int) -> PreTrainedModel:
    """The checkpoint as a sequence classifier whose new head is drawn with ``seed``, in fp32 on the CPU."""
    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(
        folder,
        num_labels=len(labels),
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
        pad_token_id=pad_token_id,
        dtype=torch.float32,
        local_files_only=True,
        use_safetensors=True,
        ignore_mismatched_sizes=True,
        problem_type="single_label_classification",
    )
    model.config.use_cache = False
    return model


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


def classifier_shape(folder: Path) -> Any:
    """The classifier without storage for weights: enough to ask for names and sizes.

    Raises:
        ModelError: If transformers has no classifier for the model.
    """
    model_config = AutoConfig.from_pretrained(folder, local_files_only=True, num_labels=2)
    with QuietLoading(), torch.device("meta"):
        try:
            return AutoModelForSequenceClassification.from_config(model_config)
        except ValueError as error:
            kind = type(model_config).__name__
            raise ModelError(f"model.name: transformers has no sequence classifier for {kind} ({folder})") from error


def shapes_only(folder: Path, config: AdapterConfig) -> Any:
    """The classifier with its adapter, without storage for weights.

    Raises:
        ModelError: If transformers has no classifier for the model.
        BlockError: If it has no list of blocks to select from.
        AdapterError: If the adapter cannot be put on it.
    """
    base = classifier_shape(folder)
    with QuietLoading(), torch.device("meta"):
        return add_adapter(base, config, train_head=True, seed=0)
