"""The data as a model reads it: what there is to know of it, and whether the model can."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from irtune.config.schema import Attention, ExperimentConfig
from irtune.data.common_tokens import common_tokens
from irtune.data.dataset import DatasetConfig, LabelledDataset, Split
from irtune.data.encode import EncodedDataset, encode, encode_once

PROMPT_SHOWN = 400
"""Characters of an example that are shown as the model reads it."""


@dataclass(frozen=True)
class Inputs:
    """The data as the model reads it, checked.

    Args:
        checkpoint: The model's folder.
        num_blocks: L.
        dataset: The data.
        read: Gives its token ids.
        positions: The most tokens that the model reads; None if there is no such limit.
        data: What the data was loaded from; None: as the experiment says.
        lengths: What to know of the examples' lengths, where that is known without reading them.
    """

    checkpoint: Path
    num_blocks: int
    dataset: LabelledDataset
    read: Callable[[], EncodedDataset]
    positions: int | None
    data: DatasetConfig | None = None
    lengths: str | None = None

    @cached_property
    def encoded(self) -> EncodedDataset:
        """Its token ids."""
        return self.read()

    @cached_property
    def num_common(self) -> int:
        """The number of tokens that all examples begin with."""
        return len(common_tokens(self.encoded))

    def facts(self) -> dict[str, str]:
        """Return what to know of the data, in words, by what it is about."""
        sizes = ", ".join(f"{len(examples)} {split}" for split, examples in self.dataset.splits.items())
        skipped = f"; {self.dataset.num_skipped} rows skipped" if self.dataset.num_skipped else ""
        labels = f"{len(self.dataset.labels)} labels"
        return {
            "data": f"{self.dataset.name}: {sizes}; {labels}{skipped}",
            "lengths": self.lengths or self.encoded.in_words(),
        }

    def asked(self) -> str:
        """The instruction, in one line."""
        if self.encoded.instruction is None:
            return "nothing: inputs hold the texts alone"
        return one_line(self.encoded.instruction, PROMPT_SHOWN)

    def shown(self) -> str:
        """The first training example as the model reads it, but for what is cut of it."""
        texts = self.dataset.splits["train"][0].texts
        return one_line(self.dataset.prompt.render(self.encoded.instruction, texts), PROMPT_SHOWN)

    def keep(self, config: ExperimentConfig, folder: Path) -> dict[Split, np.ndarray]:
        """Keep the token ids in ``folder``, where all trials find them; returns each split's lengths ``(N,)``."""
        from irtune.training.tokenizer import load_tokenizer

        tokenizer = load_tokenizer(self.checkpoint)
        length = config.model.max_length
        kept = encode_once(self.dataset, tokenizer, length, folder, self.positions, made=self.encoded)
        return {split: part.lengths for split, part in kept.splits.items()}


def one_line(text: str, most: int) -> str:
    """``text`` in one line of at most ``most`` characters, line breaks as in Python."""
    line = text.replace("\n", "\\n")
    return line if len(line) <= most else f"{line[:most]}…"


def read_texts(
    checkpoint: Path,
    dataset: LabelledDataset,
    lengths: Sequence[Any],
    attention: Attention,
    share_prefix: bool | Literal["auto"],
) -> tuple[EncodedDataset, int | None]:
    """Tokenise the data for the first of ``lengths``; returns the most tokens that the model reads beside it.

    Raises:
        ValueError: If the model cannot read it, or not at one of ``lengths``, or not with this attention.
    """
    from irtune.training.model import classifier_shape
    from irtune.training.shared_prefix import sharing_of
    from irtune.training.tokenizer import check_length, check_vocabulary, load_tokenizer, max_positions

    tokenizer, shape = load_tokenizer(checkpoint), classifier_shape(checkpoint, attention)
    positions = max_positions(shape, tokenizer)
    for length in lengths:
        check_length(length, positions)
    encoded = encode(dataset, tokenizer, lengths[0], positions)
    check_vocabulary(shape, tokenizer, max(int(part.token_ids.max()) for part in encoded.splits.values()))
    sharing_of(shape, share_prefix, len(common_tokens(encoded)), encoded.max_length)
    return encoded, positions
