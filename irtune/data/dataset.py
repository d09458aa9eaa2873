"""What every dataset gives: labelled texts or text pairs in three splits, and one prompt used for all of them."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import astuple, dataclass, field, replace
from typing import Annotated, Literal, Self, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from irtune.data.prompt import Kind, Prompt, check_template, has_instruction
from irtune.data.sampling import stratified_sample

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
Item = TypeVar("Item")
Read = TypeVar("Read")


class DataError(ValueError):
    """Rows that cannot be used; the message names file, rows, what was found and what is allowed."""


def of_each(read: Callable[[Item], Read], items: Iterable[Item]) -> list[Read]:
    """What ``read`` gives for each of ``items``.

    Raises:
        DataError: After all were tried, with the message of every one that raised it.
    """
    found, mistakes = list[Read](), list[str]()
    for item in items:
        try:
            found.append(read(item))
        except DataError as error:
            mistakes.append(str(error))
    if mistakes:
        raise DataError("\n".join(mistakes))
    return found


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled example.

    Args:
        id: The same wherever the file lies.
        texts: One text, or two: before and after a revision (either may be empty, not both).
        label: Its class.
        group: The document that it is of; empty where it stands for itself.
    """

    id: str
    texts: tuple[str, ...]
    label: str
    group: str = field(default="", kw_only=True)


@dataclass(frozen=True)
class LabelledDataset:
    """Splits of examples with their label set.

    Args:
        name: Shown wherever the data is named; synthetic data says so here.
        labels: All labels, in the order of their class indices.
        splits: The examples of each of ``train``, ``validation`` and ``test``.
        prompt: What the model reads of an example; the same for every split.
        num_skipped: Rows left out because ``skip_bad_rows`` was set.
        notes: What was guessed in reading, and what looks doubtful; one sentence each.
        grouped_by: What the groups of examples are: ``essay``, or the name of a column; empty where there are none.

    Example:
        >>> from irtune.data import Example, LabelledDataset
        >>> from irtune.data.prompt import Prompt
        >>> example = Example("1", ("It are good.", "It is good."), "fluency")
        >>> splits = {"train": (example,), "validation": (), "test": ()}
        >>> data = LabelledDataset("mine", ("fluency", "style"), splits, Prompt("revisions", "Which"))
        >>> len(data.fingerprint())
        16
    """

    name: str
    labels: tuple[str, ...]
    splits: Mapping[Split, tuple[Example, ...]]
    prompt: Prompt
    num_skipped: int = 0
    notes: tuple[str, ...] = ()
    grouped_by: str = ""

    def fingerprint(self) -> str:
        """SHA-256 over labels, prompt and every example in order, 16 hexadecimal digits."""
        digest = hashlib.sha256(json.dumps([self.labels, astuple(self.prompt)]).encode())
        for split in SPLITS:
            for example in self.splits[split]:
                digest.update(json.dumps([split, example.id, example.texts, example.label]).encode())
        return digest.hexdigest()[:16]


class DatasetConfig(BaseModel):
    """Base of every dataset: its options are its fields, ``load`` gives the data.

    A subclass sets ``name`` to a literal and says in ``read`` how the data is read. Options that name a file or folder
    end with ``path``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    name: str
    # benchmarks/prompts.py: with an instruction scores are no better on ArgRewrite, and a step costs 2.3 times as much.
    instruction: str | None = Field(
        None,
        min_length=1,
        description="what the model is asked before each example; null asks nothing; auto asks for the label and lists "
        "the labels where they leave room for texts",
    )
    template: Annotated[str, Field(min_length=1), AfterValidator(check_template)] | None = Field(
        None,
        description="the text that the model reads, with {instruction}, and {before} and {after}, or {text}; default: "
        "these in lines of their own",
    )
    max_train: int | None = Field(None, gt=0, description="use at most this many training examples (seeded choice)")
    max_validation: int | None = Field(None, gt=0, description="use at most this many validation examples")
    max_test: int | None = Field(None, gt=0, description="use at most this many test examples")
    seed: int = Field(0, ge=0, description="seeds the split, the choice under max_*, and generated text")

    @model_validator(mode="after")
    def _instruction_has_a_place(self) -> Self:
        is_given = "instruction" in self.model_fields_set and self.instruction is not None
        if is_given and self.template is not None and not has_instruction(self.template):
            raise ValueError("data.template has no place for data.instruction; write {instruction} where it belongs")
        return self

    def prompt(self, kind: Kind, question: str) -> Prompt:
        """The prompt that the options ask for.

        Raises:
            ValueError: If the template does not show the texts.
        """
        return Prompt(kind, question, self.instruction, self.template)

    def path_fields(self) -> dict[str, str | list[str]]:
        """The options that name a place on disk, or a list of places, by field name, where they are set."""
        options = {name: getattr(self, name) for name in type(self).model_fields if name.endswith("path")}
        return {
            name: [str(path) for path in value] if isinstance(value, list | tuple) else str(value)
            for name, value in options.items()
            if value is not None
        }

    def read(self) -> LabelledDataset:
        """Read, check and split the data; what every dataset must say.

        Raises:
            DataError: If rows cannot be used.
        """
        raise TypeError(f"dataset {self.name!r} does not say how it is read")

    def load(self) -> LabelledDataset:
        """The data, capped by ``max_…`` in proportion to the labels; what looks doubtful is added to its notes.

        Raises:
            ValueError: If rows cannot be used, there are fewer than two labels, a split is empty, or the template does
                not show the texts.
        """
        # It knows what a dataset is, so it can only be imported once that is known.
        from irtune.data.audit import audit

        data = self.read()
        capped = {split: _at_most(getattr(self, f"max_{split}"), data.splits[split], self.seed) for split in SPLITS}
        empty = [split for split in SPLITS if not capped[split]]
        if empty:
            sizes = ", ".join(f"{split} {len(capped[split])}" for split in SPLITS)
            skipped = f", {data.num_skipped} rows skipped" if data.num_skipped else ""
            raise DataError(f"dataset {data.name!r}: no examples in {' and '.join(empty)} ({sizes}{skipped})")
        if len(data.labels) < 2:
            raise DataError(f"dataset {data.name!r}: needs at least two labels, found {list(data.labels)}")
        data = replace(data, splits=capped)
        return replace(data, notes=(*data.notes, *audit(data)))


def _at_most(limit: int | None, examples: tuple[Example, ...], seed: int) -> tuple[Example, ...]:
    if limit is None or limit >= len(examples):
        return examples
    labels = [example.label for example in examples]
    return tuple(examples[i] for i in stratified_sample(labels, limit, seed))
