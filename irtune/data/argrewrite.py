"""ArgRewrite V.2: revisions of argumentative essays, annotated with their purpose, from a clone of its repository."""

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from irtune.data.dataset import SPLITS, DataError, DatasetConfig, LabelledDataset
from irtune.data.reading.workbook import rows_of, sheets_of
from irtune.data.rows import Problem, Row, SkipBadRows, label_problem, partition, skip_or_stop, text_problem
from irtune.data.sampling import SplitFraction, split_three_ways

SURFACE = ("Word-Usage/Clarity", "Conventions/Grammar/Spelling", "Precision", "Organization")
CONTENT = (
    "Claims/Ideas",
    "Rebuttal/Reservation",
    "Warrant/Reasoning/Backing",
    "Evidence",
    "General Content Development",
)
UNANNOTATED = "Unannotated"
PARENT_OF_PURPOSE = {**dict.fromkeys(SURFACE, "surface"), **dict.fromkeys(CONTENT, "content")}

OLD, NEW = "Old Draft", "New Draft"
INDEX, TEXT, ALIGNED = "Sentence Index", "Sentence Content", "Aligned Index"
PURPOSE, OPERATION = "Revision Purpose Level 0", "Revision Operation Level 0"
COLUMNS = (INDEX, TEXT, ALIGNED, PURPOSE, OPERATION)

Operation = Literal["modify", "add", "delete"]
OPERATIONS: dict[str, tuple[Operation, ...]] = {OLD: ("modify", "delete"), NEW: ("modify", "add")}

# Row number in the sheet, and the cells by column.
Sentence = tuple[int, dict[str, object]]


class ArgRewriteConfig(DatasetConfig):
    """Sentence revisions of 86 essays over three drafts; whole essays go to one split, as all answer the same question.

    Source: Kashefi et al. 2022, "ArgRewrite V.2", doi 10.1007/s10579-021-09567-z; github.com/omidkashefi/ArgRewrite.
    Where a sentence has several revisions, its first purpose is taken; "Unannotated" revisions are left out.
    """

    name: Literal["argrewrite"] = "argrewrite"
    path: Path = Field(
        description="clone of omidkashefi/ArgRewrite, its folder dataset/, or that folder's annotations/"
    )
    operations: tuple[Operation, ...] = Field(
        ("modify", "add", "delete"),
        min_length=1,
        description="which kinds of revision; before is empty in add, after in delete",
    )
    labels: Literal["fine", "surface_content"] = Field(
        "fine", description="the nine purposes, or only whether a revision is of the surface or of the content"
    )
    validation_fraction: SplitFraction = Field(
        0.15, description="share of the validation split, about, in whole essays"
    )
    test_fraction: SplitFraction = Field(0.15, description="share of the test split, about, in whole essays")
    skip_bad_rows: SkipBadRows = False

    def read(self) -> LabelledDataset:
        """Read the workbooks and split by essay."""
        problems: list[Problem] = []
        rows = [row for path in find_workbooks(self.path) for row in read_workbook(path, problems, self.operations)]
        rows = [row for row in rows if row.label != UNANNOTATED]
        rows = partition(rows, text_problem, problems)
        rows = partition(rows, label_problem(tuple(PARENT_OF_PURPOSE)), problems)
        skip_or_stop(problems, len(rows) + len(problems), self.skip_bad_rows)
        if self.labels == "surface_content":
            rows = [replace(row, label=PARENT_OF_PURPOSE[row.label]) for row in rows]
        labels = SURFACE + CONTENT if self.labels == "fine" else ("surface", "content")
        essays, purposes, texts = [r.group for r in rows], [r.label for r in rows], [r.texts for r in rows]
        parts = split_three_ways(purposes, essays, self.validation_fraction, self.test_fraction, self.seed, texts)
        return LabelledDataset(
            name=self.name,
            labels=labels,
            splits={split: tuple(rows[i].example() for i in part) for split, part in zip(SPLITS, parts, strict=True)},
            prompt=self.prompt("revisions", "What is the purpose of this revision of an essay"),
            num_skipped=len(problems),
            grouped_by="essay",
        )


