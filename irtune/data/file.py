"""Revisions from the user's own CSV, TSV, JSON-lines or Parquet files."""

from dataclasses import replace
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from irtune.data.base import SPLITS, DatasetConfig, LabelledDataset, Split
from irtune.data.rows import (
    Problem,
    Row,
    SkipBadRows,
    group_problem,
    label_problem,
    partition,
    skip_or_stop,
    split_problem,
    text_problem,
)
from irtune.data.sampling import SplitFraction, split_three_ways
from irtune.data.tables import Columns, read_rows


class FileConfig(DatasetConfig):
    """Revisions from files with named columns; the file's suffix (.csv, .tsv, .jsonl, .parquet) says how it is read.

    The splits come from ``split_column``, or from three files, or else are drawn: seeded, with labels in proportion,
    and with the rows of one ``group_column`` value kept together.
    """

    name: Literal["file"] = "file"
    path: Path = Field(description="all rows, or the training rows where validation_path and test_path are given")
    validation_path: Path | None = Field(None, description="validation rows (with test_path)")
    test_path: Path | None = Field(None, description="test rows (with validation_path)")
    before_column: str = Field("before", description="column of the text before the revision")
    after_column: str = Field("after", description="column of the text after the revision")
    label_column: str = Field("label", description="column of the revision's intention")
    split_column: str | None = Field(None, description="column that says train, validation or test")
    group_column: str | None = Field(
        None, description="column whose equal values stay in one drawn split, e.g. a document id"
    )
    validation_fraction: SplitFraction = Field(0.15, description="share of the rows in a drawn validation split")
    test_fraction: SplitFraction = Field(0.15, description="share of the rows in a drawn test split")
    labels: tuple[str, ...] | None = Field(
        None, min_length=2, description="allowed labels in order of class; default: those of train, sorted"
    )
    skip_bad_rows: SkipBadRows = False

    @model_validator(mode="after")
    def _one_way_of_splitting(self) -> Self:
        separate = (self.validation_path is not None, self.test_path is not None)
        if any(separate) and not all(separate):
            raise ValueError("data.validation_path and data.test_path go together: set both or neither")
        if all(separate) and self.split_column is not None:
            raise ValueError("data.split_column and data.validation_path both say how to split: set one of them")
        if self.group_column is not None and (all(separate) or self.split_column is not None):
            raise ValueError(
                "data.group_column is for drawn splits: without data.split_column and data.validation_path"
            )
        return self

    def read(self) -> LabelledDataset:
        """Read and check the files, and split their rows."""
        problems: list[Problem] = []
        rows = partition(self._read_files(problems), text_problem, problems)
        if self.split_column is not None:
            rows = partition(rows, split_problem(SPLITS), problems)
        if self.group_column is not None:
            rows = partition(rows, group_problem, problems)
        labels = self.labels or tuple(sorted({row.label for row in rows if row.label and row.split in ("", "train")}))
        rows = partition(rows, label_problem(labels), problems)
        skipped = skip_or_stop(problems, len(rows) + len(problems), self.skip_bad_rows)
        return LabelledDataset(
            name=self.name,
            labels=labels,
            splits={split: tuple(row.example() for row in part) for split, part in self._split(rows).items()},
            prompt=self.prompt("revisions", "What is the intention of this revision"),
            skipped=skipped,
        )

    def _read_files(self, problems: list[Problem]) -> list[Row]:
        columns = Columns(
            self.before_column, self.after_column, self.label_column, self.group_column, self.split_column
        )
        if self.validation_path is None or self.test_path is None:
            return read_rows(self.path, columns, "row", problems)
        paths: dict[Split, Path] = {"train": self.path, "validation": self.validation_path, "test": self.test_path}
        return [
            replace(row, split=split)
            for split, path in paths.items()
            for row in read_rows(path, columns, split, problems)
        ]

    def _split(self, rows: list[Row]) -> dict[Split, list[Row]]:
        if self.split_column is not None or self.validation_path is not None:
            return {split: [row for row in rows if row.split == split] for split in SPLITS}
        groups = None if self.group_column is None else [row.group for row in rows]
        labels = [row.label for row in rows]
        texts = [row.texts for row in rows]
        parts = split_three_ways(labels, groups, self.validation_fraction, self.test_fraction, self.seed, texts)
        return {split: [rows[i] for i in part] for split, part in zip(SPLITS, parts, strict=True)}
