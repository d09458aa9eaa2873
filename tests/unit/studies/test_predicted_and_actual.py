"""What stands beside a prediction when the sweep is over."""

from io import StringIO

import pytest
from rich.console import Console

from irtune.config.load import build
from irtune.config.schema import ExperimentConfig
from irtune.search.source import TrialSpec
from irtune.studies.plan import Plan, actual, show_compared, side_by_side
from irtune.studies.trial_record import TrialRecord
from irtune.tracking.run_record import DRIVER_RECORD, Ended, Opened, RunRecord

PREDICTED = {
    "step_s": 4.0,
    "baseline_s": 50.0,
    "trial_s": 20.0,
    "memory_bytes": 3 * 2.0**29,
    "stopped": 2.0,
    "trials_s": 100.0,
    "sweep_s": 80.0,
}
PLAN = Plan({}, PREDICTED, "measured steps")


@pytest.fixture
def entry(tmp_path):
    def entry(status, start_s, end_s, *, baseline=False, **latest):
        values = {f"cost/{name}": value for name, value in latest.items()}
        config = build(ExperimentConfig, {}, "x")
        folder = tmp_path / f"{start_s}"
        folder.mkdir()
        record = RunRecord(folder)
        record.begin(Opened("key", "t", {}, round(1000 * start_s)))
        record.finish(Ended("FINISHED", {}, None, round(1000 * end_s)))
        return TrialRecord(
            TrialSpec("baseline" if baseline else f"{start_s}", {}),
            "t",
            config,
            folder,
            status=status,
            step=10,
            latest=values,
        )

    return entry


def test_predicted_and_actual_side_by_side(entry):
    entries = [
        entry("finished", 1000, 1040, baseline=True, train_s=20.0, total_flops=800.0, peak_memory_bytes=2.0**30),
        entry("finished", 1041, 1071, train_s=15.0, total_flops=500.0, peak_memory_bytes=2.0**31),
        entry("pruned", 1060, 1080, train_s=5.0),
        entry("finished", 1080, 1100, train_s=15.0, total_flops=700.0, peak_memory_bytes=2.0**30),
        entry("failed", 1090, 1091),
    ]
    found = actual(entries)
    assert found == {
        "step_s": 2.0,
        "baseline_s": 40.0,
        # Of those that ran to their end: 30 s and 20 s.
        "trial_s": 25.0,
        "trial_flops": 600.0,
        "memory_bytes": 2.0**31,
        "stopped": 1.0,
        "trials_s": 40 + 30 + 20 + 20 + 1,
        "sweep_s": 100.0,
    }
    rows = side_by_side(PLAN, found)
    assert rows[:2] == [("optimizer step of the baseline", "4s", "2s", "0.50"), ("the baseline", "50s", "40s", "0.80")]
    assert ("memory of a worker", "1.5 GiB", "2 GiB", "1.33") in rows
    # What was not predicted is left open.
    assert ("training FLOPs of such a trial", "–", "600", "–") in rows
    console = Console(file=StringIO(), width=120)
    show_compared((rows, PLAN.source, {}), console)
    assert all(word in console.file.getvalue() for row in rows for word in row)
    assert "from measured steps" in console.file.getvalue()


def test_a_trial_without_a_record_costs_no_more_than_its_own_times(entry):
    lost = entry("finished", 2000, 2010, train_s=1.0, total_flops=1.0, peak_memory_bytes=1.0)
    (lost.folder / DRIVER_RECORD).unlink()
    assert actual([entry("failed", 1000, 1001), lost])["trials_s"] == 1.0


def test_what_cannot_be_told_is_left_open(entry):
    found = actual([entry("failed", 1000, 1001, baseline=True)])
    assert found == {"stopped": 0.0, "trials_s": 1.0, "sweep_s": 1.0}
    assert side_by_side(PLAN, found)[1] == ("the baseline", "50s", "–", "–")
    assert actual([]) == {"stopped": 0.0, "trials_s": 0.0}
