"""The files of an ablation: tables, figures and the report, all made from the records of its trials."""

import io
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import yaml
from matplotlib.figure import Figure

from irtune.analysis.ablation.ablation_report import AblationReport, Picture, render_ablation
from irtune.analysis.ablation.cell_figures import cells_plot, curves_plot, selection_plot, told_apart
from irtune.analysis.ablation.cell_results import CellResult
from irtune.analysis.ablation.cell_tables import write_tables
from irtune.analysis.ablation.class_scores import class_frame
from irtune.analysis.ablation.confusion import confusion_plot, worth_a_look
from irtune.analysis.ablation.factor_figure import factor_caption, factor_plot
from irtune.analysis.ablation.findings import AblationFindings
from irtune.analysis.ablation.learning_curve import Curve, curve_of
from irtune.analysis.ablation.methods_by_corpus import methods_by_corpus
from irtune.analysis.ablation.stability import Choices
from irtune.analysis.ablation.stability_tables import stability_frame
from irtune.analysis.ablation.steps_to_target import arrival_frame
from irtune.analysis.ablation.trade_off_figure import trade_off_plot
from irtune.config.ablation_schema import AblationConfig
from irtune.config.load import explicit
from irtune.files import write_whole
from irtune.redaction import redact, redacted
from irtune.search.ablation_cells import matched_in_words
from irtune.studies.ablation_claims import write_claims
from irtune.studies.artifacts import HEAT_MAP
from irtune.studies.plan import Compared
from irtune.studies.preflight import Ablation
from irtune.studies.provenance import origin_of
from irtune.studies.resume import command_line
from irtune.studies.trial_record import TrialRecord
from irtune.training.record import RecordReader
from irtune.workers.error_text import last_line

REPORT, RESULTS = "report.html", "results"


def curves_of(entries: Sequence[TrialRecord], metric: str) -> dict[str, Curve]:
    """The learning curves of trials that were evaluated, by their names.

    Args:
        entries: All trials.
        metric: The name of an evaluation's metric.
    """
    found = {entry.spec.name: curve_of(RecordReader(entry.folder), f"eval/{metric}") for entry in entries}
    return {name: curve for name, curve in found.items() if curve.steps}


def choices_of(entries: Sequence[TrialRecord]) -> dict[str, list[Choices]]:
    """The choices of the finished trials of each cell."""
    found: dict[str, list[Choices]] = {}
    for entry in sorted(entries, key=lambda entry: entry.config.seed):
        if entry.status != "finished" or entry.spec.repeats is None:
            continue
        try:
            found.setdefault(entry.spec.repeats, []).append(entry.choices())
        except ValueError as error:
            logging.getLogger(__name__).warning("%s", error)
    return found


def class_names(study: Ablation) -> dict[str | None, Sequence[str]]:
    """The classes of the task, by corpus."""
    corpora: list[str | None] = [*study.config.ablation.corpora] or [None]
    return {corpus: one.dataset.labels for corpus, one in zip(corpora, study.ready.corpora, strict=True)}


def write_files(
    study: Ablation,
    entries: Sequence[TrialRecord],
    findings: AblationFindings,
    curves: Mapping[str, Curve],
    commands: tuple[str, str],
    compared: Compared,
) -> None:
    """Write tables, figures and the report.

    Args:
        study: Which.
        entries: All trials.
        findings: What they show.
        curves: By the id of a trial.
        commands: What opens the tracker, and the study's address there.
        compared: What was predicted of the study beside what it took.
    """
    folder = study.folder / RESULTS
    folder.mkdir(exist_ok=True)
    results, config, choices = findings.results, study.config, choices_of(entries)
    caption = f"{config.name}: cells compared at {matched_in_words(config)}"
    write_tables(results, folder, caption)
    methods = methods_by_corpus(results)
    if methods is not None:
        methods.write(folder, caption)
    arrival_frame(findings.arrivals).to_csv(folder / "steps_to_target.csv", index=False)
    stability_frame(results, choices).to_csv(folder / "stability.csv", index=False)
    names, margin = class_names(study), _margin(config)
    class_frame(results, names).to_csv(folder / "class_scores.csv", index=False)
    report = AblationReport(
        title=f"Ablation {study.name}",
        findings=findings,
        matched=matched_in_words(config),
        claims_record=write_claims(study),
        class_names=names,
        choices=choices,
        figures=_figures(findings, curves, choices, folder),
        factors=_factors(results, config.ablation.factors, margin, folder),
        confusions=_confusions(findings, names, folder),
        heat_maps=_heat_maps(findings, entries),
        failures=_failures(entries),
        data=_data(study),
        tracking_command=commands[0],
        tracking_url=commands[1],
        command=redact(command_line()),
        study_yaml=yaml.safe_dump(redacted(explicit(config)), sort_keys=False),
        provenance=origin_of(study, "study file", compared),
    )
    write_whole(study.folder / REPORT, render_ablation(report))


