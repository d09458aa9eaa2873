"""Text to token ids, once: the prompt within the length that the model reads, and a count of what had to be cut."""

import hashlib
import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from irtune.data.dataset import SPLITS, LabelledDataset, Split
from irtune.data.prompt import AUTO, Prompt
from irtune.data.shorten import Shortened
from irtune.files import appearing
from irtune.redaction import redacted

LENGTH_CAP = 512
"""The most tokens that ``model.max_length=auto`` takes."""

LABELS_SHARE = 3
"""The labels are listed in irtune's own instruction where that takes at most one in so many of the tokens."""

LEAST_ROOM = 8
"""Tokens that instruction and template must leave for each text where texts have to be cut."""

COUNTS = "encoding.json"


@dataclass(frozen=True)
class EncodedSplit:
    """Token ids of one split, end to end.

    Args:
        token_ids: ``(sum of lengths,)`` int32.
        offsets: ``(N + 1,)``; example i is ``token_ids[offsets[i]:offsets[i + 1]]``.
        labels: ``(N,)`` class indices.
    """

    token_ids: np.ndarray
    offsets: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each example ``(N,)``."""
        return np.diff(self.offsets)

    def collate(self, indices: np.ndarray, pad_token_id: int) -> dict[str, np.ndarray]:
        """A batch padded on the right to its longest: ``input_ids``, ``attention_mask`` (B, T) and ``labels`` (B,)."""
        longest = int(self.lengths[indices].max())
        input_ids = np.full((len(indices), longest), pad_token_id, dtype=np.int64)
        attention_mask = np.zeros((len(indices), longest), dtype=np.int64)
        for row, index in enumerate(indices):
            tokens = self.token_ids[self.offsets[index] : self.offsets[index + 1]]
            input_ids[row, : len(tokens)] = tokens
            attention_mask[row, : len(tokens)] = 1
        return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": self.labels[indices]}


@dataclass(frozen=True)
class EncodedDataset:
    """A dataset as a model reads it.

    Args:
        splits: Token ids of each split.
        max_length: The most tokens of an example.
        instruction: What every example asks; None if nothing.
        num_cut: Examples of whose texts something is left out, over all splits.
        num_without_change: Revisions among them that don't show the whole of what changed.
        of_revisions: Whether examples are revisions, of which the change is what counts.
        leaves_out_labels: Whether irtune's own instruction does not list the labels, for want of room.
    """

    splits: Mapping[Split, EncodedSplit]
    max_length: int
    instruction: str | None
    num_cut: int
    num_without_change: int
    of_revisions: bool
    leaves_out_labels: bool = False

    def in_words(self) -> str:
        """Length, and what was cut for it."""
        num_examples = sum(map(len, self.splits.values()))
        said = f"at most {self.max_length} tokens; {self.num_cut} of {num_examples} examples cut"
        if self.of_revisions:
            said += f", {self.num_without_change} without their change"
        if self.leaves_out_labels:
            said += "; the instruction does not list the labels, which would take more than a third of them"
        return said


@dataclass(frozen=True)
class _Reader:
    """Puts texts into token ids, under one instruction."""

    prompt: Prompt
    instruction: str | None
    tokenizer: Any

    def tokens(self, texts: Iterable[tuple[str, ...]]) -> list[list[int]]:
        """The token ids of examples."""
        return self.tokens_of([self.prompt.render(self.instruction, each) for each in texts])

    def tokens_of(self, prompts: list[str]) -> list[list[int]]:
        """The token ids of what the model reads."""
        # Without `verbose` it warns of every text that is longer than the model reads.
        rows: list[list[int]] = self.tokenizer(prompts, add_special_tokens=True, verbose=False)["input_ids"]
        return rows


def encode(
    dataset: LabelledDataset, tokenizer: Any, max_length: int | str = AUTO, positions: int | None = None
) -> EncodedDataset:
    """Tokenise every split with the dataset's one prompt.

    Args:
        dataset: The data and its prompt.
        tokenizer: Of the model.
        max_length: The most tokens of an example; ``auto``: what the longest needs, up to ``LENGTH_CAP`` and
            ``positions``.
        positions: The most tokens that the model reads; None if there is no such limit.

    Raises:
        ValueError: If instruction and template leave too little room for texts that have to be cut.
    """
    prompt, labels = dataset.prompt, dataset.labels
    texts = {split: [example.texts for example in dataset.splits[split]] for split in SPLITS}
    reader, bare = (_Reader(prompt, prompt.asked(labels, lists_labels=lists), tokenizer) for lists in (True, False))
    rows, most = _whole(reader, texts, max_length, positions)
    with_labels, without = reader.tokens_of([reader.instruction or "", bare.instruction or ""])
    leaves_out_labels = LABELS_SHARE * (len(with_labels) - len(without)) > most
    if leaves_out_labels:
        reader = bare
        rows, most = _whole(reader, texts, max_length, positions)
    cuts = [_cut(reader, texts[split], rows[split], most) for split in SPLITS]
    class_index = {label: index for index, label in enumerate(labels)}
    splits = {
        split: _end_to_end(rows[split], [class_index[example.label] for example in dataset.splits[split]])
        for split in SPLITS
    }
    return EncodedDataset(
        splits=splits,
        max_length=most,
        instruction=reader.instruction,
        num_cut=sum(num_cut for num_cut, _ in cuts),
        num_without_change=sum(num_without for _, num_without in cuts),
        of_revisions=prompt.kind == "revisions",
        leaves_out_labels=leaves_out_labels,
    )


def encode_texts(
    texts: Sequence[tuple[str, ...]], prompt: Prompt, instruction: str | None, tokenizer: Any, max_length: int
) -> tuple[EncodedSplit, int]:
    """Tokenise texts as ``encode`` does those of a split, in the terms that it found.

    Args:
        texts: Of each example.
        prompt: Of the dataset.
        instruction: What every example asks, as ``EncodedDataset`` has it.
        tokenizer: Of the model.
        max_length: The most tokens of an example.

    Returns:
        The examples, all labelled 0, and how many were cut.

    Raises:
        LengthError: If instruction and template leave too little room for texts that have to be cut.
    """
    reader = _Reader(prompt, instruction, tokenizer)
    rows = reader.tokens(texts)
    num_cut, _ = _cut(reader, texts, rows, max_length)
    return _end_to_end(rows, [0] * len(rows)), num_cut


def _end_to_end(rows: Sequence[Sequence[int]], labels: Sequence[int]) -> EncodedSplit:
    ids = np.concatenate([np.zeros(0, np.int32), *(np.asarray(row, dtype=np.int32) for row in rows)])
    return EncodedSplit(ids, np.cumsum([0, *map(len, rows)]), np.array(labels))


def _whole(
    reader: _Reader, texts: Mapping[Split, list[tuple[str, ...]]], max_length: int | str, positions: int | None
) -> tuple[dict[Split, list[list[int]]], int]:
    """The token ids of all examples in full, and the most tokens that one may have."""
    rows = {split: reader.tokens(of_split) for split, of_split in texts.items()}
    if isinstance(max_length, int):
        return rows, max_length
    longest = max(len(row) for of_split in rows.values() for row in of_split)
    return rows, min(longest, LENGTH_CAP, positions or LENGTH_CAP)


def _cut(reader: _Reader, texts: Sequence[tuple[str, ...]], rows: list[list[int]], max_length: int) -> tuple[int, int]:
    """Cut the rows that are too long, in place; returns how many there are, and how many lost part of their change."""
    kind = reader.prompt.kind
    too_long = [index for index, row in enumerate(rows) if len(row) > max_length]
    if too_long:
        _check_room(reader, max_length)
    words = [Shortened(texts[index], kind) for index in too_long]
    found = list(zip(words, *_most_shown(reader, words, max_length), strict=True))
    # Where not even a word fits, characters do.
    empty = [i for i, (_, num_ranks, _) in enumerate(found) if num_ranks == 0]
    pieces = [Shortened(texts[too_long[i]], kind, longest=1) for i in empty]
    for i, again in zip(empty, zip(pieces, *_most_shown(reader, pieces, max_length), strict=True), strict=True):
        found[i] = again
    for index, (_, _, row) in zip(too_long, found, strict=True):
        rows[index] = row
    return len(too_long), sum(num_ranks < shown.num_changed for shown, num_ranks, _ in found)


def _check_room(reader: _Reader, max_length: int) -> None:
    taken = len(reader.tokens_of([reader.prompt.frame(reader.instruction)])[0])
    room, needed = max_length - taken, LEAST_ROOM * reader.prompt.num_texts
    if room < needed:
        raise ValueError(
            f"model.max_length: of {max_length} tokens instruction and template take {taken} and leave "
            f"{max(room, 0)} for texts, which need {needed} at least. Set model.max_length={taken + needed} or "
            "more, or shorten data.instruction or data.template (data.instruction=null asks nothing)"
        )


def _most_shown(reader: _Reader, shortened: Sequence[Shortened], max_length: int) -> tuple[list[int], list[list[int]]]:
    """The most ranks of each that fit, and their tokens: by bisection, over all of them at once."""
    if not shortened:
        return [], []
    fits, fails = [0] * len(shortened), [each.num_ranks for each in shortened]
    rows = reader.tokens(each.show(0) for each in shortened)
    while wanted := [(i, (fits[i] + fails[i]) // 2) for i in range(len(shortened)) if fails[i] - fits[i] > 1]:
        for (i, num_ranks), row in zip(wanted, reader.tokens(shortened[i].show(n) for i, n in wanted), strict=True):
            if len(row) <= max_length:
                fits[i], rows[i] = num_ranks, row
            else:
                fails[i] = num_ranks
    return fits, rows


def encode_once(
    dataset: LabelledDataset,
    tokenizer: Any,
    max_length: int | str,
    folder: Path,
    positions: int | None = None,
    *,
    made: EncodedDataset | None = None,
) -> EncodedDataset:
    """Like ``encode``, but kept in ``folder`` and memory-mapped, so that all trials of a sweep share one copy.

    Args:
        dataset: The data.
        tokenizer: Of the model.
        max_length: As in ``encode``.
        folder: Where it is kept.
        positions: As in ``encode``.
        made: What ``encode`` gave for these arguments before.
    """
    # What a former version kept with the tokens, another one may not be able to read.
    form = ",".join(EncodedDataset.__dataclass_fields__)
    key = f"{dataset.fingerprint()}|{_tokenizer_fingerprint(tokenizer)}|{max_length}|{positions}|{form}"
    target = folder / hashlib.sha256(key.encode()).hexdigest()[:16]
    if not target.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if not target.is_dir():
                _keep(made or encode(dataset, tokenizer, max_length, positions), target)
    arrays = {file.stem: np.load(file, mmap_mode="r", allow_pickle=False) for file in target.glob("*.npy")}
    names = EncodedSplit.__dataclass_fields__
    splits = {split: EncodedSplit(*(arrays[f"{split}.{name}"] for name in names)) for split in SPLITS}
    return EncodedDataset(splits, **json.loads((target / COUNTS).read_text(encoding="utf-8")))


def _keep(encoded: EncodedDataset, target: Path) -> None:
    counts = {name: value for name, value in vars(encoded).items() if name != "splits"}
    with appearing(target) as partial:
        partial.mkdir()
        for split, part in encoded.splits.items():
            for name, array in vars(part).items():
                np.save(partial / f"{split}.{name}.npy", array, allow_pickle=False)
        (partial / COUNTS).write_text(json.dumps(redacted(counts)), encoding="utf-8")


def _tokenizer_fingerprint(tokenizer: Any) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        definition = json.loads(backend.to_str())
        # These are what its latest call asked for, not what it is.
        del definition["truncation"], definition["padding"]
        return hashlib.sha256(json.dumps(definition).encode()).hexdigest()
    # One that is written in Python is what its files say.
    digest = hashlib.sha256(type(tokenizer).__qualname__.encode())
    with tempfile.TemporaryDirectory() as folder:
        for file in sorted(map(Path, tokenizer.save_pretrained(folder))):
            digest.update(file.read_bytes() if file.is_file() else b"")
    return digest.hexdigest()
