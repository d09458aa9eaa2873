"""``irtune watch``: what one sees of a study, from its files alone, whoever is or was at work on it."""

import io
import os
from types import SimpleNamespace

import pytest
from rich.console import Console
from saying import refused, says
from study_folders import choose, die, files_in, make_study, make_trial

from irtune.cli import main
from irtune.files import write_json
from irtune.results import watch as watch_module
from irtune.results.followed import FollowedStudy
from irtune.results.watch import picture, watch
from irtune.studies.progress import PROGRESS, Outlook
from irtune.tracking.heartbeat import Heartbeat
from irtune.tracking.run_record import RunRecord
from irtune.training.record import MEASURED, RecordWriter


@pytest.fixture
def study(tmp_path):
    return make_study(tmp_path, complete=False)


def shown(folder, *, once=True, terminal=False, encoding="utf-8", **options):
    """What is printed, and the exit status."""
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, errors="replace")
    console = Console(file=file, width=150, height=40, force_terminal=terminal, color_system=None, **options)
    status = watch(folder, console, once=once)
    file.flush()
    return raw.getvalue().decode(encoding), status


def row(text, name):
    """The cells of a trial's row."""
    (line,) = [line for line in text.splitlines() if line.split()[:1] == [name] and "/30" in line]
    return line.split()


