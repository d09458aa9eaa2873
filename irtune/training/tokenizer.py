"""The checkpoint's tokenizer, and what of it and of its model decides which inputs can be read."""

from pathlib import Path
from typing import Any

from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from irtune.training.errors import ModelError

NO_LIMIT = 1_000_000
"""Tokenizers that know no limit give a number above this one."""

_POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length")


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The checkpoint's tokenizer, with a padding token; where it has none, the end of a sequence stands for it.

    Raises:
        ModelError: If the folder holds no tokenizer, or one with neither token.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError, AttributeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"model.name: {folder} holds no tokenizer that can be loaded: {reason}. Save one there with "
            "tokenizer.save_pretrained"
        ) from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token_id is None:
        raise ModelError(
            f"model.name: the tokenizer in {folder} has neither a padding token nor one that ends a sequence, so "
            "examples of different lengths fit into no batch. Set tokenizer.pad_token to a token of its vocabulary and "
            "save it there with tokenizer.save_pretrained"
        )
    return tokenizer


def check_vocabulary(model: Any, tokenizer: PreTrainedTokenizerBase, highest_id: int) -> None:
    """Refuse tokens that the model has no embedding for.

    Args:
        model: The classifier, with or without storage for its weights.
        tokenizer: Of its checkpoint.
        highest_id: The highest token id in the data.

    Raises:
        ModelError: Naming the token and the size of the vocabulary.
    """
    embedding = _input_embedding(model)
    if embedding is None:
        return
    size = embedding.num_embeddings
    for token_id, kind in ((int(tokenizer.pad_token_id), "padding token"), (highest_id, "data's token")):
        if token_id >= size:
            raise ModelError(
                f"model.name: the {kind} {tokenizer.convert_ids_to_tokens(token_id)!r} has the id {token_id}, and the "
                f"model knows {size} tokens (0 to {size - 1}). Call model.resize_token_embeddings(len(tokenizer)) and "
                "save both, or take a token of the vocabulary"
            )


def max_positions(model: Any, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The most tokens of an input that model and tokenizer are made for; None if neither names a limit.

    Args:
        model: The classifier, with or without storage for its weights.
        tokenizer: Of its checkpoint.
    """
    config = model.config.get_text_config()
    named = (getattr(config, name, None) for name in _POSITIONS)
    limits = [int(limit) for limit in named if isinstance(limit, int) and limit > 0]
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.endswith("position_embeddings"):
            # RoBERTa and its kin count positions from the one behind their padding index.
            first = 0 if module.padding_idx is None else module.padding_idx + 1
            limits.append(module.num_embeddings - first)
    if tokenizer.model_max_length < NO_LIMIT:
        limits.append(int(tokenizer.model_max_length))
    return min(limits, default=None)


def check_length(max_length: int | str, positions: int | None) -> None:
    """Refuse inputs that are longer than the model can read.

    Raises:
        ModelError: With both numbers.
    """
    if isinstance(max_length, int) and positions is not None and max_length > positions:
        raise ModelError(
            f"model.max_length: {max_length} tokens are more than the {positions} that the model reads. "
            f"Set {positions} or less, or auto"
        )


def _input_embedding(model: Any) -> nn.Embedding | None:
    try:
        embedding = model.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        return None
    return embedding if isinstance(embedding, nn.Embedding) else None
