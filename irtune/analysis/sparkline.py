"""Curves and choices of blocks in a few characters, for a terminal."""

import itertools
import math
from collections.abc import Collection, Iterable, Sequence

_BARS, _PLAIN_BARS = "▁▂▃▄▅▆▇█", ".:-=+*#@"
_PAIRS, _PLAIN_PAIRS = "·▌▐█", ".<>#"
"""Of two blocks side by side: none trains, the left one, the right one, both."""


def limits(curves: Iterable[Sequence[float]]) -> tuple[float, float]:
    """The lowest and the highest value of several curves, so that they can be drawn on one scale."""
    values = [value for curve in curves for value in curve if math.isfinite(value)]
    return (min(values), max(values)) if values else (0.0, 0.0)


def sparkline(values: Sequence[float], within: tuple[float, float], width: int, *, plain: bool = False) -> str:
    """Draw a curve in at most ``width`` characters.

    Args:
        values: In order; of more than fit neighbours are averaged. One that is not finite is a gap.
        within: The lowest and the highest value of the scale.
        width: Most characters.
        plain: Use ASCII only.

    Example:
        >>> sparkline([0.1, 0.2, float("nan"), 0.8], (0.1, 0.8), 8)
        '▁▂ █'
    """
    bars, (low, high) = _PLAIN_BARS if plain else _BARS, within
    span = high - low

    def bar(value: float) -> str:
        if not math.isfinite(value):
            return " "
        share = (value - low) / span if span > 0 else 0.0
        return bars[min(max(int(share * len(bars)), 0), len(bars) - 1)]

    return "".join(map(bar, _averaged(values, width)))


def _averaged(values: Sequence[float], most: int) -> list[float]:
    """At most so many values: means of neighbours, of which those that are not finite don't count."""
    if len(values) <= most:
        return list(values)
    edges = [round(index * len(values) / most) for index in range(most + 1)]
    parts = [[value for value in values[a:b] if math.isfinite(value)] for a, b in itertools.pairwise(edges)]
    return [sum(part) / len(part) if part else math.nan for part in parts]


def block_row(active: Collection[int], num_blocks: int, width: int, *, plain: bool = False) -> str:
    """Draw which blocks train, block 0 at the left: a character for each, or for two where ``width`` asks for it.

    Args:
        active: Indices of those that train.
        num_blocks: L.
        width: The most characters of one block each.
        plain: Use ASCII only.

    Example:
        >>> block_row({1, 3}, 4, 8), block_row({1, 2, 3}, 5, 4)
        ('·█·█', '▐█·')
    """
    trains = [block in active for block in range(num_blocks)]
    pairs = _PLAIN_PAIRS if plain else _PAIRS
    if num_blocks <= width:
        return "".join(pairs[3 * each] for each in trains)
    trains += [False] * (num_blocks % 2)
    return "".join(pairs[left + 2 * right] for left, right in zip(trains[::2], trains[1::2], strict=True))
