"""Studies reported together, wherever they ran, from their records alone: each beside the baseline of its own."""

import io
import logging
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from irtune.analysis.ablation.cell_figures import cells_plot
from irtune.analysis.ablation.cell_results import Cell
from irtune.analysis.ablation.cell_tables import cell_table
from irtune.analysis.ablation.findings import findings_of
from irtune.analysis.ablation.learning_curve import Curve, curve_of
from irtune.analysis.answer import Answer, answer_sweep
from irtune.analysis.finalists_view import finalist_table
from irtune.analysis.joint_report import JointReport
from irtune.analysis.metrics import OVERALL, Metric
from irtune.analysis.response import response_curves
from irtune.analysis.tables import Column, TextTable, trial_table
from irtune.analysis.trials import TrialRow, ranked
from irtune.config.ablation_schema import AblationConfig
from irtune.config.load import build
from irtune.config.study_schema import Aim
from irtune.data.label_names import counted
from irtune.search.ablation_cells import cells_of
from irtune.search.hopeless import without_hopeless
from irtune.search.source import TUNING
from irtune.studies.recorded import StudyError, aim_of, find_study, recorded_trials
from irtune.studies.resume import read_identity
from irtune.studies.trial_record import TrialRecord
from irtune.training.record import RecordReader

logger = logging.getLogger(__name__)

OWN_BASELINES = "Trials are compared with the baseline of their own study, and with no other"
SUMMARY = "summary"
_UNREADABLE = "none knew its settings yet, or their records are damaged; let it go on with --resume"
TIMES = "Times are of the machines that the studies ran on; FLOPs can be compared"


@dataclass(frozen=True)
class _Study:
    """A study as its records tell it.

    Args:
        folder: Where it lies.
        kind: Sweep, ablation or run.
        settings: By dotted key, those left out that may change.
        fingerprint: Of its data.
        aim: What its trials are judged by.
        metric: What they are scored by.
        trials: Those that knew their settings, but for those that tuned a cell, each with its row.
        num_trials: All, but for those that tuned a cell.
        label: What tables call it.
    """

    folder: Path
    kind: str
    settings: Mapping[str, Any]
    fingerprint: str
    aim: Aim
    metric: Metric
    trials: Mapping[str, tuple[TrialRecord, TrialRow]]
    num_trials: int
    label: str = ""

    @classmethod
    def of(cls, folder: Path) -> "_Study":
        """Read a study.

        Raises:
            StudyError: Its records do not tell by what its trials are scored, or nothing of them.
        """
        identity = read_identity(folder)
        settings, aim = identity.settings, aim_of(identity.settings)
        trials = [trial for trial in recorded_trials(folder) if trial.tags.get("irtune.kind") != TUNING]
        metric = _metric(settings.get("metric", "f1_macro"), trials, folder)
        read = {trial.name: (trial, row) for trial in trials if (row := _row(trial, aim, metric)) is not None}
        if not read:
            raise StudyError(f"{folder}: none of its {len(trials)} trials can be reported: {_UNREADABLE}")
        return cls(folder, identity.kind, settings, identity.data_fingerprint, aim, metric, read, len(trials))

    @property
    def name(self) -> str:
        """Its folder's."""
        return self.folder.name

    @property
    def rows(self) -> list[TrialRow]:
        """Its trials as the analysis reads them."""
        return [row for _, row in self.trials.values()]

    @property
    def compared(self) -> dict[str, Any]:
        """What studies must have in common to be compared, by what it is."""
        objectives = ", ".join(f"{mode} {name}" for name, mode in self.aim.objectives.items())
        kind = self.kind if self.kind == AblationConfig.kind else "sweep or run"
        return {"kind": kind, "metric": self.metric.name, "objective": objectives, "data": self.fingerprint}

    def in_words(self) -> str:
        """What it is."""
        finished = sum(row.status == "finished" for row in self.rows)
        tags = next((trial.tags for trial, _ in self.trials.values()), {})
        facts = {
            "irtune": f"{tags.get('irtune.version', '?')} at {tags.get('irtune.git_commit', '?')}",
            "model": self.settings.get("model.name", "?"),
            "device": tags.get("irtune.engine.device", "?"),
            "data": f"{tags.get('irtune.data', '?')}, fingerprint {self.fingerprint}",
        }
        listed = "; ".join(f"{name} {fact}" for name, fact in facts.items())
        called = "" if self.label in ("", self.name) else f"called {self.label} above; "
        return f"{called}{self.kind} of {counted(self.num_trials, 'trial')}, {finished} finished; {listed}"


