"""The picture of a trace in memory shows its records."""

from types import SimpleNamespace

import numpy as np
import pytest
from saying import refused

from irtune import MemoryTrace, plot_trace
from irtune.importance import Importance
from irtune.layers import SelectionRecord

SCORES = np.array([[1.0, 2.0, 3.0], [3.0, 1.0, 2.0]])
ACTIVE = [(1, 2), (0,)]


@pytest.fixture
def trace():
    kept = MemoryTrace()
    for index, step in enumerate((0, 20)):
        importance = Importance(SCORES[index], np.full(3, step), np.full(3, index + 1))
        kept.write(SelectionRecord(step, ACTIVE[index], importance, 10))
    return kept


def test_a_cell_is_a_score_and_a_mark_a_block_that_trains(trace, tmp_path):
    figure = plot_trace(trace, tmp_path / "trace.png")
    cells = figure.axes[0]
    np.testing.assert_array_equal(cells.images[0].get_array(), SCORES.T)
    marks = next(collection for collection in cells.collections if collection.get_gid() == "active")
    # Refresh, block.
    assert marks.get_offsets().tolist() == [[0, 1], [0, 2], [1, 0]]
    assert [label.get_text() for label in cells.get_xticklabels()] == ["0", "20"]
    assert figure.get_suptitle() == "1.5 of 3 blocks train at a time"
    assert (tmp_path / "trace.png").read_bytes().startswith(b"\x89PNG")
    # What IPython looks for where pyplot has not told it how figures are shown.
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_whatever_has_a_trace_will_do(trace):
    figure = plot_trace(SimpleNamespace(trace=trace), title="mine", score_label="gradient norm")
    assert figure.get_suptitle() == "mine"
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), SCORES.T)
    assert figure.axes[2].get_ylabel() == "gradient norm"


def test_an_empty_trace_is_no_picture():
    with refused(ValueError, "trace is empty", "rank 0"):
        plot_trace(MemoryTrace())
