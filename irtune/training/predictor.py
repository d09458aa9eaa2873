"""A trained adapter, loaded again: class probabilities of new texts, equal to those that its run found."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from irtune.config.engine_schema import EngineConfig
from irtune.config.schema import ModelConfig
from irtune.data.batches import evaluation_batches
from irtune.data.encode import EncodedSplit, encode_texts
from irtune.data.prompt import Prompt
from irtune.processor import num_cores
from irtune.training.adapter_notes import NOTES, AdapterFolderError, AdapterNotes
from irtune.training.idle_adapters import pass_over_untrained
from irtune.training.model import DTYPES, load_classifier
from irtune.training.pretrained import materialize
from irtune.training.quantized import import_bitsandbytes
from irtune.training.quiet_loading import QuietLoading
from irtune.training.shared_prefix import SharedPrefix, sharing_of
from irtune.training.tokenizer import load_tokenizer

WEIGHTS = "adapter_model.safetensors"

Device = Literal["auto", "cpu", "cuda"]


class Predictor:
    """A base model with a trained adapter, ready to classify texts.

    Texts are put to the model as in training: the same prompt, cut in the same way, in batches that are made as those
    of the run's evaluations, in its precision, on as many threads. The probabilities of a split, given whole and in
    its order, are in fp32 on the same kind of machine those that the run found, to the bit.

    Nothing is unpickled, and no code of the folder or of the model is run.

    Args:
        folder: PEFT's folder of the adapter with ``irtune.json``, as trials keep it.
        device: Where to compute; ``auto``: on a GPU where there is one.

    Raises:
        ValueError: The folder holds no adapter of irtune's, its base model is not to be had, or there is no GPU.
    """

    def __init__(self, folder: Path, device: Device = "auto") -> None:
        self.notes = AdapterNotes.read(folder)
        if not (folder / WEIGHTS).is_file():
            raise AdapterFolderError(f"{folder}: holds no {WEIGHTS}; pickled weights are not loaded")
        self.device = _device(device)
        model, engine, self._batch_size = settings_of(self.notes.settings, folder)
        self._world_size = engine.num_workers
        self.precision = "fp32" if engine.precision == "fp16" and self.device.type == "cpu" else engine.precision
        torch.set_num_threads(engine.threads(num_cores(), engine.num_workers))
        checkpoint = materialize(model)
        self._tokenizer = load_tokenizer(checkpoint)
        self._prompt = Prompt(self.notes.kind, "", self.notes.instruction, self.notes.template)
        with QuietLoading():
            # Flash attention needs a GPU and half precision.
            can_flash = self.device.type == "cuda" and self.precision != "fp32"
            attention = "auto" if model.attention == "flash_attention_2" and not can_flash else model.attention
            dtype, padding = DTYPES[self.precision], self._tokenizer.pad_token_id
            how = (dtype, attention, model.quantization)
            base = load_classifier(checkpoint, self.notes.labels, padding, 0, *how)
            self._model = with_adapter(base, folder).to(dtype).to(self.device).eval()
        if engine.skip_idle_adapters:
            pass_over_untrained(self._model)
        self._common = np.array(self.notes.shared_prefix, dtype=np.int32)
        sharing = sharing_of(self._model, engine.share_prefix, len(self._common), self.notes.max_length)
        self._prefix = SharedPrefix(self._model, self._common, sharing)

    def probabilities(self, texts: Sequence[tuple[str, ...]]) -> tuple[np.ndarray, int]:
        """Class probabilities ``(N, C)`` of examples, and how many of them had to be cut.

        Args:
            texts: ``(N,)``, each of as many texts as the run's examples have.

        Raises:
            LengthError: Instruction and template leave too little room for texts that have to be cut.
            ValueError: The model's outputs are not finite.
        """
        notes = self.notes
        encoded, num_cut = encode_texts(texts, self._prompt, notes.instruction, self._tokenizer, notes.max_length)
        probabilities = np.zeros((len(encoded), len(notes.labels)))
        with torch.no_grad():
            for rank in range(self._world_size):
                for indices in evaluation_batches(
                    encoded.lengths, self._batch_size, rank=rank, world_size=self._world_size
                ):
                    if len(indices):
                        probabilities[indices] = self._of_batch(encoded, indices)
        bad = int((~np.isfinite(probabilities)).any(axis=1).sum())
        if bad:
            raise ValueError(
                f"the model's outputs for {bad} of {len(encoded)} examples are not finite in {self.precision}; "
                "give another trial's adapter"
            )
        return probabilities, num_cut

    def _of_batch(self, encoded: EncodedSplit, indices: np.ndarray) -> np.ndarray:
        batch = encoded.collate(indices, self._tokenizer.pad_token_id)
        inputs = {name: torch.from_numpy(array).to(self.device) for name, array in batch.items() if name != "labels"}
        begins_alike = self._begins_alike(batch["input_ids"], encoded.lengths[indices])
        outputs = self._prefix.outputs(self._model, **inputs) if begins_alike else self._model(**inputs)
        probabilities: np.ndarray = outputs.logits.double().softmax(dim=-1).cpu().numpy()
        return probabilities

    def _begins_alike(self, ids: np.ndarray, lengths: np.ndarray) -> bool:
        """Whether all rows of a batch begin as those of training did, and go on after it."""
        shared = len(self._common)
        return bool(lengths.min() > shared and (ids[:, :shared] == self._common).all())


def _device(wanted: Device) -> torch.device:
    if wanted not in get_args(Device):
        raise ValueError(f"device: {wanted!r} is none of {', '.join(get_args(Device))}")
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ValueError("device: PyTorch sees no GPU here; give cpu or auto")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def settings_of(tree: Mapping[str, Any], folder: Path) -> tuple[ModelConfig, EngineConfig, int]:
    """Model, engine and batch size of a run's settings; the rest, which may name code to import, is not looked at.

    Raises:
        AdapterFolderError: They are damaged.
    """
    try:
        model, engine = ModelConfig.model_validate(tree["model"]), EngineConfig.model_validate(tree["engine"])
        return model, engine, int(tree["training"]["eval_batch_size"])
    except (ValueError, KeyError, TypeError) as error:
        raise AdapterFolderError(f"{folder / NOTES}: its settings are damaged ({error}); bring it back") from error


def with_adapter(base: Any, folder: Path) -> Any:
    """The base model with the adapter of a folder on it, not to be trained.

    Raises:
        AdapterFolderError: It does not fit the model.
    """
    import_bitsandbytes()
    import peft

    try:
        return peft.PeftModel.from_pretrained(base, str(folder), is_trainable=False, torch_device="cpu")
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise AdapterFolderError(
            f"{folder}: its adapter does not fit {type(base).__name__}: {reason}. Is model.name still the model that "
            "it was trained on?"
        ) from error
