"""Random sequence classifiers of every architecture that irtune is tested on, small enough to build by the dozen."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from irtune.training.quiet_loading import QuietLoading

NUM_BLOCKS, NUM_LABELS, VOCABULARY, HIDDEN = 4, 3, 64, 16

_COMMON = {"vocab_size": VOCABULARY, "pad_token_id": 0, "hidden_size": HIDDEN, "num_hidden_layers": NUM_BLOCKS}
_COMMON |= {"num_attention_heads": 4, "intermediate_size": 32, "max_position_embeddings": 64}
_GROUPED = _COMMON | {"num_key_value_heads": 2}
_GPT = {"vocab_size": VOCABULARY, "pad_token_id": 0, "n_layer": NUM_BLOCKS, "n_head": 4}


@dataclass(frozen=True)
class Architecture:
    """What to expect of one.

    Args:
        settings: Of its configuration.
        where: Dotted name of its list of blocks.
        block: Class of its blocks.
        linear: Linear layers in a block, which all-linear gives an adapter each.
        head: What trains outside of the blocks.
    """

    settings: dict[str, Any]
    where: str
    block: str
    linear: int
    head: tuple[str, ...] = ("score",)


ARCHITECTURES = {
    "llama": Architecture(_GROUPED, "model.layers", "LlamaDecoderLayer", 7),
    "qwen2": Architecture(_GROUPED, "model.layers", "Qwen2DecoderLayer", 7),
    "qwen3": Architecture(_GROUPED | {"head_dim": 4}, "model.layers", "Qwen3DecoderLayer", 7),
    "mistral": Architecture(_GROUPED, "model.layers", "MistralDecoderLayer", 7),
    # Attention, the router, and one adapter for each of the two stacks of experts.
    "mixtral": Architecture(
        _GROUPED | {"num_local_experts": 4, "experts_implementation": "eager"}, "model.layers", "MixtralDecoderLayer", 7
    ),
    "gemma": Architecture(_GROUPED | {"head_dim": 4}, "model.layers", "GemmaDecoderLayer", 7),
    "gemma2": Architecture(_GROUPED | {"head_dim": 4}, "model.layers", "Gemma2DecoderLayer", 7),
    "phi": Architecture(_COMMON, "model.layers", "PhiDecoderLayer", 6),
    "opt": Architecture(
        # Its embeddings are narrower than its blocks, so two linear layers lie outside of them.
        _COMMON | {"ffn_dim": 32, "word_embed_proj_dim": 8},
        "model.decoder.layers",
        "OPTDecoderLayer",
        6,
    ),
    "gpt_neox": Architecture(_COMMON, "gpt_neox.layers", "GPTNeoXLayer", 4),
    "gpt2": Architecture(_GPT | {"n_embd": HIDDEN, "n_positions": 64}, "transformer.h", "GPT2Block", 4),
    "bloom": Architecture(_GPT | {"hidden_size": HIDDEN}, "transformer.h", "BloomBlock", 4),
    "falcon": Architecture(_COMMON, "transformer.h", "FalconDecoderLayer", 4),
    "bert": Architecture(_COMMON, "bert.encoder.layer", "BertLayer", 6, ("classifier",)),
    "roberta": Architecture(_COMMON, "roberta.encoder.layer", "RobertaLayer", 6, ("classifier",)),
    "distilbert": Architecture(
        {"vocab_size": VOCABULARY, "dim": HIDDEN, "hidden_dim": 32, "n_layers": NUM_BLOCKS, "n_heads": 4},
        "distilbert.transformer.layer",
        "TransformerBlock",
        6,
        ("pre_classifier", "classifier"),
    ),
    "electra": Architecture(
        _COMMON | {"embedding_size": 8}, "electra.encoder.layer", "ElectraLayer", 6, ("classifier",)
    ),
    "deberta-v2": Architecture(
        _COMMON
        | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "share_att_key": True}
        | {"max_relative_positions": 4},
        "deberta.encoder.layer",
        "DebertaV2Layer",
        6,
        ("pooler", "classifier"),
    ),
    "modernbert": Architecture(_COMMON, "model.layers", "ModernBertEncoderLayer", 4, ("head", "classifier")),
}


def classifier(name: str, settings: dict[str, Any] | None = None, *, seed: int = 0) -> Any:
    """A random classifier of the architecture called ``name``; ``settings`` where it is none of ``ARCHITECTURES``."""
    settings = ARCHITECTURES[name].settings if settings is None else settings
    config = AutoConfig.for_model(name, num_labels=NUM_LABELS, **settings)
    config.use_cache = False
    torch.manual_seed(seed)
    with QuietLoading():
        # PyTorch does not count its fused attention on the CPU.
        return AutoModelForSequenceClassification.from_config(config, attn_implementation="eager")


def batch(batch_size: int = 2, length: int = 8) -> dict[str, torch.Tensor]:
    """Random inputs without padding, and labels."""
    ids = torch.randint(3, VOCABULARY, (batch_size, length), generator=torch.Generator().manual_seed(0))
    labels = torch.arange(batch_size) % NUM_LABELS
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
