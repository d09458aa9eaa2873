"""Which examples hold the same text, and therefore belong into one split."""

import unicodedata
from collections.abc import Hashable, Sequence


def text_key(texts: Sequence[str]) -> tuple[str, ...]:
    """Return what equal texts of an example have in common, whatever their white space, case and Unicode form.

    Two examples are equal if all of their texts are: of a revision both before and after. It says what belongs
    together, and is never shown to a model, so an edit of white space or case stays an edit.
    """
    return tuple(" ".join(_folded(text).split()) for text in texts)


def _folded(text: str) -> str:
    if text.isascii():
        return text.lower()
    # Folding case may undo the normal form, so it is made once more.
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def connected(*kinds: Sequence[Hashable] | None) -> list[list[int]]:
    """Rows in sets that must not be divided: rows that are equal in any of the ``kinds`` are in one set.

    Args:
        kinds: For each row something that it shares with others, such as its document or its text; all of one length.
            None where rows share nothing of that kind.

    Returns:
        Positions of each set's rows, in order; sets in the order of their first rows.
    """
    given = [kind for kind in kinds if kind is not None]
    # Union-find, whose roots are the first rows of their sets.
    above = list(range(len(given[0]))) if given else []

    def root(row: int) -> int:
        while above[row] != row:
            above[row] = row = above[above[row]]
        return row

    for kind in given:
        first: dict[Hashable, int] = {}
        for row, value in enumerate(kind):
            one, other = root(first.setdefault(value, row)), root(row)
            above[max(one, other)] = min(one, other)
    sets: dict[int, list[int]] = {}
    for row in range(len(above)):
        sets.setdefault(root(row), []).append(row)
    return list(sets.values())
