"""What the driver does as trials start and end, with the objects that Ray Tune hands over."""

import threading
from dataclasses import asdict
from types import SimpleNamespace

import pytest
from saying import says

from irtune.config.load import explicit, load
from irtune.config.sweep_schema import SweepConfig
from irtune.importance import Importance
from irtune.layers import SelectionRecord
from irtune.search.source import Outcome, TrialSpec
from irtune.studies import provenance, trial_table
from irtune.studies.ray_tune import TableCallback
from irtune.studies.trial_table import TrialTable
from irtune.tracking.run_record import Ended, Opened, RunRecord
from irtune.training.record import RecordReader, RecordWriter
from irtune.workers.error_text import NO_ERROR, last_line
from irtune.workers.worker import TrialSetup


class Uploader:
    """Notes what it is told."""

    def __init__(self):
        self.added, self.finished, self.resent = {}, [], []

    def add(self, folder, opened, *, is_new):
        self.added[opened.key] = (opened.name, opened.tags, is_new)
        self.params = opened.params

    def finish(self, key, status, tags, error_text):
        self.finished.append((key, status, error_text))

    def resend(self, record):
        self.resent.append(record.folder.name)


READY = SimpleNamespace(inputs=SimpleNamespace(num_blocks=6), data_tags=lambda data: {"irtune.data": data.name})


class Driver:
    """A callback, and what Tune tells it."""

    def __init__(self, folder):
        space = {"selection.reselect_every": {"type": "int", "low": 1, "high": 9}}
        config = load(SweepConfig, None, {"model.name": "tiny-random", "data.name": "synthetic", "space": space})
        sweep = SimpleNamespace(name="mine", folder=folder, config=config, ready=READY)
        self.uploader = Uploader()
        self.setup = TrialSetup(explicit(config.experiment()), folder, dataset=None)
        self.table = TrialTable(sweep, self.setup, self.uploader)
        self.ended, self.steps = [], []
        self.callback = TableCallback(self.table, self.ended.append, lambda: self.steps.append(1))

    def start(self, name, repeats=None, group=None):
        spec = TrialSpec(name, {}, repeats, group or {})
        trial = SimpleNamespace(config=asdict(spec), last_result={}, error_file=None)
        self.callback.on_trial_start(0, [], trial)
        return trial

    def complete(self, trial):
        trial.last_result = {"final": True}
        self.callback.on_trial_complete(0, [], trial)


@pytest.fixture
def driver(tmp_path):
    return Driver(tmp_path)


def test_the_commit_is_looked_up_once_a_sweep(tmp_path, monkeypatch):
    lookups = []
    monkeypatch.setattr(provenance, "git_commit", lambda: lookups.append(1) or "abc")
    driver = Driver(tmp_path)
    for number in range(3):
        driver.start(f"trial_{number:04d}")
    assert [tags["irtune.git_commit"] for _, tags, _ in driver.uploader.added.values()] == ["abc"] * 3
    assert len(lookups) == 1


def test_a_run_is_new_where_nothing_lies_yet(driver):
    driver.setup.trial_folder("trial_0001").mkdir(parents=True)
    driver.start("trial_0000")
    driver.start("trial_0001")
    assert [is_new for _, _, is_new in driver.uploader.added.values()] == [True, False]


def test_what_a_run_belongs_to_is_in_its_tags_and_parameters(driver):
    driver.start("few_seed_1", "few", {"cell": "few", "arm": "few"})
    ((_, tags, _),) = driver.uploader.added.values()
    assert driver.uploader.params == {"irtune.cell": "few", "irtune.arm": "few"}
    assert driver.uploader.params.items() <= tags.items()
    assert tags["irtune.kind"] == "cell"


def test_the_end_of_a_trial_waits_for_its_drawing_and_tune_does_not(driver, monkeypatch):
    drawn = threading.Event()
    monkeypatch.setattr(trial_table, "keep_trace", lambda entry: drawn.wait(10))
    trial = driver.start("trial_0000")
    driver.complete(trial)
    assert driver.table.records["trial_0000"].status == "finished"
    assert driver.uploader.finished == []
    drawn.set()
    driver.table.wait()
    assert driver.uploader.finished == [("mine/trial_0000", "FINISHED", None)]


def test_a_drawing_that_fails_costs_a_trial_nothing(driver, monkeypatch, caplog):
    monkeypatch.setattr("irtune.studies.artifacts.trace_heat_map", lambda *facts, **more: 1 / 0)
    trial = driver.start("trial_0000")
    choice = SelectionRecord(0, (0,), Importance.unseen(1), 1)
    RecordWriter(driver.setup.trial_folder("trial_0000")).write(choice)
    driver.complete(trial)
    driver.table.wait()
    assert driver.uploader.finished == [("mine/trial_0000", "FINISHED", None)]
    assert "no layer trace" in caplog.text


def test_why_a_trial_was_tried_again_is_kept(driver, tmp_path, caplog):
    trial = driver.start("trial_0000")
    trial.error_file = tmp_path / "error.txt"
    trial.error_file.write_text("Failure # 1\nTraceback\nRuntimeError: an injected bug\n")
    driver.callback.on_trial_recover(0, [], trial)
    assert driver.table.records["trial_0000"].interruptions == ["RuntimeError: an injected bug"]
    assert says(caplog.text, "trial_0000 … again: RuntimeError: an injected bug")
    # The trial is not over.
    driver.table.wait()
    assert driver.uploader.finished == []