def report_together(names: Sequence[str], storage: Path) -> JointReport:
    """One or several studies as one table with an answer; nothing but their records is needed.

    Args:
        names: Folders, names under ``storage``, or studies' own names, of each of which it is the newest.
        storage: Where studies lie.

    Raises:
        StudyError: One is not there, given twice, or cannot be compared with the others.
    """
    folders = [find_study(name, storage).resolve() for name in names]
    known = [folder.name for folder in folders]
    twice = next((name for name in known if known.count(name) > 1), None)
    if twice is not None:
        raise StudyError(f"{twice} is given twice, or two studies are called so; leave one out, or rename its folder")
    labels = _labels(known)
    studies = [replace(_Study.of(folder), label=label) for folder, label in zip(folders, labels, strict=True)]
    _refuse_others(studies)
    report = _of_cells(studies) if studies[0].kind == AblationConfig.kind else _of_trials(studies)
    if len(studies) == 1:
        return report
    return replace(report, caveats=(*report.caveats, f"{OWN_BASELINES}.", f"{TIMES}."))


def _labels(names: Sequence[str]) -> list[str]:
    """Names without the words that all begin with."""
    words = [name.split("-") for name in names]
    alike = 0
    while len(names) > 1 and len({tuple(each[: alike + 1]) for each in words}) == 1:
        alike += 1
    return ["-".join(each[min(alike, len(each) - 1) :]) for each in words]


def _refuse_others(studies: Sequence[_Study]) -> None:
    """Refuse studies that differ in what makes scores comparable.

    Raises:
        StudyError: With what differs.
    """
    first = studies[0]
    for other in studies[1:]:
        differences = [
            f"{what} {value} and {other.compared[what]}"
            for what, value in first.compared.items()
            if value != other.compared[what]
        ]
        if differences:
            raise StudyError(
                f"{first.name} and {other.name} cannot be compared: {'; '.join(differences)}. Report each alone, or "
                "run one of them again with the metric and the data of the other"
            )


def _of_trials(studies: Sequence[_Study]) -> JointReport:
    _, mode = studies[0].aim.first_objective
    answers = {study.label: _answer(study) for study in studies}
    searched = [(row, study.label) for study in studies for row in study.rows if row.repeats is None]
    of = {id(row): name for row, name in searched}
    rows = [row for row, _ in searched]
    table = trial_table(rows, mode)
    if len(studies) > 1:
        table = _with_study(table, [of[id(row)] for row in ranked(rows, mode)])
        # A picture of times would put one machine's beside another's.
        rows = [replace(row, seconds=None) for row in rows]
    finalists = [
        replace(one, mean=replace(one.mean, trial_id=f"{name}: {one.mean.trial_id}")) if len(studies) > 1 else one
        for name, answer in answers.items()
        for one in answer.finalists
    ]
    by_mean = {id(one.mean): one for one in finalists}
    seeds = finalist_table([by_mean[id(mean)] for mean in ranked([one.mean for one in finalists], mode)])
    best = _best(answers, studies)
    answer = answers[best].sentence
    if len(studies) > 1:
        answer = f"Of {len(studies)} studies {best} has the trial that is best on validation. {answer}"
    return JointReport(
        answer=answer,
        caveats=answers[best].caveats,
        tables={"Trials": table} | ({"Over seeds": seeds} if finalists else {}),
        figure=_png(response_curves(rows, mode=mode)) if any(row.mean_active is not None for row in rows) else None,
        studies={study.name: f"{study.in_words()}. Alone: {answers[study.label].sentence}" for study in studies},
    )


def _answer(study: _Study) -> Answer:
    metric, mode = study.aim.first_objective
    words = study.metric.words if metric == f"eval/{study.metric.name}" else metric
    return answer_sweep(study.rows, metric=words, mode=mode)


def _best(answers: Mapping[str, Answer], studies: Sequence[_Study]) -> str:
    """The study with the best trial that selects blocks; without any, with the best trial, or the first."""
    _, mode = studies[0].aim.first_objective
    for kind in ("selective", "best"):
        found = {id(row): name for name, answer in answers.items() if (row := getattr(answer, kind)) is not None}
        rows = [row for answer in answers.values() if (row := getattr(answer, kind)) is not None]
        if rows:
            return found[id(ranked(rows, mode)[0])]
    return studies[0].label


