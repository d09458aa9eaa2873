"""What all tables of labelled texts have in common, be they files or hub data: columns, labels, splits, bad rows."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from irtune.data.cells import LabelReader
from irtune.data.dataset import SPLITS, DataError, DatasetConfig, LabelledDataset, Split, of_each
from irtune.data.prompt import Kind
from irtune.data.reading.splits import CALLED, split_called
from irtune.data.reading.table import Columns, Table
from irtune.data.records import note_on_replaced, rows_of
from irtune.data.rows import (
    Problem,
    Row,
    SkipBadRows,
    group_problem,
    label_problem,
    partition,
    skip_notes,
    skip_or_stop,
    text_problem,
)
from irtune.data.sampling import SplitFraction, split_three_ways

QUESTIONS: dict[Kind, str] = {
    "revisions": "What is the intention of this revision",
    "pairs": "How do these two texts relate",
    "texts": "Which label fits this text",
}


def _as_name(value: Any) -> Any:
    """A whole number as a name; YAML reads ``1`` as a number, and it may name a column or a class."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _as_names(value: Any) -> Any:
    if isinstance(value, dict):
        return {_as_name(key): _as_name(entry) for key, entry in value.items()}
    return [_as_name(entry) for entry in value] if isinstance(value, list | tuple) else value


ColumnName = Annotated[str, BeforeValidator(_as_name), Field(min_length=1)]


class TableConfig(DatasetConfig):
    """Labelled texts, or pairs of texts, in named columns.

    The splits are those that the data has (``split_column``, or parts called train, validation or dev, and test).
    What it lacks of them is drawn: seeded, with labels in proportion, and with the rows of one ``group_column`` value
    kept together. Intervals take such rows together too, whoever drew the splits.
    """

    before_column: ColumnName | None = Field(
        None, description="column of the text before the revision, or of a pair's first; default: before"
    )
    after_column: ColumnName | None = Field(
        None, description="column of the text after the revision, or of a pair's second; default: after"
    )
    text_column: ColumnName | None = Field(
        None, description="column of the text, where rows hold one and no revision; in place of the two above"
    )
    pairs: Literal["revisions", "texts"] = Field(
        "revisions", description="what two texts of a row are: a revision, or texts to compare, as in NLI or paraphrase"
    )
    label_column: ColumnName = Field("label", description="column of the label; a.b leads into nested values")
    label_map: Annotated[dict[str, str], BeforeValidator(_as_names)] = Field(
        {}, description="labels of the data to be called otherwise, as {old: new}; several may become one"
    )
    split_column: ColumnName | None = Field(None, description="column that says train, validation (or dev) or test")
    group_column: ColumnName | None = Field(
        None,
        description="column whose equal values stay in one drawn split, e.g. a document id; intervals resample test "
        "examples by it",
    )
    validation_fraction: SplitFraction = Field(0.15, description="share of the rows in a drawn validation split")
    test_fraction: SplitFraction = Field(0.15, description="share of the rows in a drawn test split")
    labels: Annotated[tuple[str, ...], BeforeValidator(_as_names)] | None = Field(
        None, min_length=2, description="allowed labels in order of class; default: those of train, sorted"
    )
    skip_bad_rows: SkipBadRows = False

    @model_validator(mode="after")
    def _columns_go_together(self) -> Self:
        mistakes = []
        if self.text_column is not None:
            mistakes += [
                f"data.{option} and data.text_column exclude each other: a row holds a pair or one text"
                for option in ("before_column", "after_column")
                if getattr(self, option) is not None
            ]
            if self.pairs != "revisions":
                mistakes.append("data.pairs is about two texts in a row, and data.text_column names one: leave one out")
        unknown = sorted({new for new in self.label_map.values() if self.labels and new not in self.labels})
        if unknown:
            mistakes.append(
                f"data.label_map leads to {', '.join(map(repr, unknown))}, which data.labels does not allow"
            )
        if mistakes:
            raise ValueError("; ".join(mistakes))
        return self

    @property
    def kind(self) -> Kind:
        """Return what a row's texts are."""
        if self.text_column is not None:
            return "texts"
        return "pairs" if self.pairs == "texts" else "revisions"

    def columns(self) -> Columns:
        """The columns that are looked for."""
        names = {"text_column": self.text_column}
        if self.text_column is None:
            names = {"before_column": self.before_column or "before", "after_column": self.after_column or "after"}
        names["label_column"] = self.label_column
        chosen = (self.before_column, self.after_column, self.text_column, self.group_column, self.split_column)
        are_defaults = not any(chosen) and self.label_column == type(self).model_fields["label_column"].default
        named = {**names, "group_column": self.group_column, "split_column": self.split_column}
        return Columns({option: name for option, name in named.items() if name is not None}, are_defaults)

    def tables(self, columns: Columns) -> tuple[list[Table], list[str]]:
        """The tables, each with its split or an empty one where that is to be drawn, and notes; said by subclasses.

        Raises:
            DataError: If they cannot be read.
        """
        raise TypeError(f"dataset {self.name!r} does not say where its tables are")

    def read(self) -> LabelledDataset:
        """Read and check the tables, and split their rows."""
        columns, problems = self.columns(), list[Problem]()
        reader = LabelReader(self.labels or (), self.label_map)
        tables, notes = self.tables(columns)
        rows = read_all(tables, columns, reader, problems)
        notes += [note for table in tables for note in table.notes]
        num_rows = len(rows) + len(problems)
        rows, given = self._with_splits(rows, tables, problems, notes)
        if self.group_column is not None:
            rows = partition(rows, group_problem, problems)
        rows = partition(rows, text_problem, problems)
        labels = self.labels or tuple(sorted({row.label for row in rows if row.label and row.split in ("", "train")}))
        rows = partition(rows, label_problem(labels, reader.missing), problems)
        skip_or_stop(problems, num_rows, self.skip_bad_rows)
        parts = self._split(rows, given, notes)
        notes += [*reader.notes(), *skip_notes(problems, rows, self.labels), *note_on_replaced(rows)]
        return LabelledDataset(
            name=self.name,
            labels=labels,
            splits={split: tuple(row.example() for row in part) for split, part in parts.items()},
            prompt=self.prompt(self.kind, QUESTIONS[self.kind]),
            num_skipped=len(problems),
            notes=tuple(notes),
            grouped_by=self.group_column or "",
        )

    def _with_splits(
        self, rows: list[Row], tables: Sequence[Table], problems: list[Problem], notes: list[str]
    ) -> tuple[list[Row], set[Split]]:
        """Rows with the split that the data gives them, and which splits it gives."""
        if self.split_column is not None:
            spelled = Counter(row.split for row in rows)
            means = {name: split_called(name) for name in spelled}
            notes += [
                f"{name!r} in the column {self.split_column!r} is read as {means[name]} ({spelled[name]} rows)"
                for name in spelled
                if means[name] not in (None, name)
            ]
            rows = partition(rows, _split_is_known, problems)
            rows = [replace(row, split=means[row.split] or "") for row in rows]
            given = {split for split in means.values() if split is not None}
        else:
            given = {split for table in tables if (split := split_called(table.split)) is not None}
            chosen = {table.split for table in tables if table.is_chosen}
            rows, given = _without_unlabelled(rows, given, chosen, notes)
        if given and "train" not in given:
            raise DataError(
                f"dataset {self.name!r}: rows of {', '.join(sorted(given))} are there, and none of train. Call a split "
                "train, or give none to have all drawn."
            )
        return rows, given

    def _split(self, rows: list[Row], given: set[Split], notes: list[str]) -> dict[Split, list[Row]]:
        """The rows of every split; those that are not given are drawn from the rest."""
        parts: dict[Split, list[Row]] = {split: [row for row in rows if row.split == split] for split in SPLITS}
        missing = [split for split in SPLITS if split not in given]
        if not missing:
            return parts
        rest = [row for row in rows if row.split in ("", "train")]
        groups = None if self.group_column is None else [row.group for row in rest]
        texts = [row.texts for row in rest]
        fractions = (self.validation_fraction, self.test_fraction)
        drawn = split_three_ways([row.label for row in rest], groups, *fractions, self.seed, texts)
        places = dict(zip(SPLITS, drawn, strict=True))
        if given:
            left_over = [place for split in SPLITS if split in given for place in places[split]]
            places["train"] = sorted(left_over)
            sizes = " and ".join(f"{split} ({len(places[split])} of {len(rest)} rows)" for split in missing)
            notes.append(f"the data has no {' and no '.join(missing)} split: {sizes} drawn from train")
        return parts | {split: [rest[place] for place in places[split]] for split in ("train", *missing)}


