"""A sweep that was taken to another storage says there what it said where it ran."""

from pathlib import Path

import pandas as pd
from rich.console import Console
from sweeps import SweepRun

from irtune.config.load import load
from irtune.config.sweep_schema import SweepConfig
from irtune.results.predict import find_adapter
from irtune.results.together import report_together
from irtune.results.travel import export_study, import_study
from irtune.studies.recorded import find_trial
from irtune.studies.resume import read_identity, sweep_to_resume


def _fingerprint(sweep: SweepRun) -> str:
    return read_identity(sweep.folder).data_fingerprint


def test_an_imported_sweep_is_the_sweep(tiny_sweep: SweepRun, tmp_path: Path) -> None:
    here = tmp_path / "here"
    exported = export_study(str(tiny_sweep.folder), tmp_path / "out.zip", tmp_path)
    assert exported.redacted == ()
    imported = import_study(tmp_path / "out.zip", here)
    assert imported.complete

    report = report_together(["tiny"], here)
    (summary,) = tiny_sweep.runs("summary")
    assert report.answer == summary.data.tags["irtune.answer"]
    table = report.tables["Trials"].markdown()
    assert table.strip() == (tiny_sweep.folder / "trials.md").read_text(encoding="utf-8").strip()

    found = pd.read_parquet(imported.folder / "trials.parquet").set_index("trial")
    runs = {Path(run.data.tags["irtune.trial_folder"]).name: run for run in tiny_sweep.runs()}
    assert set(found.index) == set(runs)
    for name, run in runs.items():
        assert (found.loc[name, "status"] == "pruned") == (run.data.tags["irtune.pruned"] == "true")
        assert found.loc[name, "eval/f1_macro"] == run.data.metrics["eval/f1_macro"]
    config = load(SweepConfig, imported.folder / "study.yaml", {"storage": str(tiny_sweep.storage)})
    # Nothing but where it lies is another.
    assert (
        sweep_to_resume(config, _fingerprint(tiny_sweep), "always", source="x", console=Console()) == tiny_sweep.folder
    )
    before, after = (find_trial(one, tmp_path) for one in (str(tiny_sweep.folder), str(imported.folder)))
    assert (after.name, after.latest) == (before.name, before.latest)
    weights = [
        find_adapter(f"{one}:baseline", here) / "adapter_model.safetensors" for one in (tiny_sweep.folder, "tiny")
    ]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert weights[1].is_relative_to(here)
