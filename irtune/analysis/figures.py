"""The pictures of a sweep, drawn on figures of their own: no display, no global state of pyplot."""

from pathlib import Path
from typing import BinaryIO

from matplotlib.figure import Figure

from irtune.analysis.finalists_view import finalist_plot
from irtune.analysis.heat_map import trace_heat_map
from irtune.analysis.pareto import pareto_plot
from irtune.analysis.response import response_curves

__all__ = ["finalist_plot", "pareto_plot", "response_curves", "save_png", "trace_heat_map"]


def save_png(figure: Figure, path: Path | BinaryIO, dpi: int = 120) -> None:
    """Write ``figure`` as PNG to a path or an open binary file."""
    figure.savefig(path, format="png", dpi=dpi, facecolor="white")
