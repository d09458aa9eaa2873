"""A sweep that ran, as ``irtune watch``, ``list`` and ``clean`` see it."""

import pytest
from saying import says
from sweeps import SweepRun

from irtune.cli import main
from irtune.files import read_json
from irtune.studies.progress import PROGRESS, Outlook

STEPS, VALIDATION = 9, "final/validation_f1_macro"


def test_it_can_be_watched_listed_and_cleaned(tiny_sweep: SweepRun, capsys: pytest.CaptureFixture[str]) -> None:
    assert read_json(tiny_sweep.folder / PROGRESS, Outlook).num_trials == 5
    assert main(["watch", str(tiny_sweep.folder)]) == 0
    watched = capsys.readouterr().out
    assert says(watched, f"{tiny_sweep.folder.name}, sweep, finished", "5/5 trials", f"{STEPS}/{STEPS}")
    best = max(run.data.metrics[VALIDATION] for run in tiny_sweep.runs() if VALIDATION in run.data.metrics)
    assert main(["list", str(tiny_sweep.folder.parent)]) == 0
    assert says(capsys.readouterr().out, f"{tiny_sweep.folder.name} … sweep … finished … 5/5 … {best:.3f}")
    assert main(["clean", "--storage", str(tiny_sweep.folder.parent)]) == 0
    assert says(capsys.readouterr().out, "tune_0:", "encoded:", "--yes")
