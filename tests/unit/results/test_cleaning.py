"""``irtune clean``: what studies no longer need goes, and nothing else, once that was asked for."""

import os

import pytest
from saying import says
from study_folders import die, files_in, make_study, make_trial

from irtune.cli import main
from irtune.results import cleaning
from irtune.tracking.heartbeat import Heartbeat

KEPT = ("predictions.npz", "layer_importance.npz", "adapter/adapter_model.safetensors")


def fill(path, num_bytes=1000):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(num_bytes))


@pytest.fixture
def study(tmp_path):
    """A study that was stopped, with all that drivers and trials leave; returns its folder."""
    folder = make_study(tmp_path / "storage", complete=False)
    make_trial(folder, "baseline", [0.1], status="FAILED", error="RuntimeError: no")
    make_trial(folder, "trial_0000", [0.1])
    make_trial(folder, "trial_0001", [0.1], tags={"irtune.pruned": "true"})
    make_trial(folder, "trial_0002", [0.1], status="FAILED", error="RuntimeError: no")
    make_trial(folder, "trial_0003", [0.1], status="KILLED")
    make_trial(folder, "trial_0004", [0.1], status=None)
    for trial in (folder / "trials").iterdir():
        for name in (*KEPT, "checkpoints/step_10/optimizer.safetensors", "best/step_10.safetensors"):
            fill(trial / name)
    for name in ("report.html", "study.journal", "summary/measured.jsonl", "results/cells.csv"):
        fill(folder / name)
    for name in ("encoded/abc/tokens.npy", "encoded/prefix/states", "tune_0/state.json", "storage_check_1/token"):
        fill(folder / name)
    fill(folder / f".report.html.{'0' * 32}")
    fill(folder / "trials" / "trial_0000" / ".predictions.npz.partial")
    fill(folder / "trials" / ".trial_0005" / "measured.jsonl")
    return folder


def clean(folder, *more):
    return main(["clean", "--storage", str(folder.parent), *more])


def test_it_says_what_could_go_and_how_large_it_is(study, capsys):
    before = files_in(study)
    assert clean(study) == 0
    out = capsys.readouterr().out
    assert files_in(study) == before
    assert says(out, "encoded: … 2.0KiB", "tune_0: … 1000B", "checkpoints of trials … 2.9KiB", "--yes")


def test_what_was_measured_and_what_goes_on_stays(study, capsys):
    before = set(files_in(study))
    assert clean(study, "--yes") == 0
    gone = before - set(files_in(study))
    over = ("trial_0000", "trial_0001", "trial_0002")
    tops = {"/".join(name.split("/")[:3]) if name.startswith("trials/") else name.split("/")[0] for name in gone}
    assert tops == {
        *(f"trials/{name}/{part}" for name in over for part in ("checkpoints", "best")),
        "trials/trial_0000/.predictions.npz.partial",
        "trials/.trial_0005",
        "trials/.trial_0005/measured.jsonl",
        *("encoded", "tune_0", "storage_check_1", f".report.html.{'0' * 32}"),
    }
    assert says(capsys.readouterr().out, "removed")
    assert clean(study, "--yes") == 0
    assert says(capsys.readouterr().out, "nothing to remove")


def test_of_a_study_that_came_to_its_end_no_checkpoint_is_needed(tmp_path):
    folder = make_study(tmp_path)
    for name, status in (("baseline", "FAILED"), ("trial_0000", "KILLED")):
        fill(make_trial(folder, name, [0.1], status=status) / "checkpoints" / "step_10" / "state")
    assert clean(folder, "--yes") == 0
    assert not list(folder.glob("trials/*/checkpoints"))


def test_a_finished_trial_whose_driver_died_before_it_heard_of_it(tmp_path):
    folder = make_study(tmp_path, complete=False)
    place = make_trial(folder, "trial_0000", [0.1])
    record = (place / "driver.jsonl").read_text().splitlines()
    (place / "driver.jsonl").write_text(record[0] + "\n")
    fill(place / "checkpoints" / "step_10" / "state")
    assert clean(folder, "--yes") == 0
    assert not (place / "checkpoints").exists()


def test_a_study_on_which_somebody_is_at_work_is_left_alone(study, capsys):
    before = files_in(study)
    with Heartbeat(study):
        assert clean(study, "--yes") == 0
    assert says(capsys.readouterr().out, f"{study.name} is left alone: process {os.getpid()}")
    assert set(files_in(study)) - {".driver.lock"} == set(before) - {".driver.lock"}
    die(study, 20)
    assert clean(study, "--yes") == 0
    assert (study / "encoded").exists()
    die(study, 200)
    assert clean(study, "--yes") == 0
    assert not (study / "encoded").exists()


def test_a_driver_that_begins_meanwhile(study, monkeypatch, capsys):
    remove = cleaning.remove

    def begins(folder, found):
        with Heartbeat(folder):
            return remove(folder, found)

    monkeypatch.setattr(cleaning, "remove", begins)
    before = set(files_in(study))
    assert clean(study, "--yes") == 0
    assert says(capsys.readouterr().out, f"{study.name} is left alone: … at work")
    assert set(files_in(study)) == before | {".driver.lock"}


def test_nothing_is_reached_through_links(study, tmp_path):
    outside = tmp_path / "outside"
    fill(outside / "precious")
    for link in (study / "tune_1", study / "trials" / "trial_0000" / "best" / "link"):
        link.symlink_to(outside)
    os.rename(study / "encoded", study / "encoded_before")
    (study / "encoded").symlink_to(outside)
    os.rename(study / "trials" / "trial_0002", outside / "trial")
    (study / "trials" / "trial_0002").symlink_to(outside / "trial")
    (study.parent / "linked-20261128-101500").symlink_to(study)
    before = files_in(outside)
    assert clean(study, "--yes") == 0
    assert files_in(outside) == before
    assert (study / "encoded").is_symlink()
    assert not (study / "trials" / "trial_0000" / "best").exists()


def test_a_folder_of_trials_that_is_a_link(study, tmp_path):
    os.rename(study / "trials", tmp_path / "trials")
    (study / "trials").symlink_to(tmp_path / "trials")
    before = files_in(tmp_path / "trials")
    assert clean(study, "--yes") == 0
    assert files_in(tmp_path / "trials") == before


def test_studies_of_others_are_left_alone(study, monkeypatch, capsys):
    before = files_in(study)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert clean(study, "--yes") == 0
    assert says(capsys.readouterr().out, f"{study.name} is left alone: … another user")
    assert files_in(study) == before


def test_one_that_another_version_wrote_is_left_alone(study, capsys):
    (study / "sweep.json").write_text((study / "sweep.json").read_text().replace('"format": 2', '"format": 1'))
    before = files_in(study)
    assert clean(study, "--yes", study.name) == 0
    assert says(capsys.readouterr().out, "left alone: … format 1", "nothing to remove")
    assert files_in(study) == before


def test_what_cannot_be_removed_is_said(study, monkeypatch, capsys):
    def fail(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(cleaning.shutil, "rmtree", fail)
    assert clean(study, "--yes") == 1
    assert says(capsys.readouterr().out, f"{study / 'encoded'} could not be removed … permissions")
