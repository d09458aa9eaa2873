"""Trials that another study has run are taken over; what is not the very same trial is not."""

from pathlib import Path

import pytest

from irtune.config.ablation_schema import AblationConfig
from irtune.config.load import with_overrides
from irtune.search.ablation_cells import cells_of, trials_of
from irtune.search.source import TrialSpec
from irtune.studies import provenance, reuse
from irtune.studies.driver import known_end
from irtune.studies.resume import write_identity
from irtune.studies.reuse import REUSED, take_over
from irtune.studies.trial_names import config_hash
from irtune.tracking.run_record import Ended, Opened, RunRecord
from irtune.training.record import RecordWriter, result_of
from irtune.workers.worker import TrialSetup

CONFIG = AblationConfig(
    name="later", ablation={"cells": {"all": {"selection.policy.name": "all"}, "lisa": {"method": "lisa"}}, "seeds": 2}
)
TRIALS = trials_of(CONFIG, cells_of(CONFIG), range(99))


@pytest.fixture(autouse=True)
def _clean_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "git_commit", lambda: "abc")
    monkeypatch.setattr(reuse, "git_commit", lambda: "abc")


def earlier(storage: Path, *specs: TrialSpec, finished: bool = True, data: str = "data", **tags: str) -> Path:
    """A study that has run these trials."""
    folder = storage / "earlier-20260101-000000"
    folder.mkdir(parents=True)
    write_identity(folder, CONFIG, data, complete=True)
    for number, spec in enumerate(specs):
        trial = folder / "trials" / f"other_{number}"
        (trial / "checkpoints").mkdir(parents=True)
        known = {"irtune.config_hash": config_hash(with_overrides(CONFIG.experiment(), spec.overrides))}
        RunRecord(trial).begin(Opened(f"earlier/{trial.name}", "x", {**known, **provenance.code_tags(), **tags}, 1))
        writer = RecordWriter(trial)
        writer.metrics(9, {"final/test_f1_macro": 0.5 + number / 10})
        if finished:
            writer.result({"final/test_f1_macro": 0.5 + number / 10})
            RunRecord(trial).finish(Ended("FINISHED", {}, None, 1))
        writer.close()
        (trial / "predictions.npz").write_bytes(b"kept")
    return folder


def taken(storage: Path) -> dict[str, str]:
    folder = storage / "later-20260102-000000"
    found = take_over(folder, CONFIG.experiment(), "data", TRIALS)
    assert [spec.name for spec in found] == [spec.name for spec in TRIALS]
    return {spec.name: spec.group[REUSED] for spec in found if REUSED in spec.group}


def test_the_same_trial_of_another_study_is_not_run_again(tmp_path: Path) -> None:
    before = earlier(tmp_path, TRIALS[0], TRIALS[3])
    assert taken(tmp_path) == {
        TRIALS[0].name: str(before / "trials" / "other_0"),
        TRIALS[3].name: str(before / "trials" / "other_1"),
    }
    setup = TrialSetup({}, tmp_path / "later-20260102-000000", dataset=None)  # type: ignore[arg-type]
    ends = [known_end(spec, setup) for spec in TRIALS]
    assert [end is not None for end in ends] == [True, False, False, True]
    copied = setup.trial_folder(TRIALS[3].name)
    assert (copied / "predictions.npz").read_bytes() == b"kept"
    assert not (copied / "checkpoints").exists()
    result = result_of(copied)
    assert result is not None
    assert result["final/test_f1_macro"] == 0.6
    # It is a run of its own, which nobody has told MLflow of.
    assert not RunRecord(copied).is_sent()


def test_what_was_taken_over_stays_on_resuming(tmp_path: Path) -> None:
    earlier(tmp_path, TRIALS[0])
    assert len(taken(tmp_path)) == 1
    (tmp_path / "later-20260102-000000" / "trials" / TRIALS[0].name / "predictions.npz").write_bytes(b"own")
    assert taken(tmp_path) == {}
    kept = tmp_path / "later-20260102-000000" / "trials" / TRIALS[0].name / "predictions.npz"
    assert kept.read_bytes() == b"own"


@pytest.mark.parametrize(
    "what", [{"finished": False}, {"data": "other"}, {"irtune.git_commit": "def"}, {"irtune.version": "0.0.9"}]
)
def test_what_is_not_the_same_is_run(tmp_path: Path, what: dict[str, str]) -> None:
    earlier(tmp_path, TRIALS[0], **what)  # type: ignore[arg-type]
    assert taken(tmp_path) == {}


def test_other_settings_are_run(tmp_path: Path) -> None:
    earlier(tmp_path, TrialSpec("x", {**TRIALS[0].overrides, "training.learning_rate": 0.123}))
    assert taken(tmp_path) == {}


def test_folders_of_others_and_uncommitted_code_are_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = earlier(tmp_path, TRIALS[0])
    folder.chmod(0o777)
    assert taken(tmp_path) == {}
    folder.chmod(0o755)
    monkeypatch.setattr(reuse, "git_commit", lambda: "abc-dirty")
    assert taken(tmp_path) == {}


def test_a_damaged_record_costs_nothing_but_its_trial(tmp_path: Path) -> None:
    folder = earlier(tmp_path, TRIALS[0], TRIALS[1])
    (folder / "trials" / "other_0" / "driver.jsonl").write_text("no json\n")
    assert list(taken(tmp_path)) == [TRIALS[1].name]
