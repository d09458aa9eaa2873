"""Which examples hold the same text, and therefore belong into one split."""

import unicodedata
from collections.abc import Hashable, Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


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
    links: list[tuple[int, int]] = []
    for kind in given:
        first: dict[Hashable, int] = {}
        links += [(first.setdefault(value, row), row) for row, value in enumerate(kind)]
    if not links:
        return []
    size = len(given[0])
    graph = coo_array((np.ones(len(links)), np.transpose(links)), shape=(size, size))
    sets: dict[int, list[int]] = {}
    for row, number in enumerate(connected_components(graph, directed=False)[1]):
        sets.setdefault(number, []).append(row)
    return list(sets.values())