def _figures(
    findings: AblationFindings,
    curves: Mapping[str, Curve],
    choices: Mapping[str, Sequence[Choices]],
    folder: Path,
) -> dict[str, bytes]:
    results = findings.results
    found = {
        "cells": _drawn(cells_plot(results), folder / "cells"),
        "trade_off": _drawn(trade_off_plot(results), folder / "trade_off"),
    }
    if curves:
        found["curves"] = _drawn(curves_plot(results, curves, findings.arrivals), folder / "learning_curves")
    if any(choices.values()):
        of_cell = {one.cell.name: choices.get(one.cell.name, []) for one in results}
        found["selection"] = _drawn(selection_plot(of_cell), folder / "selection")
    return found


def _factors(
    results: Sequence[CellResult], factors: Iterable[str], margin: float | None, folder: Path
) -> dict[str, Picture]:
    """The picture of each factor that a finished cell has a level of."""
    return {
        key: Picture(
            _drawn(factor_plot(results, key, margin), folder / f"against_{key.replace('.', '_')}"),
            factor_caption(results, key, margin),
        )
        for key in factors
        if any(key in one.cell.levels and one.test for one in results)
    }


def _confusions(
    findings: AblationFindings, names: Mapping[str | None, Sequence[str]], folder: Path
) -> dict[str | None, bytes]:
    found = {}
    for corpus, of_corpus in names.items():
        cells = worth_a_look([one for one in findings.results if one.cell.corpus == corpus], findings.claims)
        figure = confusion_plot(cells, of_corpus)
        if figure is not None:
            found[corpus] = _drawn(figure, folder / "_".join(filter(None, ["confusion", corpus])))
    return found


def _heat_maps(findings: AblationFindings, entries: Sequence[TrialRecord]) -> dict[str, bytes]:
    by_id = {entry.spec.name: entry for entry in entries}
    shown = [one for one in told_apart(findings.results) if one.rows]
    first = {one.cell.name: by_id[one.rows[0].trial_id].folder / HEAT_MAP for one in shown}
    return {f"{name}, first seed": file.read_bytes() for name, file in first.items() if file.is_file()}


def _failures(entries: Sequence[TrialRecord]) -> list[str]:
    """Trials that did not finish, in words."""
    return [
        f"{entry.title} ({entry.name}): {entry.status or 'killed'}"
        + (f": {redact(last_line(entry.error))}" if entry.error else "")
        for entry in entries
        if entry.status != "finished"
    ]


def _data(study: Ablation) -> Mapping[str, str]:
    """Facts about the data of each corpus."""
    corpora = list(study.config.ablation.corpora)
    found: dict[str, str] = redacted(
        {
            f"{corpus}: {key}" if corpus else key: fact
            for corpus, one in zip(corpora or [""], study.ready.corpora, strict=True)
            for key, fact in (one.facts() | {"asked": one.asked()}).items()
        }
    )
    return found


def _margin(config: AblationConfig) -> float | None:
    """The largest difference that does not matter: the smallest that a claim names."""
    return min((claim.margin for claim in config.ablation.claims if claim.margin is not None), default=None)


def _drawn(figure: Figure, path: Path) -> bytes:
    """Write a figure as PNG and as PDF; returns the PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, facecolor="white")
    path.with_suffix(".png").write_bytes(buffer.getvalue())
    # Without the time, so that equal results are equal files.
    figure.savefig(path.with_suffix(".pdf"), facecolor="white", metadata={"CreationDate": None})
    return buffer.getvalue()
