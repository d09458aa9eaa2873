from pathlib import Path

import numpy as np
from saying import refused

from irtune.files import write_arrays
from irtune.importance import Importance
from irtune.layers import SelectionRecord
from irtune.tracking.trace import read_trace
from irtune.training.record import RecordWriter


def choose(writer: RecordWriter, step: int, active: list[int], scores: list[float | None]) -> None:
    measured_at = np.array([-1 if score is None else step for score in scores])
    importance = Importance(np.array(scores, dtype=float), measured_at, 1 * (measured_at >= 0))
    writer.write(SelectionRecord(step, tuple(active), importance, 100 * len(active)))


def test_a_resumed_attempt_replaces_what_came_after_its_checkpoint(trial_folder: Path) -> None:
    first = RecordWriter(trial_folder)
    choose(first, 0, [0, 1, 2], [None, None, None])
    choose(first, 10, [1, 2], [1.0, 2.0, 3.0])
    choose(first, 20, [0, 2], [4.0, 5.0, 6.0])
    RecordWriter(trial_folder).params({"killed": "before it chose"})
    third = RecordWriter(trial_folder)
    third.resumed(10)
    choose(third, 10, [2], [7.0, None, float("nan")])
    choose(third, 20, [1], [8.0, 9.0, 10.0])
    choose(third, 30, [0], [11.0, 12.0, 13.0])

    trace = read_trace(trial_folder)

    nan = np.nan
    np.testing.assert_array_equal(trace["step"], [0, 10, 20, 30])
    np.testing.assert_array_equal(trace["active"], np.array([[1, 1, 1], [0, 0, 1], [0, 1, 0], [1, 0, 0]], dtype=bool))
    np.testing.assert_array_equal(trace["scores"], [[nan, nan, nan], [7, nan, nan], [8, 9, 10], [11, 12, 13]])
    np.testing.assert_array_equal(trace["measured_at"], [[-1, -1, -1], [10, -1, 10], [20, 20, 20], [30, 30, 30]])
    np.testing.assert_array_equal(trace["trainable_parameters"], [300, 100, 100, 100])
    np.testing.assert_array_equal(trace["lowest_active"], [0, 2, 1, 0])


def test_what_a_worker_writes_that_was_cut_off_replaces_nothing(trial_folder: Path) -> None:
    cut_off = RecordWriter(trial_folder)
    choose(cut_off, 0, [0], [1.0])
    present = RecordWriter(trial_folder)
    present.resumed(0)
    choose(present, 0, [0], [2.0])
    choose(present, 10, [0], [3.0])
    choose(cut_off, 10, [0], [9.0])
    choose(present, 20, [0], [4.0])
    trace = read_trace(trial_folder)
    np.testing.assert_array_equal(trace["step"], [0, 10, 20])
    np.testing.assert_array_equal(trace["scores"], [[2.0], [3.0], [4.0]])


def test_a_checkpoint_between_two_choices_keeps_the_earlier_one(trial_folder: Path) -> None:
    first = RecordWriter(trial_folder)
    for step in (0, 10, 20):
        choose(first, step, [0], [1.0])
    RecordWriter(trial_folder).resumed(15)
    np.testing.assert_array_equal(read_trace(trial_folder)["step"], [0, 10])


def test_an_attempt_that_starts_over_replaces_everything(trial_folder: Path) -> None:
    first = RecordWriter(trial_folder)
    for step in (0, 10, 20):
        choose(first, step, [0], [1.0])
    choose(RecordWriter(trial_folder), 0, [0], [2.0])
    trace = read_trace(trial_folder)
    np.testing.assert_array_equal(trace["step"], [0])
    np.testing.assert_array_equal(trace["scores"], [[2.0]])


def test_a_trial_that_never_chose_has_an_empty_trace(trial_folder: Path) -> None:
    trace = read_trace(trial_folder)
    assert trace["step"].shape == (0,)
    assert trace["active"].shape == trace["scores"].shape == trace["measured_at"].shape == (0, 0)


def test_attempts_with_different_models_are_refused(trial_folder: Path) -> None:
    choose(RecordWriter(trial_folder), 0, [0], [1.0])
    choose(RecordWriter(trial_folder), 10, [0], [1.0, 2.0])
    with refused(ValueError, "[1, 2]"):
        read_trace(trial_folder)


def test_a_saved_trace_opens_without_pickle(trial_folder: Path, tmp_path: Path) -> None:
    choose(RecordWriter(trial_folder), 5, [1], [None, 2.0])
    trace = read_trace(trial_folder)
    write_arrays(tmp_path / "trace.npz", trace)
    with np.load(tmp_path / "trace.npz", allow_pickle=False) as loaded:
        assert set(loaded) == set(trace)
        for name, array in trace.items():
            np.testing.assert_array_equal(loaded[name], array)
            assert loaded[name].dtype == array.dtype
