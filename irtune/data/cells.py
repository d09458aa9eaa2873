"""From cells, as any container gives them, to labels and texts: the same whichever container it was."""

import ast
import math
import re
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from datetime import date, time
from decimal import Decimal
from functools import lru_cache, partial

MISSING = frozenset(
    {"", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA"}
    | {"NULL", "NaN", "None", "n/a", "nan", "null"}
)
"""How a missing value is written, after ``pandas.read_csv``: a label that is one of these is none."""

_LIKE_MISSING = frozenset(spelling.casefold() for spelling in MISSING)
_WHOLE = re.compile(r"[+-]?\d+\.0+")
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")
SEVERAL_LABELS = "several labels in one row"
NO_LABEL = "missing label"
NOT_A_LABEL = "label is no text"


def text_of(cell: object) -> str | None:
    """A cell as text; None if it holds something else."""
    if isinstance(cell, str):
        return _HALF_CHARACTER.sub("\ufffd", cell) if not cell.isascii() else cell
    if isinstance(cell, bytes):
        return cell.decode("utf-8", errors="replace")
    if isinstance(cell, bool):
        return str(cell).lower()
    if cell is None or (isinstance(cell, float | Decimal) and math.isnan(cell)):
        return ""
    if isinstance(cell, float | Decimal) and math.isfinite(cell) and cell == int(cell):
        return str(int(cell))
    return str(cell) if isinstance(cell, int | float | Decimal | date | time) else None


class LabelReader:
    """Reads the cells of the label column, and remembers what it had to guess.

    Whole numbers are the same label however they are stored (``1``, ``1.0``), and so are truth values (``True``,
    ``true``). What is written as a missing value is one, unless the user names it as a label.

    ``missing`` holds how missing labels are written.

    Args:
        allowed: The labels that the user allows; none: any.
        label_map: What the user replaces by what.
    """

    def __init__(self, allowed: Collection[str] = (), label_map: Mapping[str, str] | None = None) -> None:
        self._map = dict(label_map or {})
        self._known = {*allowed, *self._map}
        self._found: set[str] = set()
        self._mapped: set[str] = set()
        self._has_lists = self._has_whole = False
        self.missing: set[str] = set()

    def of(self, names: Sequence[str] | None = None) -> Callable[[object], tuple[str, str]]:
        """What reads the cells of one column: cell -> its label, and what is wrong with it (empty where nothing is).

        Args:
            names: Names of the classes where a cell may hold a class index.
        """
        once = lru_cache(maxsize=None, typed=True)(partial(self._label, names=names))
        return lambda cell: once(cell) if isinstance(cell, Hashable) else self._label(cell, names)

    def notes(self) -> list[str]:
        """Return what was guessed, and entries of the map that no row has; one sentence each."""
        unused = [raw for raw in self._map if raw not in self._mapped]
        notes = [f"data.label_map: no row is labelled {', '.join(map(repr, unused))}"] if unused else []
        if self._has_lists:
            notes.append("labels that stand in a list of one are read as that one")
        if self._has_whole:
            notes.append("labels such as '1.0' are read as '1' (data.labels may name them otherwise)")
        like = [label for label in self._found if label.casefold() in _LIKE_MISSING]
        doubtful = sorted({label for label in like if label and label not in self._known and label not in MISSING})
        if doubtful:
            shown = ", ".join(map(repr, doubtful))
            notes.append(f"{shown} is read as a class, not as a missing label (data.label_map may rename it)")
        return notes

    def _only(self, cells: Sequence[object], names: Sequence[str] | None) -> tuple[str, str]:
        if len(cells) > 1:
            return "", SEVERAL_LABELS
        self._has_lists |= len(cells) == 1
        return self._label(cells[0] if cells else None, names)

    def _label(self, cell: object, names: Sequence[str] | None) -> tuple[str, str]:
        if isinstance(cell, list | tuple):
            return self._only(cell, names)
        if names is not None and isinstance(cell, int):
            if cell >= len(names):
                return "", f"class index beyond the {len(names)} classes"
            return self._settled(names[cell] if cell >= 0 else "", is_certain=cell >= 0)
        if isinstance(cell, bool):
            return self._settled(self._spelled(str(cell).lower(), str(cell), str(cell).upper()))
        if not isinstance(cell, str):
            text = text_of(cell)
            if text is None:
                return "", NOT_A_LABEL
            return self._settled(self._spelled(text, str(cell)))
        return self._written((text_of(cell) or "").strip())

    def _written(self, text: str) -> tuple[str, str]:
        """The label of a cell that holds text."""
        if text in self._known:
            return self._settled(text)
        if text[:1] == "[" and text[-1:] == "]":
            written = _written_list(text)
            if written is not None:
                return self._only(written, None)
        if _WHOLE.fullmatch(text):
            self._has_whole = True
            text = str(int(text.partition(".")[0]))
        elif text in ("True", "TRUE", "False", "FALSE"):
            text = self._spelled(text.lower(), text.capitalize())
        return self._settled(text)

    def _spelled(self, *spellings: str) -> str:
        """The spelling that the user knows, else the first."""
        return next((one for one in spellings if one in self._known), spellings[0])

    def _settled(self, label: str, is_certain: bool = False) -> tuple[str, str]:
        """A label after the user's map, or the complaint that there is none."""
        if label in self._map:
            self._mapped.add(label)
            label = self._map[label]
        elif not is_certain and label not in self._known and label in MISSING:
            self.missing.add(label)
            return "", NO_LABEL
        self._found.add(label)
        return label, ""


def _written_list(text: str) -> list[object] | None:
    """The list that a text spells, as pandas writes one into a CSV file."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return value if isinstance(value, list) else None
