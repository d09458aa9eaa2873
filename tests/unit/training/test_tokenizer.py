"""Which tokenizers and lengths a model can read, and what is said of the others."""

import pytest
import torch
from saying import refused
from transformers import AutoModelForSequenceClassification as Classifier
from transformers import AutoTokenizer, BertConfig, GPT2Config, LlamaConfig, RobertaConfig

from irtune.config.schema import ModelConfig
from irtune.training.errors import ModelError
from irtune.training.pretrained import materialize
from irtune.training.tokenizer import check_length, check_vocabulary, load_tokenizer, max_positions

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 300,
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A copy of the tiny model's folder."""
    import shutil

    monkeypatch.setenv("IRTUNE_HOME", str(tmp_path / "home"))
    return shutil.copytree(materialize(ModelConfig(name="tiny-random")), tmp_path / "model")


def shape(config):
    with torch.device("meta"):
        return Classifier.from_config(config)


def changed(folder, **tokens):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for name, token in tokens.items():
        setattr(tokenizer, name, token)
    tokenizer.save_pretrained(folder)


def test_the_end_of_a_sequence_stands_for_a_missing_padding_token(folder):
    changed(folder, pad_token=None)
    assert load_tokenizer(folder).pad_token == "<eos>"


def test_a_tokenizer_with_neither_is_refused(folder):
    changed(folder, pad_token=None, eos_token=None)
    with refused(ModelError, "model.name:", "neither a padding token nor", "tokenizer.save_pretrained"):
        load_tokenizer(folder)


def test_a_folder_without_a_tokenizer_is_refused(folder):
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with refused(ModelError, "model.name: … no tokenizer"):
        load_tokenizer(folder)


def test_tokens_beyond_the_vocabulary_are_refused(folder):
    tokenizer = load_tokenizer(folder)
    model = shape(LlamaConfig(**SIZES | {"vocab_size": len(tokenizer)}))
    check_vocabulary(model, tokenizer, len(tokenizer) - 1)
    with refused(ModelError, f"model.name: … token … {len(tokenizer)} tokens"):
        check_vocabulary(model, tokenizer, len(tokenizer))
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    with refused(ModelError, "padding token '[PAD]' … 258", "model.resize_token_embeddings"):
        check_vocabulary(model, tokenizer, 3)


@pytest.mark.parametrize(
    ("config", "positions"),
    [
        (BertConfig(**SIZES, max_position_embeddings=64), 64),
        (GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=300, n_positions=96), 96),
        (LlamaConfig(**SIZES, max_position_embeddings=128), 128),
        # Its positions begin behind the padding index, which is 1.
        (RobertaConfig(**SIZES, max_position_embeddings=66, pad_token_id=1), 64),
    ],
    ids=lambda value: getattr(value, "model_type", str(value)),
)
def test_how_many_tokens_a_model_reads(folder, config, positions):
    assert max_positions(shape(config), load_tokenizer(folder)) == positions


def test_the_tokenizer_may_know_a_lower_limit(folder):
    tokenizer = load_tokenizer(folder)
    tokenizer.model_max_length = 50
    assert max_positions(shape(BertConfig(**SIZES)), tokenizer) == 50


def test_more_tokens_than_the_model_reads_are_refused():
    check_length(64, 64)
    check_length("auto", 64)
    check_length(10**6, None)
    with refused(ModelError, "model.max_length: 65 … 64", "Set 64 or less", "auto"):
        check_length(65, 64)
