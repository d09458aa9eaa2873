"""A study that was stopped on one machine goes on on another, to the numbers of one that was not."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sweeps import SweepRun, kill_when, run_sweep, start_sweep

from irtune.results.travel import export_study, import_study
from irtune.results.trial_frame import trial_frame
from irtune.studies.recorded import recorded_trials
from irtune.studies.resume import read_identity
from irtune.training.record import RecordReader

SETTINGS = (
    "tests/support/tiny_ablation.yaml",
    "data.name=file",
    "data.text_column=text",
    "training.max_steps=6",
    "ablation.factors={}",
    "ablation.cells={all: {selection.policy.name: all}, few: {selection.policy.name: top_k, selection.policy.k: 2}}",
    "ablation.matched=tuning_budget",
    "ablation.tuning={num_trials: 2, space: {training.learning_rate: {type: float, low: 1e-3, high: 1e-2}}}",
)
NUM_TUNING, NUM_TRIALS = 4, 8
EXACT = ["trial", "status", "step", "seed", "training.learning_rate", "cost/total_flops", "train/loss"]


def settings(rows: Path) -> tuple[str, ...]:
    """The settings of the study, with its data at ``rows``."""
    words = [["dull", "poor", "grey"], ["bright", "fine", "gay"]]
    lines = [f"{words[i % 2][i % 3]} {words[i % 2][i % 5 % 3]} day {i},{i % 2}" for i in range(120)]
    rows.parent.mkdir()
    rows.write_text("text,label\n" + "\n".join(lines) + "\n")
    return (*SETTINGS, f"data.path={rows}")


def table(folder: Path) -> pd.DataFrame:
    """What every trial of a study measured that is no time and no memory."""
    found = trial_frame(recorded_trials(folder))
    scores = sorted(column for column in found if column.startswith(("eval/", "final/")))
    return found[[*EXACT, *scores]]


def records(folder: Path) -> dict[str, list[dict[str, Any]]]:
    return {trial.name: list(RecordReader(trial)) for trial in (folder / "trials").iterdir()}


def has_ended(trial: Path) -> bool:
    return '"ended"' in (trial / "driver.jsonl").read_text()


@dataclass(frozen=True)
class Travelled:
    """A study that has gone on, and its records as they were when it was stopped, by trial."""

    study: SweepRun
    before: dict[str, list[dict[str, Any]]]
    ended: set[str]


@pytest.fixture(scope="module")
def travelled(tmp_path_factory: pytest.TempPathFactory) -> Travelled:
    there, here = tmp_path_factory.mktemp("there"), tmp_path_factory.mktemp("here")
    driver = start_sweep(there / "storage", *settings(there / "data" / "rows.csv"), job="ablate.py")

    def one_is_in_the_middle() -> bool:
        begun = [file.parent for file in there.glob("storage/*/trials/*/driver.jsonl")]
        is_open = [any("train/loss" in one.get("values", ()) for one in RecordReader(trial)) for trial in begun]
        ended = [has_ended(trial) for trial in begun]
        return sum(ended) > NUM_TUNING and any(open_ and not end for open_, end in zip(is_open, ended, strict=True))

    kill_when(driver, one_is_in_the_middle)
    (stopped,) = there.glob("storage/tiny-ablation-*")
    assert not export_study(str(stopped), there / "study.zip", there).complete
    folder = import_study(there / "study.zip", here / "storage").folder
    ended = {trial.name for trial in (folder / "trials").iterdir() if has_ended(trial)}
    before = records(folder)
    stopped.rename(there / "gone")
    moved = settings(here / "data" / "moved.csv")
    study = run_sweep(here / "storage", *moved, "--resume", job="ablate.py")
    assert study.status == 0, study.output
    return Travelled(study, before, ended)


def test_all_trials_are_as_those_of_a_study_that_was_not_stopped(travelled: Travelled, tmp_path: Path) -> None:
    whole = run_sweep(tmp_path / "storage", *settings(tmp_path / "data" / "rows.csv"), job="ablate.py")
    assert whole.status == 0, whole.output
    expected = table(whole.folder)
    assert len(expected) == NUM_TRIALS
    pd.testing.assert_frame_equal(table(travelled.study.folder), expected, check_exact=True)
    assert read_identity(travelled.study.folder).complete


def test_what_had_ended_is_not_run_again_and_the_rest_begins_anew(travelled: Travelled) -> None:
    assert len(travelled.ended) > NUM_TUNING
    after = records(travelled.study.folder)
    for name in travelled.ended:
        assert after[name] == travelled.before[name]
    for name in after.keys() - travelled.ended:
        losses = [one for one in after[name] if one["kind"] == "metrics" and "train/loss" in one["values"]]
        last = max(one["attempt"] for one in losses)
        assert [one["step"] for one in losses if one["attempt"] == last] == list(range(1, 7))


def test_the_mlflow_of_this_machine_has_every_trial_once(travelled: Travelled) -> None:
    study = travelled.study
    runs = [*study.runs("tuning"), *study.runs("cell")]
    folders = {str(trial) for trial in (study.folder / "trials").iterdir()}
    assert len(runs) == NUM_TRIALS
    assert {run.data.tags["irtune.trial_folder"] for run in runs} == folders
    assert {run.info.status for run in runs} == {"FINISHED"}
    for run in runs:
        losses = study.client().get_metric_history(run.info.run_id, "train/loss")
        assert sorted(point.step for point in losses) == list(range(1, 7))
