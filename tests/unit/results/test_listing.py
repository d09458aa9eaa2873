"""``irtune list``: the studies of a storage, a line each."""

import os
from datetime import datetime

from saying import says
from study_folders import die, make_study, make_trial

from irtune.cli import main
from irtune.config.ablation_schema import AblationConfig
from irtune.config.run_schema import RunConfig
from irtune.files import write_json
from irtune.studies.progress import PROGRESS, Outlook
from irtune.tracking.heartbeat import Heartbeat

CELLS = {"all": {"selection.policy.name": "all"}, "few": {"method": "lisa"}}


def lines(storage, capsys):
    """The line of each study, by name."""
    assert main(["list", str(storage)]) == 0
    out = capsys.readouterr().out
    return {line.split()[0]: line for line in out.splitlines() if line.split() and line.split()[0][-1].isdigit()}, out


def test_kinds_and_states_and_what_is_best(tmp_path, capsys):
    done = make_study(tmp_path, "done-20261128-101501")
    make_trial(done, "baseline", [0.5])
    make_trial(done, "trial_0000", [0.7])
    # One that was stopped early is no candidate.
    make_trial(done, "trial_0001", [0.9], tags={"irtune.pruned": "true"})
    (done / "encoded").mkdir()
    (done / "encoded" / "tokens").write_bytes(bytes(3 * 2**20))
    dead = make_study(tmp_path, "dead-20261128-101502", kind=AblationConfig, complete=False, ablation={"cells": CELLS})
    make_trial(dead, "all_seed_0", [0.4])
    make_trial(dead, "few_seed_0", [0.8], status=None)
    die(dead, 200)
    stopped = make_study(tmp_path, "stopped-20261128-101503", kind=RunConfig, complete=False)
    make_trial(stopped, "run", [0.6], status="KILLED")
    runs = make_study(tmp_path, "runs-20261128-101504", complete=False, metric="loss", tune={"metric": "eval/loss"})
    write_json(runs / PROGRESS, Outlook(12, 360, 725.0, 3.0))
    with Heartbeat(runs):
        found, _ = lines(tmp_path, capsys)
    assert says(found[done.name], "sweep … finished … 3/3 … eval/f1_macro 0.700 … trial_0000 … 3.0MiB")
    assert says(found[dead.name], "ablation … dead … 1/2 … eval/f1_macro 0.400 … all_seed_0")
    assert says(found[stopped.name], "run … stopped … 0/1 … – … –")
    assert says(found[runs.name], "sweep … running … 0/12 … –")


def test_the_last_one_written_is_the_last_one_shown(tmp_path, capsys):
    for name, then_s in (("a-20261128-101501", 2_000_000), ("b-20261128-101502", 1_000_000)):
        place = make_trial(make_study(tmp_path, name), "baseline", [0.5])
        for file in (*place.iterdir(), tmp_path / name / "sweep.json"):
            os.utime(file, (then_s, then_s))
    found, _ = lines(tmp_path, capsys)
    assert list(found) == ["b-20261128-101502", "a-20261128-101501"]
    assert says(found["a-20261128-101501"], f"{datetime.fromtimestamp(2_000_000):%Y-%m-%d %H:%M}")


def test_a_narrow_terminal_has_whole_words_still(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    make_trial(make_study(tmp_path), "baseline", [0.5])
    assert main(["list", str(tmp_path)]) == 0
    assert says(capsys.readouterr().out, "state", "finished", "1/1", "0.500")


def test_what_cannot_be_read_is_said_and_holds_up_nothing(tmp_path, capsys):
    make_study(tmp_path, "good-20261128-101501")
    damaged = make_study(tmp_path, "bad-20261128-101502")
    (damaged / "sweep.json").write_text("{")
    found, out = lines(tmp_path, capsys)
    assert says(found[damaged.name], "unreadable")
    assert says(found["good-20261128-101501"], "finished … 0/0")
    assert says(out, f"{damaged / 'sweep.json'}: is damaged")


def test_a_storage_without_studies(tmp_path, capsys):
    assert main(["list", str(tmp_path / "nowhere")]) == 2
    assert says(capsys.readouterr().err, f"no study lies under {tmp_path / 'nowhere'}")
