"""Which parts of an example's texts to show when not all of them fit: around what changed, and in order of nearness."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cached_property

from irtune.data.prompt import Kind

GAP = " …"
"""Stands for what is left out between two parts of a revised text."""

MAX_COMPARED = 1_000_000
"""Pairs of units beyond which a change is taken as one, since comparing would take seconds per example."""

WORD = 24
"""Characters of a word beyond which it is cut into pieces, so that a text without any space can be shown in part."""

# Of scripts that are written without spaces every character is a unit.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff"


@dataclass(frozen=True)
class Shortened:
    """The texts of an example, to be shown in part.

    Every unit (a word, or a short piece of one, with the white space before it) has a rank; ``show(n)`` shows the units
    whose rank is below ``n``. In a revision what changed comes first, then what lies between two changes, then the
    common head and tail from the change outwards, the same units on both sides. Other texts are shown from their start.

    Args:
        texts: One text, or two.
        kind: What they are to each other.
        longest: Characters of a unit, and of the white space before it.
    """

    texts: tuple[str, ...]
    kind: Kind
    longest: int = WORD

    @cached_property
    def units(self) -> list[list[str]]:
        """The pieces of each text, in order; together they are the text."""
        most = self.longest
        unit = rf"\s{{0,{most}}}(?:[{_UNSPACED}]|[^\s{_UNSPACED}]{{1,{most}}})|\s{{1,{most}}}"
        return [re.findall(unit, text) for text in self.texts]

    @cached_property
    def _ranked(self) -> tuple[list[list[int]], int]:
        if self.kind != "revisions":
            return [list(range(len(units))) for units in self.units], 0
        before, after, num_changed = ranks(*self.units)
        return [before, after], num_changed

    @property
    def num_changed(self) -> int:
        """Return how many ranks must be shown for the whole change of a revision to be seen; 0 for other texts."""
        return self._ranked[1]

    @property
    def num_ranks(self) -> int:
        """Return how many ranks there are."""
        return 1 + max((rank for side in self._ranked[0] for rank in side), default=-1)

    def show(self, num_ranks: int) -> tuple[str, ...]:
        """The texts with their units of the first ``num_ranks`` ranks."""
        gap = GAP if self.kind == "revisions" else ""
        both = zip(self.units, self._ranked[0], strict=True)
        return tuple(_joined(units, side, num_ranks, gap) for units, side in both)


def ranks(before: Sequence[str], after: Sequence[str]) -> tuple[list[int], list[int], int]:
    """Ranks of the units of both sides of a revision, and how many of these the change takes.

    Units that differ in white space only count as changed where nothing else did.

    The n-th changed unit of either side has rank n. Units between two changes come next, in order of their distance to
    the nearest, and then those of the common head and tail, one of either in turn.
    """
    words = [unit.strip() for unit in before], [unit.strip() for unit in after]
    if words[0] != words[1]:
        before, after = words
    head = _common(before, after)
    tail = _common(before[head:][::-1], after[head:][::-1])
    middle = list(_blocks(before[head : len(before) - tail], after[head : len(after) - tail]))
    inner = [size for size, is_equal, _ in middle if is_equal]
    num_changed = max(
        sum(size for size, is_equal, _ in middle if not is_equal),
        sum(size for _, is_equal, size in middle if not is_equal),
    )
    outer = num_changed + (max(inner, default=0) + 1) // 2
    sides: tuple[list[int], list[int]] = ([], [])
    for side, ranked in enumerate(sides):
        # Without any change there is no place to measure from but the start.
        ranked += [outer + i + min(i, tail) for i in (reversed(range(head)) if middle or tail else range(head))]
        changed = 0
        for block in middle:
            size, is_equal = block[2 * side], block[1]
            ranked += [num_changed + min(i, size - 1 - i) if is_equal else changed + i for i in range(size)]
            changed += 0 if is_equal else size
        ranked += [outer + i + min(i + 1, head) for i in range(tail)]
    return *sides, num_changed


def _blocks(before: Sequence[str], after: Sequence[str]) -> Iterator[tuple[int, bool, int]]:
    """Equal and unequal stretches in order: size before, whether equal, size after."""
    if len(before) * len(after) > MAX_COMPARED:
        yield len(before), False, len(after)
        return
    for name, start, end, other_start, other_end in SequenceMatcher(None, before, after, False).get_opcodes():
        # A single word between two changes costs no more than the mark that would stand for it.
        yield end - start, name == "equal" and end - start > 1, other_end - other_start


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    """Return how many units both begin with."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _joined(units: Sequence[str], ranked: Sequence[int], num_ranks: int, gap: str) -> str:
    parts: list[str] = []
    last = -1
    for index, (unit, rank) in enumerate(zip(units, ranked, strict=True)):
        if rank < num_ranks:
            if parts and last != index - 1:
                parts.append(gap)
            # The white space of a part that begins inside the text belongs to what is left out.
            parts.append(unit if parts or index == 0 else unit.lstrip())
            last = index
    return "".join(parts)
