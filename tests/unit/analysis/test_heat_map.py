from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from irtune.analysis.heat_map import trace_heat_map

STEPS = np.array([0, 20, 40, 60])


@pytest.fixture
def scores() -> np.ndarray:
    return np.random.default_rng(0).uniform(1, 2, size=(4, 5))


@pytest.fixture
def active() -> np.ndarray:
    chosen = np.zeros((4, 5), dtype=bool)
    chosen[0, [0, 4]] = chosen[1, [1, 4]] = chosen[2, 4] = True
    return chosen


def marked(figure: Figure) -> set[tuple[int, int]]:
    (marks,) = (collection for collection in figure.axes[0].collections if collection.get_gid() == "active")
    return {(int(x), int(y)) for x, y in np.asarray(marks.get_offsets())}


def colours(figure: Figure) -> Any:
    (image,) = figure.axes[0].images
    return image


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_exactly_the_active_cells_are_marked(scores: np.ndarray, active: np.ndarray) -> None:
    figure = trace_heat_map(scores, active, STEPS, "a trial")
    assert marked(figure) == {(0, 0), (0, 4), (1, 1), (1, 4), (2, 4)}
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[::-1, :, :3]
    for refresh, block in np.ndindex(active.shape):
        x, y = figure.axes[0].transData.transform((refresh, block)).astype(int)
        is_white = bool((pixels[y, x] > 250).all())
        assert is_white == active[refresh, block], (refresh, block)


def test_axes_say_what_they_are_and_the_bar_has_the_unit(scores: np.ndarray, active: np.ndarray) -> None:
    figure = trace_heat_map(scores, active, STEPS, "a trial", "importance (cosine similarity)")
    main, share, bar = figure.axes
    assert main.get_ylabel() == "block (0 = next to the embeddings)"
    assert main.get_xlabel() == "optimizer step of the refresh"
    assert [text.get_text() for text in main.get_xticklabels()] == ["0", "20", "40", "60"]
    assert main.get_ylim() == (-0.5, 4.5)
    assert bar.get_ylabel() == "importance (cosine similarity)"
    assert "refreshes" in share.get_xlabel()
    assert figure.get_suptitle() == "a trial"
    assert legend(figure) == ["active: trains until the next refresh"]
    np.testing.assert_allclose(np.asarray(colours(figure).get_array()), scores.T)


def test_the_side_panel_is_the_share_of_refreshes(scores: np.ndarray, active: np.ndarray) -> None:
    share = trace_heat_map(scores, active, STEPS, "").axes[1]
    assert [bar.get_width() for bar in share.patches] == pytest.approx([25, 25, 0, 0, 75])


def test_what_was_not_measured_has_no_colour_and_says_so(scores: np.ndarray, active: np.ndarray) -> None:
    scores[1, 3] = np.nan
    figure = trace_heat_map(scores, active, STEPS, "")
    hidden = np.ma.getmaskarray(colours(figure).get_array())
    assert np.argwhere(hidden).tolist() == [[3, 1]]
    assert "not measured" in legend(figure)


def test_a_policy_that_measures_nothing_still_shows_its_choices(active: np.ndarray) -> None:
    figure = trace_heat_map(np.full((4, 5), np.nan), active, STEPS, "")
    assert not figure.axes[0].images
    assert len(marked(figure)) == 5
    assert "not measured" in legend(figure)
    assert not figure.axes[2].axison


def test_skew_zeros_and_outliers_do_not_hide_the_rest() -> None:
    scores = np.geomspace(0.01, 10, 20 * 10).reshape(20, 10)
    scores[0, 0], scores[0, 1], scores[0, 2] = 0.0, 1e9, np.inf
    image = colours(trace_heat_map(scores, scores > 5, np.arange(20), ""))
    assert isinstance(image.norm, LogNorm)
    # A hundredth of the 198 positive ones lies below, without what replaced the first three.
    assert image.norm.vmin == scores.ravel()[5]
    assert image.norm.vmax < 20
    assert not np.ma.getmaskarray(image.get_array()).any()
    even = colours(trace_heat_map(np.linspace(1, 2, 200).reshape(20, 10), scores > 5, np.arange(20), ""))
    assert not isinstance(even.norm, LogNorm)


def test_a_long_trace_is_thinned_in_the_map_but_counted_in_full() -> None:
    active = np.zeros((1000, 3), dtype=bool)
    active[1, 0] = active[:500, 1] = True
    figure = trace_heat_map(np.ones((1000, 3)), active, np.arange(1000), "")
    assert np.asarray(colours(figure).get_array()).shape == (3, 200)
    assert figure.axes[0].get_xlabel().endswith("200 of 1000 refreshes shown")
    assert [bar.get_width() for bar in figure.axes[1].patches] == pytest.approx([0.1, 50, 0])


@pytest.mark.parametrize(("num_refreshes", "num_blocks"), [(1, 2), (1, 80), (200, 2), (200, 80)])
def test_cells_and_marks_keep_a_visible_size(num_refreshes: int, num_blocks: int) -> None:
    scores = np.ones((num_refreshes, num_blocks))
    figure = trace_heat_map(scores, scores > 0, np.arange(num_refreshes), "")
    width, height = figure.get_size_inches()
    assert width <= 16
    assert height <= 14
    (marks,) = figure.axes[0].collections
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    box = figure.axes[0].get_window_extent()
    cell_pt = 72 / figure.dpi * np.array([box.width / num_refreshes, box.height / num_blocks])
    mark_pt = 2 * np.array([marks._widths[0], marks._heights[0]])  # type: ignore[attr-defined]
    assert (mark_pt >= 2).all()
    assert (mark_pt < 0.8 * cell_pt).all()
