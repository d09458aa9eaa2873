"""Rows of users' files: what is wrong with them is collected, then reported together or skipped and counted."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from irtune.data.dataset import DataError, Example
from irtune.data.label_names import counted

SHOWN_PER_KIND = 5
LABEL_EVERYWHERE = (
    "a label in every row (NaN, NA, None, null and the like are read as missing; name one in data.labels or "
    "data.label_map if it is a class)"
)

SkipBadRows = Annotated[bool, Field(description="leave out and count rows that cannot be used, instead of stopping")]


@dataclass(frozen=True, slots=True)
class Row(Example):
    """One example as a file gives it, whose texts may all be empty, and so may its label.

    Args:
        place: File and row, the row as an editor or a spreadsheet numbers it (a header, where there is one, is row 1).
        split: The split that the file assigns, if it does.
    """

    place: str
    split: str = ""

    def example(self) -> Example:
        """What is left of the row once it is placed in a split."""
        return Example(self.id, self.texts, self.label, group=self.group)


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
    """A row without any text, or with a character that no tokenizer can be trusted with.

    White space is text: an edit of spaces is an edit.
    """
    if not any(row.texts):
        kind, allowed = ("before and after both empty", "text on at least one side")
        if len(row.texts) == 1:
            kind, allowed = "empty text", "text in every row"
        return Problem(kind, row.place, "no text", allowed, row.label)
    if any("\0" in text for text in row.texts):
        return Problem("NUL character", row.place, "\\0", "text without NUL characters", row.label)
    return None


def label_problem(labels: Sequence[str], missing: Collection[str] = ()) -> Check:
    """A check that there is a label, and that it is one of ``labels``; ``missing`` is how missing ones are written."""
    allowed = frozenset(labels)
    written = " or ".join(repr(spelling) if spelling else "nothing" for spelling in sorted(missing)) or "nothing"

    def check(row: Row) -> Problem | None:
        if not row.label:
            return Problem("missing label", row.place, written, LABEL_EVERYWHERE)
        if row.label in allowed:
            return None
        return Problem("unknown label", row.place, repr(row.label), ", ".join(labels) or "none found", row.label)

    return check


def group_problem(row: Row) -> Problem | None:
    """A row without a group, in a file that is split by group."""
    return None if row.group else Problem("empty group", row.place, "nothing", "a value in every row", row.label)


def skip_notes(problems: Sequence[Problem], rows: Sequence[Row], classes: Collection[str] | None = None) -> list[str]:
    """Return what was left out of which class, and which classes lost most of their rows by it; one sentence each.

    Args:
        problems: One per row that is left out.
        rows: Those that are left.
        classes: The labels that are allowed; None: any.
    """
    if not problems:
        return []
    skipped, left = Counter(problem.label for problem in problems), Counter(row.label for row in rows)
    of_labels = [f"{count} {label!r}" for label, count in skipped.most_common() if label]
    without = [f"{skipped['']} without a label that can be read"] if skipped[""] else []
    notes = [f"{counted(len(problems), 'row')} skipped: {', '.join(of_labels + without)} (data.skip_bad_rows)"]
    for label, count in skipped.most_common():
        if label and count > left[label] and (classes is None or label in classes):
            lost = "all" if not left[label] else f"{count} of {count + left[label]}"
            notes.append(f"class {label!r} loses {lost} of its rows by data.skip_bad_rows")
    return notes


def skip_or_stop(problems: Sequence[Problem], num_rows: int, skip: bool) -> None:
    """Refuse rows that cannot be used, unless they are to be skipped.

    Raises:
        DataError: With every kind of problem and the first rows of each.
    """
    if not problems or skip:
        return
    kinds: dict[tuple[str, str], list[Problem]] = {}
    for problem in problems:
        kinds.setdefault((problem.kind, problem.allowed), []).append(problem)
    lines = [f"{len(problems)} of {num_rows} rows cannot be used (numbered as in an editor, a header is row 1):"]
    for (kind, allowed), found in kinds.items():
        shown = "; ".join(f"{problem.place}: {problem.found}" for problem in found[:SHOWN_PER_KIND])
        more = f"; and {len(found) - SHOWN_PER_KIND} more" if len(found) > SHOWN_PER_KIND else ""
        lines.append(f"- {kind}, {len(found)} rows: {shown}{more}. Allowed: {allowed}.")
    some = len(problems) < num_rows
    lines.append("Correct them, or set data.skip_bad_rows=true to leave them out." if some else "Correct them.")
    raise DataError("\n".join(lines))
