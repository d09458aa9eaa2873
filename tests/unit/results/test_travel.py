"""A study from its folder into one file, and from there to another storage."""

import errno
import io
import json
import os
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from recorded_studies import DATA, SWEEP, TREE, all_blocks, begun, cell, predicted, trial
from rich.console import Console
from saying import refused, says

from irtune.cli import main
from irtune.config.load import build
from irtune.config.sweep_schema import SweepConfig
from irtune.results import control, recommend, travel
from irtune.results.archive import Archive, ArchiveError
from irtune.results.travel import export_study, import_study, travels
from irtune.search.optuna_source import STUDY
from irtune.studies import ablation_claims, ablation_files, conclusion, plan, single_run
from irtune.studies.artifacts import HEAT_MAP, TRACE
from irtune.studies.recorded import StudyError, aim_of, best_trial, find_study, finished_trials
from irtune.studies.resume import IDENTITY, known_studies, read_identity, sweep_to_resume
from irtune.studies.single_run import config_from
from irtune.tracking.heartbeat import Heartbeat
from irtune.tracking.run_record import Ended, RunRecord
from irtune.tracking.trace import read_trace
from irtune.training.adapter_notes import NOTES
from irtune.training.out_of_memory import OUT_OF_MEMORY
from irtune.training.predictor import WEIGHTS
from irtune.training.record import ADAPTER, RecordReader
from irtune.training.standalone import README, SCRIPT
from irtune.training.trial_folder import PREDICTIONS

NAME = "tiny-20261127-230158"
DOCS = Path(__file__).parents[3] / "docs" / "travel.md"


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("IRTUNE_HOME", str(tmp_path / "home"))


@pytest.fixture
def study(tmp_path):
    """A sweep of three trials, one of which was stopped, one failed, with what its machine left beside."""
    folder = begun(tmp_path / "there" / NAME, SweepConfig)
    best = trial(folder, "trial_0000", 0.8, measured={"final/test_f1_macro": 0.75})
    predicted(best, 0.75)
    (best / "adapter").mkdir()
    (best / "adapter" / "adapter_model.safetensors").write_bytes(os.urandom(2000))
    (best / "adapter" / "irtune.json").write_text("{}")
    stopped = trial(folder, "trial_0001", 0.3, finished=False)
    RunRecord(stopped).finish(Ended("FINISHED", {"irtune.pruned": "true"}, None, 0))
    failed = trial(folder, "trial_0002", 0.3, finished=False)
    RunRecord(failed).finish(Ended("FAILED", {"irtune.pruned": "false"}, "out of luck", 0))
    RunRecord(best).mark_sent("run-1", "http://mlflow.example:5000", 1, 0)
    for left in ("encoded/x/train.token_ids.npy", "tune_0/tuner.pkl", "tracking.json", ".driver.lock", "secrets.env"):
        (folder / left).parent.mkdir(parents=True, exist_ok=True)
        (folder / left).write_text("of this machine")
    (best / "checkpoints" / "step_000010").mkdir(parents=True)
    (best / "checkpoints" / "step_000010" / "optimizer.safetensors").write_bytes(b"x")
    (folder / "study.journal").write_text('{"op_code": 0}\n')
    return folder


@pytest.fixture
def there(study):
    return study.parent


def exported(study, out, **options):
    export_study(NAME, out, study.parent, **options)
    with zipfile.ZipFile(out) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def files(folder):
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