def test_a_study_that_came_to_its_end(tmp_path, capsys):
    folder = make_study(tmp_path)
    make_trial(folder, "baseline", [0.1, 0.2], active=(0, 1, 2, 3))
    make_trial(folder, "trial_0000", [0.1, 0.8], began_ms=2_000)
    make_trial(folder, "trial_0001", [0.1], tags={"irtune.pruned": "true"}, began_ms=3_000)
    assert main(["watch", "tiny", "--storage", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert says(
        text, f"{folder.name}, sweep, finished", "3/3 trials … 1 stopped", "best eval/f1_macro 0.800 (trial_0000)"
    )
    assert row(text, "baseline")[-5:] == ["finished", "20/30", "▁▂", "0.200", "████"]
    assert row(text, "trial_0000")[-3:] == ["▁█", "0.800", "█··█"]
    assert says(" ".join(row(text, "trial_0001")), "stopped early")


def test_why_trials_failed_is_said_in_a_line_each(study):
    make_trial(study, "baseline", [0.1])
    make_trial(study, "trial_0000", status="FAILED", error="Traceback:\n  line\nRuntimeError: out of \x1b[31mmemory\n")
    (study / "trials" / "trial_0001").mkdir()
    (study / "trials" / "trial_0001" / "driver.jsonl").write_text("{}\n")
    text, _ = shown(study)
    assert says(text, "1 failed", "trial_0000 failed: RuntimeError: out of memory")
    assert says(text, "trial_0001 cannot be read: … line 1 … delete it")
    assert "Traceback" not in text
    assert "\x1b" not in text


def test_a_running_study_says_how_long_it_takes_as_its_driver_does(study):
    make_trial(study, "trial_0000", [0.1], status=None)
    write_json(study / PROGRESS, Outlook(12, 360, 725.0, 3.0))
    with Heartbeat(study):
        text, _ = shown(study)
        assert says(
            text, f"running: process {os.getpid()}", "0/12 trials, step 10/360, 12m05s left", "0.100 (trial_0000)"
        )
        assert "No step" not in text
        write_json(study / PROGRESS, Outlook(12, 360, 725.0, 200.0))
        assert says(shown(study)[0], "No step for 3m20s")
    # Nobody will do what its driver expected.
    assert "left" not in shown(study)[0]


def test_a_driver_that_was_killed_on_another_host(study):
    make_trial(study, "trial_0000", [0.1], status=None)
    die(study, 200)
    text, status = shown(study, once=False)
    assert says(text, "sweep, dead", "process 4711 on elsewhere … killed: no sign of life for 3m20s", "--resume")
    assert says(" ".join(row(text, "trial_0000")), "killed")
    assert status == 1
    die(study, 20)
    assert says(shown(study)[0], "sweep, running: process 4711 on elsewhere")


def test_a_study_that_was_stopped_in_order(study):
    make_trial(study, "trial_0000", [0.1], status="KILLED")
    text, status = shown(study, once=False)
    assert says(text, "sweep, stopped", "--resume")
    assert "failed" not in text
    assert status == 1


def test_lines_that_are_being_written_are_left_for_the_next_look(study):
    place = make_trial(study, "trial_0000", [0.1], status=None)
    followed = FollowedStudy(study)
    whole = (place / MEASURED).read_bytes()
    line = whole.splitlines()[-1].replace(b'"step":10', b'"step":20').replace(b"0.1", b"0.4")
    for name, torn in ((MEASURED, line), ("driver.jsonl", b'{"kind":"ended","sta')):
        with (place / name).open("ab") as file:
            file.write(torn)
    (trial,) = followed.look().trials
    assert (trial.step, trial.damage, trial.status) == (10, None, None)
    with (place / MEASURED).open("ab") as file:
        file.write(b"\n")
    (trial,) = followed.look().trials
    assert (trial.step, trial.curve) == (20, {10: 0.1, 20: 0.4})


def test_trials_that_begin_later_and_attempts_that_begin_anew(study):
    make_trial(study, "trial_0000", [0.1, 0.2], status=None)
    followed = FollowedStudy(study)
    assert [trial.name for trial in followed.look().trials] == ["trial_0000"]
    place = make_trial(study, "trial_0001", [0.3, 0.4], status=None, began_ms=2_000)
    (study / "trials" / ".trial_0002").mkdir()
    again = RecordWriter(place)
    choose(again, 10, (1, 2))
    again.metrics(10, {"eval/f1_macro": 0.5})
    again.attempt = 0
    again.metrics(30, {"eval/f1_macro": 0.9})
    first, second = followed.look().trials
    assert (first.curve, first.active) == ({10: 0.1, 20: 0.2}, (0, 3))
    assert (second.curve, second.active) == ({10: 0.5, 20: 0.4}, (1, 2))


def test_what_went_on_after_it_was_killed_is_running(study):
    place = make_trial(study, "trial_0000", [0.1], status="KILLED")
    followed = FollowedStudy(study)
    with Heartbeat(study):
        assert says(shown(study)[0], "killed")
        assert followed.look().tally.over == 0
        RunRecord(place).begin(RunRecord(place).start())
        assert not followed.look().trials[0].was_killed
        assert says(" ".join(row(shown(study)[0], "trial_0000")), "running")


def test_nothing_is_written(study, capsys):
    make_trial(study, "trial_0000", [0.1], status=None)
    die(study, 10)
    before = files_in(study.parent)
    assert main(["watch", str(study), "--once"]) == 0
    assert main(["list", str(study.parent)]) == 0
    assert main(["clean", "--storage", str(study.parent)]) == 0
    assert files_in(study.parent) == before
    assert says(capsys.readouterr().out, "0.100")


class Screen:
    """Whoever watches while time passes: every look comes after what ``meanwhile`` does at its turn."""

    def __init__(self, monkeypatch, *meanwhile):
        self.now, self.left = 1000.0, list(meanwhile)
        monkeypatch.setattr(watch_module, "time", SimpleNamespace(monotonic=lambda: self.now, sleep=self.sleep))

    def sleep(self, seconds):
        self.now += seconds
        self.left.pop(0)()


@pytest.mark.parametrize("terminal", [True, False])
def test_it_is_followed_to_its_end(study, monkeypatch, terminal):
    place = make_trial(study, "trial_0000", [0.1], status=None)
    heart = Heartbeat(study)
    writer = RecordWriter(place)

    def end():
        writer.metrics(20, {"eval/f1_macro": 0.7})
        make_study(study.parent / "other", study.name)
        os.replace(study.parent / "other" / study.name / "sweep.json", study / "sweep.json")
        heart.__exit__()

    heart.__enter__()
    Screen(monkeypatch, lambda: None, end)
    text, status = shown(study, once=False, terminal=terminal)
    assert status == 0
    assert says(text, "running", "finished", "0.700 (trial_0000)")
    assert ("\x1b[" in text) is terminal


def test_what_is_printed_elsewhere_comes_with_changes_and_not_too_often(study, monkeypatch):
    writer = RecordWriter(make_trial(study, "trial_0000", [0.1], status=None))
    steps = iter(range(11, 99))
    moves = [lambda: writer.metrics(next(steps), {})] * 25 + [lambda: None] * 30

    def interrupt():
        raise KeyboardInterrupt

    with Heartbeat(study):
        Screen(monkeypatch, *moves, interrupt)
        text, status = shown(study, once=False)
    assert status == 130
    # At the start, after 20 s and 40 s, and once for what came in the ten seconds before nothing moved any more.
    assert [line.split(", ")[1] for line in text.splitlines() if "0/1 trials" in line] == [
        "step 10; best eval/f1_macro 0.100 (trial_0000)",
        "step 20; best eval/f1_macro 0.100 (trial_0000)",
        "step 30; best eval/f1_macro 0.100 (trial_0000)",
        "step 35; best eval/f1_macro 0.100 (trial_0000)",
    ]


def test_of_many_trials_those_that_run_are_shown(study):
    for index in range(9):
        make_trial(study, f"trial_{index}", [0.1], status=None if index == 1 else "FINISHED", began_ms=1_000 + index)
    followed, console = FollowedStudy(study), Console(file=io.StringIO(), width=150)
    with Heartbeat(study):
        console.print(picture(followed, followed.look(), console, 3))
    text = console.file.getvalue()
    rows = [line.split()[0] for line in text.splitlines() if line.startswith(("trial_", " trial_"))]
    assert rows == ["trial_1", "trial_7", "trial_8"]
    assert says(text, "and 6 more trials")


def test_a_terminal_without_utf_8(study):
    make_trial(study, "trial_0000", [0.1, 0.9], status=None)
    text, _ = shown(study, encoding="ascii")
    assert says(text, ".@", "#..#")


def test_a_study_of_somebody_else_may_be_watched(study, monkeypatch, capsys):
    make_trial(study, "trial_0000", [0.1])
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert main(["watch", str(study), "--once"]) == 0
    assert says(capsys.readouterr().out, "trial_0000")


def test_what_is_no_study_is_refused(tmp_path, capsys):
    make_study(tmp_path)
    assert main(["watch", "tniy", "--storage", str(tmp_path)]) == 2
    assert says(capsys.readouterr().err, "no study 'tniy'", "tiny-20261128-101500")


def test_a_storage_that_stumbles_is_looked_at_again(study, monkeypatch):
    def fail(followed):
        raise OSError(5, "Input/output error")

    def recover():
        monkeypatch.setattr(FollowedStudy, "look", look)
        heart.__exit__()

    look, heart = FollowedStudy.look, Heartbeat(study)
    heart.__enter__()
    Screen(monkeypatch, lambda: monkeypatch.setattr(FollowedStudy, "look", fail), recover)
    text, status = shown(study, once=False)
    assert says(text, "sweep, running", "sweep, stopped")
    assert status == 1


def test_a_study_that_is_gone(study, monkeypatch):
    Screen(monkeypatch, lambda: os.rename(study, study.with_name("elsewhere")))
    with Heartbeat(study), refused(ValueError, f"{study}: is gone"):
        shown(study, once=False)
