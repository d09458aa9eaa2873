"""Labelled texts and revisions from the user's own files, of any kind that ``reading/kinds.py`` lists."""

from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from irtune.data.dataset import Split, of_each
from irtune.data.reading.delimited import check_delimiter
from irtune.data.reading.encoding import check_encoding
from irtune.data.reading.kinds import read_tables
from irtune.data.reading.places import Place, find_places, refuse_twice
from irtune.data.reading.splits import as_splits, only_part
from irtune.data.reading.table import Columns, Options, Quoting, Table
from irtune.data.tabular import TableConfig

Paths = Path | tuple[Path, ...]
SPLIT_OF: dict[str, Split] = {"path": "train", "validation_path": "validation", "test_path": "test"}
REMEDY = "Give each split its own file or folder in data.path, data.validation_path and data.test_path"


class FileConfig(TableConfig):
    """Labelled texts or revisions from files; a file's suffix (.csv, .jsonl, .parquet, .xlsx, …) says how it is read.

    A path is a file, a list of files, a pattern such as ``data/*.csv``, a folder that ``save_to_disk`` of the library
    datasets wrote, or a folder with files called train, dev and test.
    """

    name: Literal["file"] = "file"
    path: Paths = Field(description="all rows, or the training rows where the others are given elsewhere")
    validation_path: Paths | None = Field(None, description="validation rows")
    test_path: Paths | None = Field(None, description="test rows")
    delimiter: Annotated[str, AfterValidator(check_delimiter)] | None = Field(
        None, description="what stands between the cells of a text file; default: recognised"
    )
    encoding: Annotated[str, AfterValidator(check_encoding)] | None = Field(
        None, description="encoding of a text file; default: UTF-8, or what its byte order mark says"
    )
    header: bool | None = Field(
        None,
        description="whether the first row names the columns; without, they are called 1, 2, …; default: recognised",
    )
    quoting: Quoting = Field(
        "auto",
        description="quotes in a text file: csv encloses cells in them and doubles those inside, backslash escapes "
        "those inside, none takes them for text; auto: csv, and none between tabs, unless rows come out otherwise",
    )
    sheet: str | None = Field(None, description="sheet of a workbook; default: the first that has the columns")

    @model_validator(mode="after")
    def _one_way_of_splitting(self) -> Self:
        separate = [option for option in ("validation_path", "test_path") if getattr(self, option) is not None]
        mistakes = []
        if separate and self.split_column is not None:
            mistakes.append(f"data.split_column and data.{separate[0]} both say how to split: set one of them")
        if any(isinstance(paths, tuple) and not paths for paths in self._paths().values()):
            mistakes.append("data.path: is an empty list; name at least one file")
        if mistakes:
            raise ValueError("; ".join(mistakes))
        return self

    def tables(self, columns: Columns) -> tuple[list[Table], list[str]]:
        """The tables of every file."""
        given = self._paths()
        places = dict(zip(given, of_each(lambda option: find_places(given[option], option), given), strict=True))
        refuse_twice(places)
        options = Options(self.delimiter, self.encoding, self.header, self.quoting, self.sheet)
        read = partial(_read, columns=columns, options=options)
        groups = of_each(lambda option: list(chain.from_iterable(of_each(read, places[option]))), given)
        tables, notes = self._with_splits_of_options(dict(zip(given, groups, strict=True)))
        return tables, [*(place.note for one in places.values() for place in one if place.note), *notes]

    def _with_splits_of_options(self, found: dict[str, list[Table]]) -> tuple[list[Table], list[str]]:
        if len(found) == 1 and self.split_column is None:
            return as_splits(found["path"], f"data.path={_shown(self.path)}", REMEDY)
        if len(found) == 1:
            return [replace(table, split="") for table in found["path"]], []
        tables, notes = list[Table](), list[str]()
        for option, group in found.items():
            part, said = only_part(group, SPLIT_OF[option], f"data.{option}={_shown(self._paths()[option])}", REMEDY)
            tables += part
            notes += said
        return tables, notes

    def _paths(self) -> dict[str, Paths]:
        options = {option: getattr(self, option) for option in SPLIT_OF}
        return {option: paths for option, paths in options.items() if paths is not None}


def _read(place: Place, columns: Columns, options: Options) -> list[Table]:
    tables = read_tables(place.path, columns, options)
    return [replace(table, split=place.split) for table in tables] if place.split else tables


def _shown(paths: Paths) -> str:
    return str(paths) if isinstance(paths, Path) else f"[{', '.join(map(str, paths))}]"