def test_what_travels_and_what_stays(study, tmp_path):
    found = exported(study, tmp_path / "out.zip")
    of_best = {"measured.jsonl", "driver.jsonl", "predictions.npz", "trace.npz"}
    of_best |= {"adapter/adapter_model.safetensors", "adapter/irtune.json"}
    expected = {f"trials/trial_0000/{name}" for name in of_best}
    for other in ("trial_0001", "trial_0002"):
        expected |= {f"trials/{other}/{name}" for name in ("measured.jsonl", "driver.jsonl", "trace.npz")}
    assert found.keys() == expected | {"sweep.json", "study.journal", "trials.parquet", "manifest.json"}
    manifest = json.loads(found["manifest.json"])
    assert (manifest["format"], manifest["name"], manifest["kind"]) == (1, NAME, "sweep")
    assert manifest["files"].keys() == found.keys() - {"manifest.json"}
    without = exported(study, tmp_path / "small.zip", adapters=False)
    assert found.keys() - without.keys() == {name for name in found if "/adapter/" in name}
    # Equal studies are equal files.
    exported(study, tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == (tmp_path / "out.zip").read_bytes()


def test_every_file_that_irtune_makes_of_a_study_travels():
    made = [IDENTITY, STUDY, plan.PLAN, ablation_claims.CLAIMS, single_run.SETTINGS, control.FILE, control.RESULT]
    made += [conclusion.REPORT, conclusion.TABLE, conclusion.BEST, conclusion.FIGURE, conclusion.PARETO]
    made += [conclusion.FINALISTS_FIGURE, f"{ablation_files.RESULTS}/cells.tex", f"{ablation_files.RESULTS}/cells.pdf"]
    made += [recommend.YAML, recommend.PYTHON, recommend.CARD, recommend.PICTURE, "tuning/few.journal"]
    of_trial = [PREDICTIONS, TRACE, HEAT_MAP, OUT_OF_MEMORY, "measured.jsonl", "driver.jsonl"]
    of_trial += [f"{ADAPTER}/{name}" for name in (NOTES, WEIGHTS, README, SCRIPT, "adapter_config.json")]
    made += [f"trials/few_seed_0/{name}" for name in of_trial] + [f"{conclusion.SUMMARY}/measured.jsonl"]
    assert [path for path in made if not travels(path)] == []
    assert travel.TRACE == TRACE


def test_an_imported_study_is_the_study(study, there, tmp_path, capsys):
    out, here = tmp_path / "out.zip", tmp_path / "here"
    assert main(["export", NAME, str(out), "--storage", str(there)]) == 0
    told = capsys.readouterr().out
    assert says(told, f"wrote {out}", f"sweep {NAME}", "not come to its end", "3 trials", "--resume", "checkpoints")
    assert main(["import", str(out), "--storage", str(here)]) == 0
    assert says(capsys.readouterr().out, f"wrote {here / NAME}", "3 trials", "--resume", "checkpoints")
    shutil.rmtree(there)

    folder = find_study("tiny", here)
    assert folder == here / NAME
    assert [path.name for path in here.iterdir()] == [NAME]
    trials, num_others = finished_trials(folder)
    assert [one.name for one in trials] == ["trial_0000"]
    assert num_others == 2
    assert trials[0].choices().last.tolist() == [True, False, False, False, False, True]
    aim = aim_of(read_identity(folder).settings)
    assert best_trial(folder, trials, aim).name == "trial_0000"
    # Trained again, it lies beside the study, and not where the other machine had its storage.
    config, of = config_from("tiny:trial_0000", here, {"training.max_steps": 20})
    assert (config.storage, config.training.max_steps, of) == (str(here), 20, folder / "trials" / "trial_0000")
    # It is gone on with as one of this machine, and MLflow here is told of all of it.
    sweep = build(SweepConfig, TREE | SWEEP | {"storage": str(here)}, "x")
    assert sweep_to_resume(sweep, DATA, "always", source="x", console=Console()) == folder
    assert not RunRecord(folder / "trials" / "trial_0000").is_sent()


def test_an_ablation_and_what_is_recommended_of_it(tmp_path):
    folder = begun(tmp_path / "there" / NAME)
    all_blocks(folder)
    cell(folder, "few", [0.5, 0.7])
    export_study(str(folder), tmp_path / "out.zip", tmp_path)
    imported = import_study(tmp_path / "out.zip", tmp_path / "here")
    assert imported.manifest.kind == "ablation"
    before, after = (recommend.recommend(str(one), tmp_path)[1] for one in (folder, imported.folder))
    assert after.advice == before.advice
    # What was imported is exported again, and is the same file.
    export_study(str(imported.folder), tmp_path / "again.zip", tmp_path)
    assert (tmp_path / "again.zip").read_bytes() == (tmp_path / "out.zip").read_bytes()


def test_the_trace_is_as_it_is_documented(study, tmp_path):
    found = exported(study, tmp_path / "out.zip")
    table = DOCS.read_text(encoding="utf-8").split("## trace.npz")[1].split("\n## ")[0]
    documented = dict(re.findall(r"^\| `(\w+)` \| \((R(?:, L)?),?\) \| (?:\w+) \|", table, flags=re.MULTILINE))
    types = dict(re.findall(r"^\| `(\w+)` \| \(.*?\) \| (\w+) \|", table, flags=re.MULTILINE))
    with np.load(io.BytesIO(found["trials/trial_0000/trace.npz"]), allow_pickle=False) as trace:
        assert {name: "R" if trace[name].ndim == 1 else "R, L" for name in trace} == documented
        assert {name: str(trace[name].dtype) for name in trace} == types
        assert trace["active"].shape == (2, 6)
        for name, array in read_trace(study / "trials" / "trial_0000").items():
            np.testing.assert_array_equal(trace[name], array)


def test_every_trial_is_in_the_table(study, tmp_path):
    table = pd.read_parquet(io.BytesIO(exported(study, tmp_path / "out.zip")["trials.parquet"])).set_index("trial")
    assert dict(table["status"]) == {"trial_0000": "finished", "trial_0001": "pruned", "trial_0002": "failed"}
    assert table.loc["trial_0002", "error"] == "out of luck"
    assert table.loc["trial_0000", "final/test_f1_macro"] == 0.75
    assert np.isnan(table.loc["trial_0001", "final/test_f1_macro"])
    assert set(table["selection.policy.k"]) == {2}
    assert set(table["training.max_steps"]) == {10}
    assert set(table["irtune.data.fingerprint"]) == {DATA}


def test_secrets_do_not_travel(study, there, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "planted-variable-1")
    secrets = ["planted-variable-1", "planted-login-2", "hf_plantedtokenplantedtoken3", "planted-password-4"]
    address = "https://me:planted-login-2@mlflow.example/?x=1"
    failed = study / "trials" / "trial_0002"
    with (failed / "measured.jsonl").open("a") as opened:
        line = {
            "kind": "tags",
            "attempt": 0,
            "time_ms": 1,
            "values": {"a": address, "b": "x@y", "password": secrets[3]},
        }
        opened.write(json.dumps(line, separators=(",", ":")) + "\n")
    RunRecord(failed).finish(Ended("FAILED", {}, f"token={secrets[0]} {secrets[2]}", 0))
    image = "data:image/png;base64,AKIA" + "A" * 40
    (study / "report.html").write_text(f'<p>{address} {secrets[2]}</p><img src="{image}">')
    (study / "best.yaml").write_text(f"tracking:\n  uri: {address}\n")
    out = tmp_path / "out.zip"
    assert main(["export", NAME, str(out), "--storage", str(there)]) == 0
    with zipfile.ZipFile(out) as archive:
        found = {name: archive.read(name) for name in archive.namelist()}
    assert [(name, one) for name, text in found.items() for one in secrets if one.encode() in text] == []
    table = pd.read_parquet(io.BytesIO(found["trials.parquet"])).to_csv()
    assert "***" in table
    assert [one for one in secrets if one in table] == []
    assert image.encode() in found["report.html"]
    for line in found["trials/trial_0002/measured.jsonl"].splitlines():
        json.loads(line)
    told = capsys.readouterr().out
    changed = ("report.html", "best.yaml", "trials/trial_0002/measured.jsonl", "trials/trial_0002/driver.jsonl")
    assert says(told, *(f"note: {name}: secrets" for name in changed))
    # An address of MLflow with which nothing is wrong stays behind too.
    assert not [name for name, text in found.items() if b"mlflow.example:5000" in text]


def test_what_a_link_leads_to_does_not_travel(study, tmp_path, caplog):
    (tmp_path / "private").write_text("a private key")
    (study / "best.yaml").symlink_to(tmp_path / "private")
    (study / "results").symlink_to(tmp_path)
    (study / "run.yaml").hardlink_to(tmp_path / "private")
    shutil.rmtree(study / "trials" / "trial_0000" / "adapter")
    (study / "trials" / "trial_0000" / "adapter").symlink_to(tmp_path)
    (tmp_path / "irtune.json").write_text("a private key")
    (tmp_path / "cells.csv").write_text("a private key")
    found = exported(study, tmp_path / "out.zip")
    assert not [name for name, content in found.items() if b"private" in content]
    assert says(caplog.text, "best.yaml does not travel", "run.yaml does not travel", "irtune.json does not travel")


def test_a_study_in_which_nothing_has_run(tmp_path):
    folder = begun(tmp_path / "there" / NAME, SweepConfig)
    assert exported(folder, tmp_path / "out.zip").keys() == {"sweep.json", "trials.parquet", "manifest.json"}
    assert import_study(tmp_path / "out.zip", tmp_path / "here").num_trials == 0


def test_a_study_that_runs_is_not_exported(study, tmp_path):
    with Heartbeat(study), refused(StudyError, NAME, "is running", "wait"):
        export_study(NAME, tmp_path / "out.zip", study.parent)
    assert not (tmp_path / "out.zip").exists()


def test_a_driver_that_begins_meanwhile_ends_the_export(study, tmp_path, monkeypatch):
    answers = iter([False, True])
    monkeypatch.setattr(travel, "is_live", lambda folder: next(answers))
    with refused(StudyError, "is running"):
        export_study(NAME, tmp_path / "out.zip", study.parent)
    assert not list(tmp_path.glob("*.zip*")) + list(tmp_path.glob(".*"))


def test_a_place_that_is_taken_or_cannot_be_written(study, there, tmp_path, capsys):
    out = tmp_path / "out.zip"
    out.write_text("mine")
    with refused(ArchiveError, str(out), "is there already"):
        export_study(NAME, out, there)
    assert out.read_text() == "mine"
    with refused(ArchiveError, "cannot be written"):
        export_study(NAME, out / "under" / "a file.zip", there)
    (tmp_path / "link.zip").symlink_to(tmp_path / "nowhere")
    with refused(ArchiveError, "is there already"):
        export_study(NAME, tmp_path / "link.zip", there)
    assert main(["export", "nothing", str(tmp_path / "b.zip"), "--storage", str(there)]) == 2
    assert says(capsys.readouterr().err, "nothing", NAME)
    assert not (tmp_path / "b.zip").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_an_export_that_is_broken_off_leaves_nothing(study, tmp_path, monkeypatch, error):
    def breaks(trials):
        raise error

    monkeypatch.setattr(travel, "_as_parquet", breaks)
    before = files(tmp_path)
    with pytest.raises(ArchiveError if isinstance(error, OSError) else KeyboardInterrupt):
        export_study(NAME, tmp_path / "out.zip", study.parent)
    assert files(tmp_path) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_an_import_that_is_broken_off_leaves_nothing(study, tmp_path, monkeypatch, error):
    export_study(NAME, tmp_path / "out.zip", study.parent)
    whole, num_read = Archive._chunks, []

    def breaks(self, path):
        num_read.append(path)
        # All are read once before any is written.
        if num_read.count("trials/trial_0001/measured.jsonl") == 2:
            raise error
        return whole(self, path)

    monkeypatch.setattr(Archive, "_chunks", breaks)
    with pytest.raises(ArchiveError if isinstance(error, OSError) else KeyboardInterrupt):
        import_study(tmp_path / "out.zip", tmp_path / "here")
    assert list((tmp_path / "here").iterdir()) == []


def test_what_a_killed_import_left_is_no_study(study, tmp_path):
    export_study(NAME, tmp_path / "out.zip", study.parent)
    here = tmp_path / "here"
    shutil.copytree(study, here / f".{NAME}.partial")
    assert known_studies(here) == []
    with refused(StudyError, "no study 'tiny'"):
        find_study("tiny", here)
    import_study(tmp_path / "out.zip", here)
    assert [path.name for path in here.iterdir()] == [NAME]


def test_an_import_writes_over_nothing(study, there, tmp_path):
    out = tmp_path / "out.zip"
    export_study(NAME, out, there)
    before = {name: path.read_bytes() for name, path in files(there).items()}
    with refused(ArchiveError, str(study), "lies there already", "--storage"):
        import_study(out, there)
    assert {name: path.read_bytes() for name, path in files(there).items()} == before
    here = tmp_path / "here"
    here.mkdir()
    (here / NAME).symlink_to(tmp_path / "nowhere")
    with refused(ArchiveError, "lies there already"):
        import_study(out, here)
    with refused(ArchiveError, "cannot be written"):
        import_study(out, out / "under a file")


def test_there_is_no_room_for_it(study, tmp_path, monkeypatch):
    export_study(NAME, tmp_path / "out.zip", study.parent)
    monkeypatch.setattr(travel.shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(100, 90, 10))
    with refused(ArchiveError, "10 are free", "--storage"):
        import_study(tmp_path / "out.zip", tmp_path / "here")
    assert not (tmp_path / "here").exists()


def test_records_are_read_as_before(study, tmp_path):
    export_study(NAME, tmp_path / "out.zip", study.parent)
    imported = import_study(tmp_path / "out.zip", tmp_path / "here").folder
    for name, path in files(study / "trials").items():
        if path.name == "measured.jsonl":
            assert (imported / "trials" / name).read_bytes() == path.read_bytes()
    here, there = (RunRecord(one / "trials" / "trial_0002") for one in (imported, study))
    assert (here.start(), here.end()) == (there.start(), there.end())
    assert len(list(RecordReader(imported / "trials" / "trial_0000"))) == 6
