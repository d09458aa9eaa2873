"""The end of an ablation: the answer on the terminal, in a report, in tables for papers, and in MLflow."""

import hashlib
import io
import json
import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from matplotlib.figure import Figure
from rich.console import Console

from irtune.analysis.ablation.ablation_report import AblationFindings, findings_of, render_ablation
from irtune.analysis.ablation.cell_figures import (
    Curve,
    cells_plot,
    curves_plot,
    factor_plot,
    selection_plot,
    trade_off_plot,
)
from irtune.analysis.ablation.cell_tables import cell_table, write_tables
from irtune.analysis.ablation.claims import Claimed
from irtune.analysis.ablation.stability import Choices
from irtune.config.load import dotted_keys, explicit
from irtune.files import once_there_is_room, write_whole
from irtune.redaction import public_address, redact, redacted
from irtune.search.ablation_cells import matched_in_words
from irtune.search.hopeless import without_hopeless
from irtune.studies.artifacts import HEAT_MAP
from irtune.studies.plan import PLAN, Compared, compared_with_plan, table
from irtune.studies.preflight import Ablation, study_cells
from irtune.studies.provenance import environment
from irtune.studies.resume import command_line
from irtune.studies.trial_record import TrialRecord
from irtune.studies.trial_table import TrialTable
from irtune.studies.tuning import tuned
from irtune.studies.ways_to_look import show_answer, show_attempts, ways_to_look
from irtune.tracking.mlflow_tracker import MlflowTracker
from irtune.tracking.trace import read_trace
from irtune.tracking.uploader import Uploader
from irtune.training.record import RecordReader, RecordWriter
from irtune.workers.error_text import last_line

REPORT, RESULTS, CLAIMS, SUMMARY = "report.html", "results", "claims.json", "summary"
FIGURES = {"cells": "cells", "trade_off": "trade_off", "curves": "learning_curves", "selection": "selection"}


def write_claims(study: Ablation) -> Mapping[str, str]:
    """Write down what is claimed, once, before the first trial; returns when that was, and the hash of the study.

    Whoever goes on with a study finds what was written at first.
    """
    file = study.folder / CLAIMS
    if not file.is_file():
        tree = explicit(study.config)
        text = json.dumps(redacted({key: tree[key] for key in tree if key not in ("storage", "tracking", "tune")}))
        claims = [claim.model_dump(mode="json") for claim in study.config.ablation.claims]
        recorded = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        sha256 = hashlib.sha256(text.encode()).hexdigest()
        write_whole(file, json.dumps({"claims": claims, "recorded": recorded, "sha256": sha256}, indent=1) + "\n")
    found = json.loads(file.read_text(encoding="utf-8"))
    return {"recorded": str(found["recorded"]), "sha256": str(found["sha256"])}


def conclude_ablation(
    study: Ablation, trials: TrialTable, tracker: MlflowTracker, console: Console
) -> AblationFindings:
    """Judge, write, record, and then show: what a terminal cannot print costs no report."""
    entries, config = list(trials.records.values()), study.config
    claims = [Claimed(claim.better, claim.than, claim.margin) for claim in config.ablation.claims]
    num_classes = len(study.ready.inputs.dataset.labels)
    curves = {entry.trial_id: curve for entry in entries if (curve := _curve(entry, study.metric.name))[0]}
    rows = trials.rows()
    cells = without_hopeless(config, tuned(study.folder, config, study_cells(study)), rows)
    findings = findings_of(cells, rows, claims, curves, num_classes)
    choices = _choices(entries)
    levels = sorted({key for one in findings.results for key in one.cell.levels})
    commands = ways_to_look(
        study,
        tracker,
        params=("irtune.cell", *(f"irtune.level.{key}" for key in levels), "seed"),
        tags=("irtune.arm", "irtune.corpus", "irtune.baseline"),
        group_by="irtune.cell",
    )
    compared = compared_with_plan(study.folder, entries)
    once_there_is_room(
        lambda: _write_files(study, entries, findings, curves, choices, commands, compared), study.folder
    )
    _record(study, findings, compared, trials.uploader)
    trials.adapters.upload(trials.uploader)
    _show(study, findings, entries, commands, compared, console)
    return findings


def _curve(entry: TrialRecord, metric: str) -> Curve:
    """The score on validation by step; what a later attempt measured again counts."""
    name = f"eval/{metric}"
    found: dict[int, float] = {}
    for record in RecordReader(entry.folder):
        if record["kind"] == "metrics" and name in record["values"]:
            found[record["step"]] = record["values"][name]
    return list(found), list(found.values())


