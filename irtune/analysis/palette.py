"""The colours and markers of every figure: a pair of them belongs to a method."""

from collections.abc import Sequence
from dataclasses import dataclass

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7F7F7F")
"""Okabe and Ito's palette, told apart with any colour vision; its yellow is too pale on white, and black is the
baseline's."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
"""Eight shapes and seven colours: no pair comes twice among the first 56."""


@dataclass(frozen=True)
class Look:
    """Colour, marker and line of a method."""

    colour: str
    marker: str


def looks_of(names: Sequence[str], baselines: Sequence[str] = ()) -> dict[str, Look]:
    """The look of each name: of several baselines each has a marker of its own.

    Args:
        names: In order; those that come twice count once.
        baselines: Those of them that are black.
    """
    found: dict[str, Look] = {}
    others = 0
    for name in dict.fromkeys(names):
        if name in baselines:
            found[name] = Look("black", MARKERS[sum(each in baselines for each in found) % len(MARKERS)])
        else:
            found[name] = Look(COLOURS[others % len(COLOURS)], MARKERS[others % len(MARKERS)])
            others += 1
    return found
