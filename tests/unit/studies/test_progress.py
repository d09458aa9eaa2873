"""What a person sees of a running sweep: how far, how long still, how good so far."""

import re
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console
from saying import each_says, says

from irtune.config.schema import ExperimentConfig
from irtune.config.study_schema import Aim
from irtune.files import read_json
from irtune.search.source import TrialSpec
from irtune.studies import progress as progress_module
from irtune.studies.progress import PROGRESS, Outlook, SweepProgress
from irtune.studies.trial_record import TrialRecord

STEPS = 100


class Screen:
    """A sweep of 5 trials of 100 steps under a clock that is set by hand."""

    def __init__(self, monkeypatch, terminal=False, metric="eval/f1_macro", mode="max", steps_before=0):
        self.now = 1000.0
        monkeypatch.setattr(progress_module, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.file = StringIO()
        console = Console(file=self.file, width=200, force_terminal=terminal, color_system=None)
        self.progress = SweepProgress(console, 5, STEPS, Aim({metric: mode}), steps_before)
        self.entries = []

    def trial(self, name, step=0, status=None, **scores):
        entry = TrialRecord(TrialSpec(name, {}), name, ExperimentConfig(), Path("/nowhere"), status=status, step=step)
        entry.latest = {key.replace("__", "/"): value for key, value in scores.items()}
        self.entries.append(entry)
        return entry

    def lines_at(self, seconds):
        """What an update this many seconds after the start prints."""
        self.now = 1000.0 + seconds
        before = len(self.file.getvalue())
        self.progress.update(self.entries)
        return self.file.getvalue()[before:].splitlines()


@pytest.fixture
def screen(monkeypatch):
    return Screen(monkeypatch)


def test_a_sweep_from_start_to_end(screen):
    assert each_says(screen.lines_at(30), ("[30s]", "0/5 trials", "step 0/500", re.compile("starting .*30s$")))
    first = screen.trial("first", step=10)
    assert each_says(screen.lines_at(50), ("[50s]", "0/5 trials", re.compile("step 10/500$")))
    first.step, first.status, first.latest = STEPS, "finished", {"eval/f1_macro": 0.3, "final/validation_f1_macro": 0.5}
    second = screen.trial("second", step=20, eval__f1_macro=0.625)
    # 120 steps in the 40 s since the first ones were seen; 380 are left.
    assert each_says(
        screen.lines_at(90),
        ("[1m30s]", "1/5 trials", "step 120/500", "2m07s left", "best eval/f1_macro 0.625 (second)"),
    )
    second.status = "pruned"
    third = screen.trial("third", step=STEPS, status="failed")
    # A stopped trial's missing steps will not be done: 100 + 20 + 100, and 2 trials of 100 to come.
    assert each_says(
        screen.lines_at(150),
        (
            "[2m30s]",
            "3/5 trials",
            "step 220/420",
            "1 stopped",
            "1 failed",
            "1m31s left",
            "eval/f1_macro 0.625 (second)",
        ),
    )
    third.step = 7
    for name in ("fourth", "fifth"):
        screen.trial(name, step=STEPS, status="finished", final__validation_f1_macro=0.7)
    assert says(screen.lines_at(200)[0], "5/5 trials", "step 327/327", "1 stopped", "1 failed", "0.0s left")


def test_the_best_score_of_a_metric_that_should_be_small(monkeypatch):
    screen = Screen(monkeypatch, metric="eval/loss", mode="min")
    screen.trial("worse", step=5, eval__loss=0.9)
    screen.trial("better", step=5, status="finished", eval__loss=2.0, final__validation_loss=0.4)
    screen.trial("unmeasured", step=1)
    assert screen.lines_at(30)[0].endswith("; best eval/loss 0.400 (better)")


def test_a_log_is_not_flooded(screen):
    screen.trial("first", step=10)
    lines = [line for second in range(60) for line in screen.lines_at(second)]
    assert [line.partition(" ")[0] for line in lines] == ["[0.0s]", "[20s]", "[40s]"]


def test_silence_is_said_along_with_who_is_waited_for(screen):
    screen.trial("first", step=STEPS, status="finished")
    screen.trial("second", step=10)
    screen.lines_at(0)
    assert "no step" not in screen.lines_at(55)[0]
    assert says(screen.lines_at(80)[0], "no step … 1m20s … second")
    screen.entries[1].step = 11
    assert "no step" not in screen.lines_at(100)[0]


def test_a_slow_start_is_no_silence(screen):
    assert each_says(screen.lines_at(300), ("[5m00s]", "0/5 trials", "step 0/500", re.compile("starting .*5m00s$")))


def test_a_name_with_brackets_is_shown_as_it_is(screen):
    screen.trial("my_policy of=[high, low]", step=1, eval__f1_macro=0.5)
    assert screen.lines_at(30)[0].endswith("(my_policy of=[high, low])")


def test_a_terminal_shows_a_bar_with_the_same_words(monkeypatch):
    screen = Screen(monkeypatch, terminal=True)
    with screen.progress:
        screen.trial("top_k of=[high]", step=50, eval__f1_macro=0.5)
        screen.lines_at(30)
    shown = screen.file.getvalue()
    assert "0/5 trials, step 50/500" in shown
    assert "best eval/f1_macro 0.500 (top_k of=[high])" in shown
    assert "━" in shown
    assert "[30s]" not in shown


def test_what_an_earlier_driver_did_says_nothing_about_the_time_left(monkeypatch):
    screen = Screen(monkeypatch, steps_before=250)
    for name in ("first", "second"):
        screen.trial(name, step=STEPS, status="finished")
    third = screen.trial("third", step=50)
    assert each_says(screen.lines_at(30), ("[30s]", "2/5 trials", "step 250/500", re.compile("starting .*30s$")))
    third.step = 60
    screen.lines_at(50)
    third.step = 70
    # 20 steps of this driver's in the 20 s since its first ones were seen; 230 are left.
    assert each_says(screen.lines_at(70), ("[1m10s]", "2/5 trials", "step 270/500", re.compile("3m50s left$")))


def test_a_look_takes_as_long_however_many_trials_are_over(screen, monkeypatch):
    looked_at = []
    score = TrialRecord.score
    monkeypatch.setattr(
        TrialRecord, "score", lambda entry, metric: looked_at.append(entry.name) or score(entry, metric)
    )
    for number in range(3):
        screen.trial(f"over {number}", step=STEPS, status="finished", final__validation_f1_macro=number / 10).settle()
    screen.trial("runs", step=50, eval__f1_macro=0.1)
    lines = [screen.lines_at(second)[0] for second in (0, 20, 40)]
    assert "3/5 trials, step 350/500" in lines[-1]
    assert lines[-1].endswith("; best eval/f1_macro 0.200 (over 2)")
    assert looked_at == ["over 0", "over 1", "over 2", "runs", "runs", "runs"]


def test_others_may_read_what_is_expected(screen, tmp_path):
    screen.progress.folder = tmp_path / "study"
    first = screen.trial("first", step=10)
    screen.lines_at(30)
    assert read_json(tmp_path / "study" / PROGRESS, Outlook) == Outlook(5, 500, None, 0.0)
    first.step = 60
    # Not written anew at each look.
    screen.lines_at(34)
    screen.lines_at(40)
    # 50 steps in 4 s were seen to be done, and the last of them 6 s ago.
    assert read_json(tmp_path / "study" / PROGRESS, Outlook) == Outlook(5, 500, pytest.approx(440 * 10 / 60), 6.0)


def test_a_disk_that_takes_nothing_costs_no_progress(screen, monkeypatch, tmp_path):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    screen.progress.folder = tmp_path
    monkeypatch.setattr(progress_module, "write_json", fail)
    screen.trial("first", step=10)
    assert says(screen.lines_at(30)[0], "step 10/500")


def test_what_a_trial_measured_last_counts_also_if_it_is_heard_of_after_its_end(screen):
    trial = screen.trial("first", step=90, status="finished", eval__f1_macro=0.1)
    assert "step 90/490" in screen.lines_at(0)[0]
    trial.step, trial.latest = STEPS, {"final/validation_f1_macro": 0.5}
    trial.settle()
    screen.lines_at(20)
    assert screen.lines_at(40)[0].endswith("best eval/f1_macro 0.500 (first)")
