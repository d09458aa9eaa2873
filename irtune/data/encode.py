"""Text to token ids, once: the prompt within the length that the model reads, and a count of what had to be cut."""

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from irtune.data.dataset import SPLITS, LabelledDataset, Split
from irtune.data.prompt import AUTO
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


class LengthError(ValueError):
    """Instruction and template leave too little room for texts."""


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
class Cuts:
    """How many examples of a split did not fit.

    Args:
        examples: All of the split.
        cut: Those of whose texts something is left out.
        without_change: Revisions among them that don't show the whole of what changed.
    """

    examples: int
    cut: int
    without_change: int

    def in_words(self, *, of_revisions: bool) -> str:
        """Say it."""
        said = f"{self.cut} of {self.examples} examples cut"
        return f"{said}, {self.without_change} without their change" if of_revisions else said


@dataclass(frozen=True)
class EncodedDataset:
    """A dataset as a model reads it.

    Args:
        splits: Token ids of each split.
        max_length: The most tokens of an example.
        instruction: What every example asks; None if nothing.
        cuts: What did not fit, by split.
        of_revisions: Whether examples are revisions, of which the change is what counts.
        leaves_out_labels: Whether irtune's own instruction does not list the labels, for want of room.
    """

    splits: Mapping[Split, EncodedSplit]
    max_length: int
    instruction: str | None
    cuts: Mapping[Split, Cuts]
    of_revisions: bool
    leaves_out_labels: bool = False

    @property
    def all_cuts(self) -> Cuts:
        """Return what did not fit, over all splits."""
        return Cuts(
            *(sum(getattr(cuts, name) for cuts in self.cuts.values()) for name in ("examples", "cut", "without_change"))
        )

    def in_words(self) -> str:
        """Length, and what was cut for it."""
        said = f"at most {self.max_length} tokens; {self.all_cuts.in_words(of_revisions=self.of_revisions)}"
        without = "; the instruction does not list the labels, which would take more than a third of them"
        return said + without if self.leaves_out_labels else said


