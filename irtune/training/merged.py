"""A trained adapter merged into its base model: a folder of transformers that needs neither irtune nor peft."""

import json
from pathlib import Path

import torch

from irtune.files import appearing, read_alone
from irtune.redaction import redact
from irtune.training.adapter_notes import NOTES, AdapterFolderError, AdapterNotes
from irtune.training.model import load_classifier
from irtune.training.predictor import settings_of, with_adapter
from irtune.training.pretrained import materialize
from irtune.training.quiet_loading import QuietLoading
from irtune.training.standalone import write_standalone
from irtune.training.tokenizer import load_tokenizer


class MergeError(ValueError):
    """An adapter cannot be merged, or the model not be written; the message says why, and what to do."""


def write_merged(adapter: Path, out: Path) -> None:
    """Write the whole model of an adapter in fp32 with its tokenizer, a README and ``predict.py``.

    ``AutoModelForSequenceClassification.from_pretrained`` loads it. It predicts what the adapter on its base does, but
    for rounding: a merged weight is rounded once more.

    Args:
        adapter: A folder that a trial kept its adapter in.
        out: A folder that is not there yet; it is whole, or not there.

    Raises:
        ValueError: The folder holds no adapter of irtune's, its base model is not to be had, or nothing can merge it.
        MergeError: Something is there, or there is no room or no right to write.
    """
    if out.exists() or out.is_symlink():
        raise MergeError(f"{out}: is there already; delete it, or name another folder")
    notes = AdapterNotes.read(adapter)
    settings, *_ = settings_of(notes.settings, adapter)
    if settings.quantization is not None:
        raise AdapterFolderError(
            f"{adapter}: was trained over {settings.quantization} matrices; merged into whole ones it would predict "
            "otherwise. Use the adapter's folder itself, which holds predict.py, or train with model.quantization=null"
        )
    checkpoint = materialize(settings)
    tokenizer = load_tokenizer(checkpoint)
    with QuietLoading(), torch.no_grad():
        base = load_classifier(checkpoint, notes.labels, tokenizer.pad_token_id, seed=0)
        adapted = with_adapter(base, adapter).float().eval()
        try:
            model = adapted.merge_and_unload(safe_merge=True)
        except (ValueError, TypeError, AttributeError, NotImplementedError, RuntimeError) as error:
            kind = notes.settings.get("adapter", {}).get("type")
            reason = " ".join(str(error).split())[:300]
            raise AdapterFolderError(
                f"{adapter}: adapter.type {kind!r} cannot be merged into its model: {reason}. Use the adapter's folder "
                "itself, which holds predict.py, or train with lora"
            ) from error
    # Training sets it; a classifier has no use for it, and other uses of the weights have.
    model.config.use_cache = True
    tokenizer.padding_side = "right"
    whole = json.loads(read_alone(adapter / NOTES))
    try:
        with appearing(out) as partial, QuietLoading():
            model.save_pretrained(partial)
            tokenizer.save_pretrained(partial)
            write_standalone(partial, {"data": "its data", **whole}, redact(str(checkpoint)), merged=True)
    except OSError as error:
        raise MergeError(f"{out}: cannot be written ({error}); name another place, or make room there") from error
