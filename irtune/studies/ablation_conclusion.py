"""The end of an ablation: the answer on the terminal, in a report, in tables for papers, and in MLflow."""

import shutil
from collections.abc import Sequence

from rich.console import Console

from irtune.analysis.ablation.cell_tables import cell_table
from irtune.analysis.ablation.claims import Claimed
from irtune.analysis.ablation.findings import AblationFindings, findings_of
from irtune.files import once_there_is_room
from irtune.search.hopeless import without_hopeless
from irtune.studies.ablation_claims import CLAIMS, write_claims
from irtune.studies.ablation_files import REPORT, RESULTS, class_names, curves_of, write_files
from irtune.studies.plan import PLAN, Compared, actual, compared_with_plan, show_compared
from irtune.studies.preflight import Ablation, study_cells
from irtune.studies.trial_record import TrialRecord
from irtune.studies.trial_table import TrialTable
from irtune.studies.tuning import tuned
from irtune.studies.ways_to_look import show_answer, show_attempts, ways_to_look
from irtune.tracking.mlflow_tracker import MlflowTracker
from irtune.tracking.run_record import Opened, now_ms
from irtune.tracking.uploader import Uploader
from irtune.training.record import RecordWriter

SUMMARY = "summary"


def conclude_ablation(
    study: Ablation, trials: TrialTable, tracker: MlflowTracker, console: Console
) -> AblationFindings:
    """Judge, write, record, and then show: what a terminal cannot print costs no report."""
    entries, config = list(trials.records.values()), study.config
    claims = [Claimed(claim.better, claim.than, claim.margin) for claim in config.ablation.claims]
    num_classes = {corpus: len(names) for corpus, names in class_names(study).items()}
    curves = curves_of(entries, study.metric.name)
    rows = trials.rows()
    cells = without_hopeless(config, tuned(study.folder, config, study_cells(study)), rows)
    findings = findings_of(cells, rows, claims, curves, num_classes)
    levels = sorted({key for one in findings.results for key in one.cell.levels})
    commands = ways_to_look(
        study,
        tracker,
        params=("irtune.cell", *(f"irtune.level.{key}" for key in levels), "seed"),
        tags=("irtune.arm", "irtune.corpus", "irtune.baseline"),
        group_by="irtune.cell",
    )
    compared = compared_with_plan(study.folder, actual(entries))
    once_there_is_room(lambda: write_files(study, entries, findings, curves, commands, compared), study.folder)
    _record(study, findings, compared, trials.uploader)
    trials.adapters.upload(trials.uploader)
    _show(study, findings, entries, commands, compared, console)
    return findings


def _record(study: Ablation, findings: AblationFindings, compared: Compared, uploader: Uploader) -> None:
    """A run of its own for the study, with everything that is about all of its trials."""
    key, folder = f"{study.name}/{SUMMARY}", study.folder / SUMMARY
    claims = write_claims(study)
    tags = {"irtune.sweep": study.name, "irtune.kind": "summary", "irtune.data": study.ready.inputs.dataset.name}
    tags |= {"irtune.claims.sha256": claims["sha256"], "irtune.claims.recorded": claims["recorded"]}
    uploader.add(folder, Opened(key, f"summary of {study.name}", tags, now_ms()))
    writer = RecordWriter(folder)
    writer.params(study.config.model_dump(mode="json"))
    writer.tags({"irtune.answer": findings.answer, "irtune.caveats": " ".join(findings.caveats)})
    known = {f"cells/{one.cell.name}/test": one.test[0] for one in findings.results if one.test is not None}
    known |= {
        f"cells/{one.cell.name}/difference": one.against.difference[0]
        for one in findings.results
        if one.against is not None
    }
    # A study that was resumed after it had been summed up is summed up again.
    writer.metrics(writer.attempt, known | compared[2])
    for file in (REPORT, PLAN, CLAIMS):
        if (study.folder / file).is_file():
            shutil.copyfile(study.folder / file, folder / file)
            writer.artifact(folder / file, "")
    shutil.copytree(study.folder / RESULTS, folder / RESULTS, dirs_exist_ok=True)
    writer.artifact(folder / RESULTS, RESULTS)
    writer.close()
    uploader.finish(key, "FINISHED", {})


def _show(
    study: Ablation,
    findings: AblationFindings,
    entries: Sequence[TrialRecord],
    commands: tuple[str, str],
    compared: Compared,
    console: Console,
) -> None:
    show_compared(compared, console)
    console.print(cell_table(findings.results, with_costs=True).rich(console.width))
    show_attempts(entries, console)
    places = {
        "report": str(study.folder / REPORT),
        "tables": f"{study.folder / RESULTS}: every number as CSV and Parquet, quality and costs as Markdown and LaTeX",
        "figures": f"{study.folder / RESULTS}: PNG and PDF",
    }
    show_answer(places, commands, findings.answer, findings.caveats, console)