class Encoder:
    """Puts examples of one dataset into token ids.

    Args:
        dataset: The data and its prompt.
        tokenizer: Of the model.
        max_length: The most tokens of an example; ``auto``: what the longest needs, up to ``LENGTH_CAP`` and
            ``positions``.
        positions: The most tokens that the model reads; None if there is no such limit.

    Raises:
        LengthError: If instruction and template leave too little room for texts that have to be cut.
    """

    def __init__(self, dataset: LabelledDataset, tokenizer: Any, max_length: int | str, positions: int | None) -> None:
        self.dataset, self.prompt, self._tokenizer = dataset, dataset.prompt, tokenizer
        examples = [example for split in SPLITS for example in dataset.splits[split]]
        self.instruction = self.prompt.asked(dataset.labels)
        texts = [example.texts for example in examples]
        rows = self._tokens(texts)
        self.max_length = self._length(rows, max_length, positions)
        self._leaves_out_labels = not self._labels_fit()
        if self._leaves_out_labels:
            self.instruction = self.prompt.asked(dataset.labels, lists_labels=False)
            rows = self._tokens(texts)
            self.max_length = self._length(rows, max_length, positions)
        too_long = [index for index, row in enumerate(rows) if len(row) > self.max_length]
        self._without_change = dict.fromkeys(too_long, False)
        if too_long:
            self._check_room()
            for index, row in zip(too_long, self._fitted(too_long, texts), strict=True):
                rows[index] = row
        self._rows = rows

    def encoded(self) -> EncodedDataset:
        """The whole dataset."""
        class_index = {label: index for index, label in enumerate(self.dataset.labels)}
        splits: dict[Split, EncodedSplit] = {}
        cuts: dict[Split, Cuts] = {}
        start = 0
        for split in SPLITS:
            examples = self.dataset.splits[split]
            rows = self._rows[start : start + len(examples)]
            cut = [self._without_change[i] for i in range(start, start + len(rows)) if i in self._without_change]
            start += len(rows)
            splits[split] = EncodedSplit(
                np.concatenate([np.zeros(0, np.int32), *(np.asarray(row, dtype=np.int32) for row in rows)]),
                np.cumsum([0, *map(len, rows)]),
                np.array([class_index[example.label] for example in examples]),
            )
            cuts[split] = Cuts(len(rows), len(cut), sum(cut))
        of_revisions = self.prompt.kind == "revisions"
        return EncodedDataset(splits, self.max_length, self.instruction, cuts, of_revisions, self._leaves_out_labels)

    def _tokens(self, texts: Sequence[tuple[str, ...]]) -> list[list[int]]:
        return self._tokens_of([self.prompt.render(self.instruction, each) for each in texts])

    def _tokens_of(self, prompts: list[str]) -> list[list[int]]:
        # Without `verbose` it warns of every text that is longer than the model reads.
        rows: list[list[int]] = self._tokenizer(prompts, add_special_tokens=True, verbose=False)["input_ids"]
        return rows

    def _length(self, rows: Sequence[Sequence[int]], max_length: int | str, positions: int | None) -> int:
        if isinstance(max_length, int):
            return max_length
        return min(max(map(len, rows)), LENGTH_CAP, positions or LENGTH_CAP)

    def _labels_fit(self) -> bool:
        """Return whether irtune's own instruction may list the labels."""
        if self.prompt.instruction != AUTO:
            return True
        bare = self.prompt.asked(self.dataset.labels, lists_labels=False)
        with_labels, without = self._tokens_of([self.instruction or "", bare or ""])
        return LABELS_SHARE * (len(with_labels) - len(without)) <= self.max_length

    def _check_room(self) -> None:
        taken = len(self._tokens_of([self.prompt.frame(self.instruction)])[0])
        room, needed = self.max_length - taken, LEAST_ROOM * self.prompt.num_texts
        if room < needed:
            raise LengthError(
                f"model.max_length: of {self.max_length} tokens instruction and template take {taken} and leave "
                f"{max(room, 0)} for texts, which need {needed} at least. Set model.max_length={taken + needed} or "
                "more, or shorten data.instruction or data.template (data.instruction=null asks nothing)"
            )

    def _fitted(self, too_long: Sequence[int], texts: Sequence[tuple[str, ...]]) -> list[list[int]]:
        """Tokens of the examples that are too long, with as much of their texts as fits.

        How much that is, is searched for by bisection over all of them at once.
        """
        shortened = [Shortened(texts[index], self.prompt.kind) for index in too_long]
        shown, rows = self._searched(shortened)
        # Where not even a word fits, characters do.
        empty = np.flatnonzero(shown == 0).tolist()
        pieces = [Shortened(texts[too_long[i]], self.prompt.kind, longest=1) for i in empty]
        for i, each, num_ranks, row in zip(empty, pieces, *self._searched(pieces), strict=True):
            shortened[i], shown[i], rows[i] = each, num_ranks, row
        for index, each, num_ranks in zip(too_long, shortened, shown, strict=True):
            self._without_change[index] = bool(num_ranks < each.num_changed)
        return rows

    def _searched(self, shortened: Sequence[Shortened]) -> tuple[np.ndarray, list[list[int]]]:
        """The most ranks of each that fit, and their tokens."""
        if not shortened:
            return np.zeros(0, dtype=int), []
        fits = np.zeros(len(shortened), dtype=int)
        fails = np.array([each.num_ranks for each in shortened])
        rows = self._tokens([each.show(0) for each in shortened])
        while (open_ := np.flatnonzero(fails - fits > 1)).size:
            tried = (fits[open_] + fails[open_]) // 2
            wanted = list(zip(open_.tolist(), tried.tolist(), strict=True))
            found = self._tokens([shortened[i].show(n) for i, n in wanted])
            for (i, n), row in zip(wanted, found, strict=True):
                if len(row) <= self.max_length:
                    fits[i], rows[i] = n, row
                else:
                    fails[i] = n
        return fits, rows


def encode(
    dataset: LabelledDataset, tokenizer: Any, max_length: int | str = AUTO, positions: int | None = None
) -> EncodedDataset:
    """Tokenise every split with the dataset's one prompt; see ``Encoder``."""
    return Encoder(dataset, tokenizer, max_length, positions).encoded()


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
    key = f"{dataset.fingerprint()}|{_tokenizer_fingerprint(tokenizer)}|{max_length}|{positions}"
    target = folder / hashlib.sha256(key.encode()).hexdigest()[:16]
    if not target.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if not target.is_dir():
                _keep(made or encode(dataset, tokenizer, max_length, positions), target)
    counts = json.loads((target / COUNTS).read_text(encoding="utf-8"))
    splits = {split: EncodedSplit(**_mapped_arrays(target, split)) for split in SPLITS}
    cuts = {split: Cuts(**cuts) for split, cuts in counts.pop("cuts").items()}
    return EncodedDataset(splits=splits, cuts=cuts, **counts)


def _keep(encoded: EncodedDataset, target: Path) -> None:
    counts = {name: value for name, value in vars(encoded).items() if name not in ("splits", "cuts")}
    counts["cuts"] = {split: asdict(cuts) for split, cuts in encoded.cuts.items()}
    with appearing(target) as partial:
        partial.mkdir()
        for split, part in encoded.splits.items():
            for name, array in vars(part).items():
                np.save(partial / f"{split}.{name}.npy", array, allow_pickle=False)
        (partial / COUNTS).write_text(json.dumps(redacted(counts)), encoding="utf-8")


def _mapped_arrays(folder: Path, split: Split) -> Mapping[str, np.ndarray]:
    names = ("token_ids", "offsets", "labels")
    return {name: np.load(folder / f"{split}.{name}.npy", mmap_mode="r", allow_pickle=False) for name in names}


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
