"""The colours and markers of every figure."""

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7F7F7F")
"""Okabe and Ito's palette, told apart with any colour vision; its yellow is too pale on white, and black is the
baseline's."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
"""Eight shapes and seven colours: no pair comes twice among the first 56."""