def _with_study(table: TextTable, names: Sequence[str]) -> TextTable:
    column: Column[Any] = Column("study", "the study that it is of", str, "left", True)
    lines = tuple(replace(line, cells=(name, *line.cells)) for line, name in zip(table.lines, names, strict=True))
    return replace(table, columns=(column, *table.columns), lines=lines)


def _of_cells(studies: Sequence[_Study]) -> JointReport:
    cells: dict[str, Cell] = {}
    rows, curves = list[TrialRow](), dict[str, Curve]()
    for study in studies:
        dropped = _dropped(study)
        for trial, row in study.trials.values():
            cell = _cell(trial, study.label if len(studies) > 1 else None, dropped.get(str(row.repeats)))
            cells.setdefault(cell.name, cell)
            one = replace(row, trial_id=f"{study.name}/{row.trial_id}", repeats=cell.name)
            rows.append(one)
            curve = curve_of(RecordReader(trial.folder), f"eval/{study.metric.name}")
            curves |= {one.trial_id: curve} if curve.steps else {}
    findings = findings_of(list(cells.values()), rows, (), curves, {})
    return JointReport(
        answer=findings.answer,
        caveats=findings.caveats,
        tables={"Cells over seeds": cell_table(findings.results, with_costs=True)},
        figure=_png(cells_plot(findings.results)) if rows else None,
        studies={study.name: study.in_words() for study in studies},
    )


def _dropped(study: _Study) -> dict[str, int]:
    """The first seed that a cell was not run on, of cells that were dropped; known of a study that was summed up."""
    if study.settings.get("ablation.drop_hopeless") is None:
        return {}
    folder = study.folder / SUMMARY
    trees = [record.get("settings", {}) for record in RecordReader(folder) if record["kind"] == "params"]
    try:
        config = build(AblationConfig, trees[-1] if trees else {}, str(folder))
        cells = without_hopeless(config, cells_of(config), study.rows)
    except (ValueError, TypeError, KeyError) as error:
        logger.warning("%s: which cells were dropped is not known: %s", folder, error)
        return {}
    return {cell.name: cell.dropped_from for cell in cells if cell.dropped_from is not None}


def _cell(trial: TrialRecord, study: str | None, dropped_from: int | None) -> Cell:
    """The cell of a trial; of several studies each is as a corpus of its own, with a baseline of its own."""
    tags = trial.tags
    name, corpus = tags.get("irtune.cell", trial.name), tags.get("irtune.corpus")
    where = study if study is None or corpus is None else f"{corpus}, {study}"
    if where is not None:
        name = f"{name.removesuffix(f' @ {corpus}')} @ {where}"
    before = "irtune.level."
    levels = {key.removeprefix(before): value for key, value in tags.items() if key.startswith(before)}
    is_baseline = tags.get("irtune.baseline") == "true"
    arm = tags.get("irtune.arm", name)
    return Cell(name, arm, {}, levels, where or corpus, is_baseline, dropped_from=dropped_from)


def _row(trial: TrialRecord, aim: Aim, metric: Metric) -> TrialRow | None:
    """A trial as the analysis reads it; None, with a warning, where its records do not tell."""
    if not trial.tree:
        why = "an earlier version of irtune wrote its settings as text only" if trial.texts else "it knew no settings"
        logger.warning("%s is passed over: %s", trial.folder, why)
        return None
    try:
        return trial.row(aim, metric)
    except (ValueError, TypeError, KeyError, OSError, zipfile.BadZipFile) as error:
        logger.warning("%s is passed over: %s", trial.folder, error)
        return None


def _metric(name: str, trials: Sequence[TrialRecord], folder: Path) -> Metric:
    """The metric that trials are scored by; of one class its index is that among those of their evaluations.

    Raises:
        StudyError: The evaluations do not tell the index.
    """
    if name in OVERALL:
        return Metric(name)
    measure, _, label = name.partition("/")
    for trial in (trial for trial in trials if trial.status == "finished"):
        found = [
            [key.removeprefix(before) for key in trial.latest if key.startswith(before)]
            for before in (f"final/validation_{measure}/", f"final/test_{measure}/")
        ]
        # A split that lacks a class has no score of it, and the classes after it would be taken for others.
        if found[0] == found[1] and label in found[0]:
            return Metric(name, found[0].index(label))
    raise StudyError(f"{folder}: no trial finished whose evaluations tell which class {name} is of; let it go on")


def _png(figure: Figure) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    return content.getvalue()