def _choices(entries: Sequence[TrialRecord]) -> dict[str, list[Choices]]:
    """The choices of the finished trials of each cell."""
    found: dict[str, list[Choices]] = {}
    for entry in sorted(entries, key=lambda entry: entry.config.seed):
        if entry.status != "finished" or entry.repeats is None:
            continue
        try:
            trace = read_trace(entry.folder)
        except ValueError as error:
            logging.getLogger(__name__).warning("%s", error)
            continue
        if len(trace["step"]):
            steps = entry.config.training.max_steps
            one = Choices.of(entry.config.seed, trace["step"], trace["active"], trace["scores"], steps)
            found.setdefault(entry.repeats, []).append(one)
    return found


def _write_files(
    study: Ablation,
    entries: Sequence[TrialRecord],
    findings: AblationFindings,
    curves: Mapping[str, Curve],
    choices: Mapping[str, Sequence[Choices]],
    commands: tuple[str, str],
    compared: Compared,
) -> None:
    folder = study.folder / RESULTS
    folder.mkdir(exist_ok=True)
    results, config = findings.results, study.config
    matched = matched_in_words(config)
    write_tables(results, folder, f"{config.name}: cells compared at {matched}")
    figures = {"cells": cells_plot(results), "trade_off": trade_off_plot(results)}
    if curves:
        figures["curves"] = curves_plot(results, curves)
    if any(choices.values()):
        figures["selection"] = selection_plot({one.cell.name: choices.get(one.cell.name, []) for one in results})
    drawn = {name: _drawn(figure, folder / FIGURES[name]) for name, figure in figures.items()}
    factors = {
        key: _drawn(factor_plot(results, key), folder / f"against_{key.replace('.', '_')}")
        for key in config.ablation.factors
        if any(key in one.cell.levels and one.test for one in results)
    }
    by_id = {entry.trial_id: entry for entry in entries}
    first = {one.cell.name: by_id[one.rows[0].trial_id].folder / HEAT_MAP for one in results if one.rows}
    report = render_ablation(
        title=f"Ablation {study.name}",
        findings=findings,
        matched=matched,
        choices=choices,
        pictures=drawn,
        factor_pngs=factors,
        heat_maps={f"{name}, first seed": file.read_bytes() for name, file in first.items() if file.is_file()},
        class_names=study.ready.inputs.dataset.labels,
        failures=[
            f"{entry.name} ({entry.trial_id}): {entry.status or 'killed'}"
            + (f": {redact(last_line(entry.error))}" if entry.error else "")
            for entry in entries
            if entry.status != "finished"
        ],
        claims_record=write_claims(study),
        data=redacted(study.ready.inputs.facts() | {"asked": study.ready.inputs.asked()}),
        tracking=commands,
        command=redact(command_line()),
        study_yaml=yaml.safe_dump(redacted(explicit(config)), sort_keys=False),
        provenance=environment()
        | {
            "data fingerprint": study.ready.inputs.dataset.fingerprint(),
            "model": redact(config.model.name),
            "study file": redact(study.source),
            "MLflow": public_address(study.ready.tracking_uri),
        }
        | {f"predicted: {name}": f"{predicted}, actually {took}" for name, predicted, took, _ in compared[0]},
    )
    write_whole(study.folder / REPORT, report)


def _drawn(figure: Figure, path: Path) -> bytes:
    """Write a figure as PNG and as PDF; returns the PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, facecolor="white")
    path.with_suffix(".png").write_bytes(buffer.getvalue())
    # Without the time, so that equal results are equal files.
    figure.savefig(path.with_suffix(".pdf"), facecolor="white", metadata={"CreationDate": None})
    return buffer.getvalue()


def _record(study: Ablation, findings: AblationFindings, compared: Compared, uploader: Uploader) -> None:
    """A run of its own for the study, with everything that is about all of its trials."""
    key, folder = f"{study.name}/{SUMMARY}", study.folder / SUMMARY
    claims = write_claims(study)
    tags = {"irtune.sweep": study.name, "irtune.kind": "summary", "irtune.data": study.ready.inputs.dataset.name}
    tags |= {"irtune.claims.sha256": claims["sha256"], "irtune.claims.recorded": claims["recorded"]}
    uploader.add(key, folder, name=f"summary of {study.name}", tags=tags)
    writer = RecordWriter(folder)
    writer.params(dotted_keys(study.config))
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
    if compared[0]:
        console.print()
        console.print(table(*compared[:2]))
    console.print()
    console.print(cell_table(findings.results).rich(console.width))
    show_attempts(entries, console)
    places = {
        "report": str(study.folder / REPORT),
        "tables": f"{study.folder / RESULTS}: cells and trials as CSV and Parquet, cells as Markdown and LaTeX",
        "figures": f"{study.folder / RESULTS}: PNG and PDF",
    }
    show_answer(places, commands, findings.answer, findings.caveats, console)
