"""Adapters of several kinds merged into their model, or refused, and the places where a model cannot be written."""

import json

import pytest
import torch
from saying import refused
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from irtune.config.schema import AdapterConfig, ExperimentConfig
from irtune.training.adapter import add_adapter
from irtune.training.adapter_notes import AdapterFolderError
from irtune.training.merged import MergeError, write_merged
from irtune.training.model import load_classifier
from irtune.training.pretrained import materialize
from irtune.training.tokenizer import load_tokenizer

LABELS = ("clarity", "fluency", "style")
TEMPLATE = "Before: {before}\nAfter: {after}"


@pytest.fixture(scope="module", autouse=True)
def _home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IRTUNE_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture
def kept(tmp_path):
    """An adapter's folder as a trial keeps it, and what the model with the adapter says of some tokens."""

    def make(**adapter):
        config = ExperimentConfig(model={"name": "tiny-random"}, adapter={"r": 4, "dropout": 0.0, **adapter})
        checkpoint = materialize(config.model)
        base = load_classifier(checkpoint, LABELS, load_tokenizer(checkpoint).pad_token_id, seed=0)
        model = add_adapter(base, AdapterConfig.model_validate(config.adapter), train_head=True, seed=0)
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * 0.05)
            ids = torch.randint(2, 250, (4, 12))
            logits = model.eval()(input_ids=ids).logits
        folder = tmp_path / "adapter"
        model.save_pretrained(str(folder))
        notes = {"labels": LABELS, "kind": "pairs", "instruction": None, "template": TEMPLATE, "max_length": 80}
        notes |= {"shared_prefix": [], "settings": config.model_dump(mode="json")}
        (folder / "irtune.json").write_text(json.dumps(notes))
        return folder, ids, logits

    return make


@pytest.mark.parametrize("adapter", [{}, {"type": "dora"}, {"type": "ia3"}, {"type": "loha"}], ids=str)
def test_a_merged_model_says_the_same(kept, adapter, tmp_path):
    folder, ids, logits = kept(**adapter)
    write_merged(folder, tmp_path / "merged")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=ids).logits, logits, rtol=1e-5, atol=1e-5)
    assert model.config.id2label == dict(enumerate(LABELS))
    assert model.dtype == torch.float32
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert tokenizer.pad_token_id == model.config.pad_token_id
    assert {file.name for file in tmp_path.iterdir()} == {"adapter", "merged"}


def test_it_is_not_the_base_model(kept, tmp_path):
    folder, ids, logits = kept()
    write_merged(folder, tmp_path / "merged")
    base = load_classifier(materialize(ExperimentConfig(model={"name": "tiny-random"}).model), LABELS, 0, seed=0)
    with torch.no_grad():
        assert (base.eval()(input_ids=ids).logits - logits).abs().max() > 1e-2


def test_a_place_that_is_taken_or_cannot_be_written(kept, tmp_path):
    folder, *_ = kept()
    with refused(MergeError, str(folder), "is there already"):
        write_merged(folder, folder)
    file = tmp_path / "file"
    file.write_text("mine")
    with refused(MergeError, "cannot be written"):
        write_merged(folder, file / "merged")
    assert file.read_text() == "mine"
    (folder / "adapter_model.safetensors").unlink()
    with refused(AdapterFolderError, str(folder)):
        write_merged(folder, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
