"""A trace drawn anew while it grows: not too often, in its place, and never at the price of training."""

import logging
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from notebooks import in_notebook
from saying import refused

from irtune import MemoryTrace, plot_trace
from irtune.analysis import live_plot
from irtune.importance import Importance
from irtune.layers import SelectionRecord

PNG = b"\x89PNG"


class Training:
    """What a plot sees of a callback, and a clock that is set by hand."""

    def __init__(self, monkeypatch):
        self.viewers, self.trace, self.now = [], MemoryTrace(), 0.0
        monkeypatch.setattr(live_plot, "time", SimpleNamespace(monotonic=lambda: self.now))

    def choose(self, after_s, is_over=False):
        self.now += after_s
        step = len(self.trace.records)
        self.trace.write(SelectionRecord(step, (step % 3,), Importance(np.ones(3), np.full(3, step), np.ones(3)), 10))
        for viewer in self.viewers:
            viewer(is_over)


@pytest.fixture
def training(monkeypatch):
    return Training(monkeypatch)


def test_a_notebook_shows_it_in_one_place(training, monkeypatch):
    places = in_notebook(monkeypatch)
    assert plot_trace(training, live=True, title="mine") is None
    training.choose(after_s=0.1)
    training.choose(after_s=5)
    ((before, *pictures),) = places
    assert list(before) == ["text/plain"]
    assert [picture[:4] for picture in pictures] == [PNG, PNG]
    assert pictures[0] != pictures[1]


def test_a_file_has_the_last_state(training, tmp_path):
    file = tmp_path / "trace.png"
    plot_trace(training, file, live=True)
    assert not file.exists()
    training.choose(after_s=0)
    first = file.read_bytes()
    training.choose(after_s=0.1)
    assert file.read_bytes() == first
    training.choose(after_s=0.1, is_over=True)
    assert first != file.read_bytes()
    assert file.read_bytes().startswith(PNG)


def test_drawing_takes_a_twentieth_of_the_time(training, tmp_path, monkeypatch):
    drawn = []

    def draw():
        drawn.append(training.now)
        training.now += 10
        return plot_trace(training)

    live_plot.follow(training, tmp_path / "trace.png", draw)
    for _ in range(100):
        training.choose(after_s=4.9)
    # Ten seconds of drawing are paid for by 200 of training.
    assert drawn == pytest.approx([4.9, 215.8, 426.7])


def test_a_drawing_that_fails_ends_no_training(training, tmp_path, caplog):
    def fail():
        raise RuntimeError("no font")

    live_plot.follow(training, tmp_path / "trace.png", fail)
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            training.choose(after_s=100)
    assert len(caplog.records) == 1


def test_without_a_notebook_it_needs_a_path(training, monkeypatch):
    monkeypatch.setitem(sys.modules, "IPython", None)
    with refused(ValueError, "no notebook", "path="):
        plot_trace(training, live=True)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: None))
    with refused(ValueError, "no notebook", "path="):
        plot_trace(training, live=True)
    assert training.viewers == []


def test_a_trace_alone_cannot_be_followed(tmp_path):
    with refused(ValueError, "MemoryTrace cannot be followed", "IRTuningCallback"):
        plot_trace(MemoryTrace(), tmp_path / "trace.png", live=True)