def find_workbooks(path: Path) -> list[Path]:
    """The annotated workbooks ``annotations/{A,B,C,D}/{12,23}/*.xlsx`` at or below ``path``, in a fixed order.

    Raises:
        DataError: If there are none.
    """
    path = path.expanduser()
    for folder in (path / "dataset" / "annotations", path / "annotations", path):
        # The published folders also hold Excel's lock files, "~$….xlsx", which are no workbooks.
        found = sorted(file for file in folder.glob("[A-Z]/[0-9][0-9]/*.xlsx") if not file.name.startswith("~$"))
        if found:
            return found
    state = "holds no workbooks" if path.is_dir() else "is no folder"
    raise DataError(
        f"data.path={path} {state}; it must be a clone of github.com/omidkashefi/ArgRewrite, its folder dataset/, "
        "or the folder annotations/ in it, which holds A/12/*.xlsx and so on"
    )


def read_workbook(path: Path, problems: list[Problem], operations: Sequence[Operation]) -> list[Row]:
    """The revisions of one essay between two drafts; those that cannot be used are added to ``problems``.

    Raises:
        DataError: If the file is no such workbook.
    """
    essay = re.search(r"argrewrite_(\d+)", path.name)
    if essay is None:
        raise DataError(
            f"{path}: the file's name holds no essay number, as in Annotation_2018argrewrite_11_NEW.txt.xlsx"
        )
    sheets = _read_sheets(path)
    new_texts = {_number(cells[INDEX]): _text(cells) for _, cells in sheets[NEW]}
    rows = []
    for title, sentences in sheets.items():
        for number, cells in sentences:
            place = f"{path}, {title}, row {number}"
            operation = _first(cells[OPERATION]).lower()
            if operation and operation not in OPERATIONS[title]:
                problems.append(Problem("unknown operation", place, repr(operation), ", ".join(OPERATIONS[title])))
            # A modified sentence stands in both sheets; the old one tells which new sentences it became.
            if operation not in operations or (title == NEW and operation == "modify"):
                continue
            aligned = _aligned(cells[ALIGNED]) if operation == "modify" else []
            lost = [index for index in aligned if index not in new_texts]
            if lost:
                found = f"sentence {', '.join(lost)}"
                problems.append(Problem("unknown aligned sentence", place, found, "sentences of the new draft"))
                continue
            before = _text(cells) if title == OLD else ""
            after = _text(cells) if title == NEW else " ".join(new_texts[index] for index in aligned)
            row_id = f"{essay[1]}/{path.parent.name}/{title[:3].lower()}/{_number(cells[INDEX])}"
            rows.append(Row(row_id, (before, after), _first(cells[PURPOSE]), place, group=essay[1]))
    return rows


def _read_sheets(path: Path) -> dict[str, list[Sentence]]:
    with sheets_of(path, str(path)) as sheets:
        absent = [title for title in (OLD, NEW) if title not in sheets]
        if absent:
            raise DataError(f"{path}: no sheet {' or '.join(absent)}; found {', '.join(sheets)}")
        return {title: _read_sheet(path, title, sheets[title]) for title in (OLD, NEW)}


def _read_sheet(path: Path, title: str, sheet: Any) -> list[Sentence]:
    rows = rows_of(sheet)
    header = next(rows, ())
    absent = [name for name in COLUMNS if name not in header]
    if absent:
        raise DataError(f"{path}, {title}: no column {', '.join(absent)}; found {', '.join(map(str, header))}")
    return [(number, dict(zip_longest(header, row[: len(header)]))) for number, row in enumerate(rows, 2)]


def _text(cells: dict[str, object]) -> str:
    return str(cells[TEXT] or "").strip()


def _first(cell: object) -> str:
    """The first of the comma-separated values of a cell."""
    return str(cell or "").split(",")[0].strip()


def _number(cell: object) -> str:
    """A sentence's index as text, whether the workbook holds it as text or as a number."""
    return str(int(cell)) if isinstance(cell, float) else str(cell).strip()


def _aligned(cell: object) -> list[str]:
    """Indices of the new sentences that an old one became; none where the cell holds a word, as in ``DELETE``."""
    parts = [_number(part) for part in str(cell or "").split(",")]
    return [str(int(float(part))) for part in parts if part.replace(".", "", 1).isdigit()]
