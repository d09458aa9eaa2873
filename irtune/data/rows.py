"""Rows of users' files: what is wrong with them is collected, then reported together or skipped and counted."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from irtune.data.base import DataError, Example

SHOWN_PER_KIND = 5

SkipBadRows = Annotated[bool, Field(description="leave out and count rows that cannot be used, instead of stopping")]


@dataclass(frozen=True, slots=True)
class Row:
    """One example as a file gives it.

    Args:
        id: The same wherever the file lies.
        place: File and row, the row as an editor or a spreadsheet numbers it (a header, where there is one, is row 1).
        texts: One text, or those before and after; stripped, may be empty.
        label: Empty where the file gives none.
        group: What must not be divided between splits.
        split: The split that the file assigns, if it does.
    """

    id: str
    place: str
    texts: tuple[str, ...]
    label: str
    group: str = ""
    split: str = ""

    def example(self) -> Example:
        """What is left of the row once it is placed in a split."""
        return Example(self.id, self.texts, self.label)


@dataclass(frozen=True, slots=True)
class Problem:
    """Why one row cannot be used; ``label`` is the row's, where it is known."""

    kind: str
    place: str
    found: str
    allowed: str
    label: str = ""


Check = Callable[[Row], Problem | None]


def partition(rows: Iterable[Row], check: Check, problems: list[Problem]) -> list[Row]:
    """The rows that pass ``check``; what it says of the others is added to ``problems``."""
    passed = []
    for row in rows:
        problem = check(row)
        if problem is None:
            passed.append(row)
        else:
            problems.append(problem)
    return passed


def text_problem(row: Row) -> Problem | None:
    """A row without text on either side, or with bytes that are no UTF-8 (read as lone surrogates)."""
    for text in (*row.texts, row.label, row.group):
        if any("\ud800" <= character <= "\udfff" for character in text):
            return Problem("text is not UTF-8", row.place, ascii(text[:40]), "files encoded as UTF-8")
    if not any(row.texts):
        return Problem("before and after both empty", row.place, "no text", "text on at least one side")
    return None


def label_problem(labels: Sequence[str]) -> Check:
    """A check that the label is one of ``labels``."""
    return lambda row: _unknown("label", row.label, row.place, labels)


def split_problem(splits: Sequence[str]) -> Check:
    """A check that the split is one of ``splits``."""
    return lambda row: _unknown("split", row.split, row.place, splits)


def group_problem(row: Row) -> Problem | None:
    """A row without a group, in a file that is split by group."""
    return None if row.group else Problem("empty group", row.place, "nothing", "a value in every row")


def _unknown(what: str, found: str, place: str, allowed: Sequence[str]) -> Problem | None:
    if found in allowed:
        return None
    return Problem(f"unknown {what}", place, repr(found) if found else "nothing", ", ".join(allowed) or "none found")


def skip_or_stop(problems: Sequence[Problem], num_rows: int, skip: bool) -> Mapping[str, int]:
    """How many rows to skip, by label.

    Raises:
        DataError: If there are problems and they are not to be skipped; it names every kind and the first rows of each.
    """
    if not problems or skip:
        return Counter(problem.label for problem in problems)
    kinds: dict[tuple[str, str], list[Problem]] = {}
    for problem in problems:
        kinds.setdefault((problem.kind, problem.allowed), []).append(problem)
    lines = [f"{len(problems)} of {num_rows} rows cannot be used (numbered as in an editor, a header is row 1):"]
    for (kind, allowed), found in kinds.items():
        shown = "; ".join(f"{problem.place}: {problem.found}" for problem in found[:SHOWN_PER_KIND])
        more = f"; and {len(found) - SHOWN_PER_KIND} more" if len(found) > SHOWN_PER_KIND else ""
        lines.append(f"- {kind}, {len(found)} rows: {shown}{more}. Allowed: {allowed}.")
    lines.append("Correct them, or set data.skip_bad_rows=true to leave them out.")
    raise DataError("\n".join(lines))