def read_all(tables: Sequence[Table], columns: Columns, reader: LabelReader, problems: list[Problem]) -> list[Row]:
    """Rows of all tables, with their splits; those that cannot be read as such are added to ``problems``.

    Raises:
        DataError: With every table that lacks a column or has no rows.
    """
    counts = Counter(table.split for table in tables)
    seen: Counter[str] = Counter()

    def read(table: Table) -> list[Row]:
        seen[table.split] += 1
        prefix = table.split or "row"
        if counts[table.split] > 1:
            prefix += f".{seen[table.split]}"
        found = rows_of(table, columns, reader, prefix, problems)
        return [replace(row, split=table.split) for row in found] if table.split else found

    return [row for rows in of_each(read, tables) for row in rows]


def _without_unlabelled(
    rows: list[Row], given: set[Split], chosen: set[str], notes: list[str]
) -> tuple[list[Row], set[Split]]:
    """Rows without the splits whose labels were never published, as in shared tasks; these are no splits to use."""
    labelled, filled = {row.split for row in rows if row.label}, {row.split for row in rows}
    hidden = {split for split in given if split in filled - labelled and split not in {"train", *chosen}}
    notes += [f"no row of the {split} split has a label, so it is left out" for split in sorted(hidden)]
    return [row for row in rows if row.split not in hidden], given - hidden


def _split_is_known(row: Row) -> Problem | None:
    if split_called(row.split) is not None:
        return None
    allowed = ", ".join(name for names in CALLED.values() for name in names)
    return Problem("unknown split", row.place, repr(row.split) if row.split else "nothing", allowed, row.label)
