"""Curves and choices of blocks in a few characters."""

import math

import pytest

from irtune.analysis.sparkline import block_row, limits, sparkline


def test_curves_on_one_scale():
    curves = [[0.0, 0.5], [1.0, math.nan], []]
    within = limits(curves)
    assert within == (0.0, 1.0)
    assert [sparkline(curve, within, 8) for curve in curves] == ["▁▅", "█ ", ""]
    assert [sparkline(curve, within, 8, plain=True) for curve in curves] == [".+", "@ ", ""]


@pytest.mark.parametrize(("values", "width"), [(range(100), 10), (range(11), 10), (range(10), 10)])
def test_what_is_long_is_averaged_and_rises_still(values, width):
    drawn = sparkline(list(values), (0, max(values)), width)
    assert len(drawn) == width
    assert drawn[0] == "▁"
    assert drawn[-1] == "█"
    assert list(drawn) == sorted(drawn)


def test_a_flat_curve_lies_at_the_bottom():
    assert sparkline([0.3, 0.3], limits([[0.3, 0.3]]), 8) == "▁▁"
    assert limits([[math.inf], []]) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("active", "num_blocks", "width", "drawn"),
    [
        ({0, 2}, 3, 3, "█·█"),
        ({0, 2}, 3, 2, "▌▌"),
        ({1}, 4, 2, "▐·"),
        (set(range(60)), 60, 40, "█" * 30),
        ((), 0, 8, ""),
    ],
)
def test_blocks_in_a_row_or_two_in_a_character(active, num_blocks, width, drawn):
    assert block_row(active, num_blocks, width) == drawn
    assert block_row(active, num_blocks, width, plain=True) == drawn.translate(str.maketrans("·▌▐█", ".<>#"))