def test_what_still_runs_is_closed_before_the_driver_goes(driver):
    driver.start("trial_0000")
    driver.table.close_open()
    assert driver.uploader.finished == [("mine/trial_0000", "KILLED", None)]


def test_an_end_that_an_earlier_driver_noted_stands_and_one_that_it_only_heard_of_is_noted(driver):
    names = ("trial_0000", "trial_0001", "trial_0002")
    noted, sent, heard = (RunRecord(driver.setup.trial_folder(name)) for name in names)
    for record in (noted, sent, heard):
        record.begin(Opened(f"mine/{record.folder.name}", "n", {}, 1_000))
    for record in (noted, sent):
        record.finish(Ended("FINISHED", {}, None, 61_000))
    sent.mark_sent("id", "uri", num_bytes=0, num_artifacts=0)
    driver.table.restore([(TrialSpec(name, {}), Outcome("pruned")) for name in names])
    driver.table.wait()
    assert driver.uploader.resent == ["trial_0000"]
    assert list(driver.uploader.added) == ["mine/trial_0002"]
    assert driver.uploader.finished == [("mine/trial_0002", "FINISHED", None)]
    assert [record.status for record in driver.table.records.values()] == ["pruned"] * 3


def test_a_trial_that_was_taken_over_is_opened_before_it_is_sent(driver):
    # As ``take_over`` leaves it: with its end, and without a beginning.
    RunRecord(driver.setup.trial_folder("few_seed_0")).finish(Ended("FINISHED", {}, None, 61_000))
    driver.table.restore([(TrialSpec("few_seed_0", {}, "few", {"reused_from": "/x"}), Outcome("finished"))])
    driver.table.wait()
    assert driver.uploader.resent == []
    assert driver.uploader.params == {"irtune.reused_from": "/x"}
    assert driver.uploader.finished == [("mine/few_seed_0", "FINISHED", None)]


def test_a_trial_is_settled_when_all_that_it_measured_was_read(driver, monkeypatch):
    trial = driver.start("trial_0000")
    record = driver.table.records["trial_0000"]
    polls = []
    poll = RecordReader.poll
    monkeypatch.setattr(RecordReader, "poll", lambda reader: polls.append(1) or poll(reader))
    writer = RecordWriter(driver.setup.trial_folder("trial_0000"))
    writer.metrics(3, {"eval/f1_macro": 0.5})
    driver.table.read()
    assert (record.step, record.is_settled) == (3, False)
    writer.metrics(4, {"eval/f1_macro": 0.6})
    driver.complete(trial)
    driver.table.read()
    assert (record.step, record.is_settled) == (4, True)
    # What is over is not looked at again, whether or not MLflow has heard of it.
    driver.table.read()
    assert len(polls) == 2


def test_what_cannot_be_read_now_is_read_later(driver, monkeypatch, caplog):
    driver.complete(driver.start("trial_0000"))
    RecordWriter(driver.setup.trial_folder("trial_0000")).metrics(3, {"eval/f1_macro": 0.5})
    with monkeypatch.context() as stumbling:
        stumbling.setattr(RecordReader, "poll", lambda reader: 1 / 0)
        driver.table.read()
    record = driver.table.records["trial_0000"]
    assert (record.step, record.is_settled) == (0, False)
    assert "trial_0000" in caplog.text
    driver.table.read()
    assert (record.step, record.is_settled) == (3, True)


@pytest.mark.parametrize("content", ["", "  \n\n"])
def test_an_empty_error_file_is_said_to_be_one_or_made_up_for_by_the_pickled_error(driver, tmp_path, content):
    file = tmp_path / "error.txt"
    file.write_text(content)
    lost, pickled = driver.start("trial_0000"), driver.start("trial_0001")
    lost.error_file = pickled.error_file = str(file)
    lost.get_pickled_error = lambda: None
    pickled.get_pickled_error = lambda: ValueError("a bug")
    for trial in (lost, pickled):
        driver.callback.on_trial_recover(0, [], trial)
        driver.callback.on_trial_error(0, [], trial)
    driver.table.wait()
    entries = driver.table.records
    assert entries["trial_0000"].interruptions == [NO_ERROR]
    assert entries["trial_0001"].interruptions == ["ValueError: a bug"]
    assert [error for _, _, error in driver.uploader.finished] == [NO_ERROR, "ValueError: a bug"]


def test_the_last_line_of_an_error_is_one_whatever_the_error():
    assert last_line("Traceback:\n  File\nKeyError: 'k'\n") == "KeyError: 'k'"
    assert last_line("") == last_line(" \n") == NO_ERROR


def test_tunes_loop_is_where_a_sweep_may_be_ended(driver):
    driver.callback.on_step_begin(0, [])
    assert driver.steps == [1]


def test_whatever_becomes_of_a_trial_workers_are_told_that_it_is_over(driver):
    driver.complete(driver.start("trial_0000"))
    driver.callback.on_trial_error(0, [], driver.start("trial_0001"))
    assert driver.ended == ["trial_0000", "trial_0001"]
    assert [record.status for record in driver.table.records.values()] == ["finished", "failed"]
