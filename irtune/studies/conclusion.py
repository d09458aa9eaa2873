"""The end of a sweep: the answer on the terminal, in a report, and in MLflow."""

import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from matplotlib.figure import Figure
from rich.console import Console
from rich.markup import escape
from rich.syntax import Syntax

from irtune.analysis.answer import Answer, answer_sweep
from irtune.analysis.finalists_view import finalist_plot, finalist_table
from irtune.analysis.pareto import pareto_front, pareto_plot
from irtune.analysis.report import render_report
from irtune.analysis.response import response_curves
from irtune.analysis.tables import trial_table
from irtune.analysis.trials import TrialRow
from irtune.config.load import explicit
from irtune.files import once_there_is_room, write_whole
from irtune.redaction import redacted
from irtune.search.optuna_source import STUDY
from irtune.studies.artifacts import HEAT_MAP
from irtune.studies.plan import PLAN, Compared, actual, compared_with_plan, show_compared
from irtune.studies.preflight import Sweep
from irtune.studies.provenance import origin_of
from irtune.studies.trial_table import TrialTable
from irtune.studies.ways_to_look import show_answer, show_attempts, ways_to_look
from irtune.tracking.mlflow_tracker import MlflowTracker
from irtune.tracking.run_record import Opened, now_ms
from irtune.training.record import RecordWriter

REPORT, TABLE, BEST = "report.html", "trials.md", "best.yaml"
FIGURE, PARETO, FINALISTS_FIGURE = "response.png", "pareto.png", "finalists.png"
SUMMARY = "summary"


@dataclass(frozen=True)
class _Found:
    """The findings of a sweep: ``rows`` are the trials of the search, ``front`` those of them on the front."""

    sweep: Sweep
    trials: TrialTable
    rows: Sequence[TrialRow]
    front: Sequence[TrialRow]
    answer: Answer
    ways_to_look: tuple[str, str]
    compared: Compared


def conclude(sweep: Sweep, trials: TrialTable, tracker: MlflowTracker, console: Console) -> Answer:
    """Answer, write, record, and then show: what a terminal cannot print costs no report."""
    metric, mode = sweep.config.aim.first_objective
    objectives, all_rows = sweep.config.aim.objectives, trials.rows()
    rows = [row for row in all_rows if row.repeats is None]
    answer = answer_sweep(
        all_rows,
        metric=sweep.metric.words if metric == f"eval/{sweep.metric.name}" else metric,
        mode=mode,
        num_classes=len(sweep.ready.inputs.dataset.labels),
        num_validation=len(sweep.ready.inputs.dataset.splits["validation"]),
    )
    front = pareto_front(rows, objectives) if len(objectives) > 1 else []
    tags = ("irtune.strategy", "irtune.pruned", *(["irtune.repeats"] if sweep.config.tune.finalists else []))
    look = ways_to_look(sweep, tracker, params=(*sweep.config.space, "selection.policy.name"), tags=tags)
    compared = compared_with_plan(sweep.folder, actual(list(trials.records.values())))
    found = _Found(sweep, trials, rows, front, answer, look, compared)
    once_there_is_room(lambda: _write_files(found), sweep.folder)
    _record(found)
    trials.adapters.upload(trials.uploader)
    _show(found, console)
    return answer


def _write_files(found: _Found) -> None:
    sweep, answer, rows, records = found.sweep, found.answer, found.rows, found.trials.records
    _, mode = sweep.config.aim.first_objective
    response = _drawn(response_curves(rows, mode=mode), sweep.folder / FIGURE)
    pareto = _drawn(pareto_plot(rows, sweep.config.aim.objectives), sweep.folder / PARETO) if found.front else None
    tables, finalists = [trial_table(rows, mode, found.front).markdown()], None
    if answer.finalists:
        tables.append(finalist_table(answer.finalists).markdown())
        finalists = _drawn(finalist_plot(answer.finalists), sweep.folder / FINALISTS_FIGURE)
    write_whole(sweep.folder / TABLE, "\n\n".join(tables) + "\n")
    best_yaml = ""
    if answer.best is not None:
        best = records[answer.best.trial_id].config.model_dump(mode="json")
        best_yaml = yaml.safe_dump(redacted(best), sort_keys=False)
        write_whole(sweep.folder / BEST, best_yaml)
    shown = {row.name: records[row.trial_id].folder / HEAT_MAP for row in (answer.selective, answer.baseline) if row}
    report = render_report(
        title=f"Sweep {sweep.name}",
        answer=answer,
        rows=rows,
        front=found.front,
        figures={"response": response, "pareto": pareto, "finalists": finalists},
        data=redacted(sweep.ready.inputs.facts() | {"asked": sweep.ready.inputs.asked()}),
        data_notes=redacted(sweep.ready.inputs.dataset.notes),
        best_yaml=best_yaml,
        heat_maps={name: file.read_bytes() for name, file in shown.items() if file.is_file()},
        tracking_command=found.ways_to_look[0],
        tracking_url=found.ways_to_look[1],
        provenance=origin_of(sweep, "sweep file", found.compared),
        mode=mode,
    )
    write_whole(sweep.folder / REPORT, report)


def _drawn(figure: Figure, path: Path) -> bytes:
    figure.savefig(path, dpi=120)
    return path.read_bytes()


def _record(found: _Found) -> None:
    """A run of its own for the sweep, with everything that is about all of its trials."""
    sweep, answer, uploader = found.sweep, found.answer, found.trials.uploader
    key, folder = f"{sweep.name}/{SUMMARY}", sweep.folder / SUMMARY
    tags = {"irtune.sweep": sweep.name, "irtune.kind": "summary", "irtune.data": sweep.ready.inputs.dataset.name}
    tags |= {"irtune.data.lengths": sweep.ready.inputs.encoded.in_words()}
    uploader.add(folder, Opened(key, f"summary of {sweep.name}", tags, now_ms()))
    writer = RecordWriter(folder)
    writer.params(sweep.config.model_dump(mode="json"))
    writer.tags({"irtune.answer": answer.sentence, "irtune.caveats": " ".join(answer.caveats)})
    notes, adapters = " ".join(sweep.ready.inputs.dataset.notes), found.trials.adapters.told()
    writer.tags({"irtune.data.notes": notes, "irtune.adapters": adapters})
    interval, name = answer.interval, sweep.metric.name
    values = {
        "summary/saving_flops": answer.saving("flops"),
        "summary/saving_seconds": answer.saving("seconds"),
        "summary/saving_trainable": answer.saving("trainable_share"),
        f"summary/test_{name}_difference": interval.difference if interval else None,
        f"summary/test_{name}_difference_low": interval.low if interval else None,
        f"summary/test_{name}_difference_high": interval.high if interval else None,
    }
    known = {name: value for name, value in values.items() if value is not None}
    # A sweep that was resumed after it had been summed up is summed up again.
    writer.metrics(writer.attempt, known | found.compared[2])
    # The journal may be written to while it is uploaded; and only what lies in its own folder is uploaded of a run.
    for file in (REPORT, FIGURE, PARETO, FINALISTS_FIGURE, TABLE, BEST, PLAN, STUDY):
        if (sweep.folder / file).is_file():
            shutil.copyfile(sweep.folder / file, folder / file)
            writer.artifact(folder / file, "")
    writer.close()
    uploader.finish(key, "FINISHED", {})


def _show(found: _Found, console: Console) -> None:
    sweep, answer, records = found.sweep, found.answer, found.trials.records
    show_compared(found.compared, console)
    metric, mode = sweep.config.aim.first_objective
    console.print(trial_table(found.rows, mode, found.front).rich(console.width))
    if answer.finalists:
        console.print("[bold]Finalists over seeds[/]")
        console.print(finalist_table(answer.finalists).rich(console.width))
    show_attempts(records.values(), console)
    if answer.best is not None:
        where = f"what was set; all of it: {sweep.folder / BEST}"
        by = f" by {metric}, the first objective" if found.front else ""
        console.print(f"\n[bold]Best configuration{by}[/] ({escape(where)})", highlight=False, soft_wrap=True)
        best = redacted(explicit(records[answer.best.trial_id].config))
        console.print(Syntax(yaml.safe_dump(best, sort_keys=False), "yaml", background_color="default"))
    places = {
        "report": str(sweep.folder / REPORT),
        "figure": str(sweep.folder / (PARETO if found.front else FIGURE)),
        "adapters": found.trials.adapters.told(),
        "study": shlex.join(["optuna-dashboard", str(sweep.folder / "study.journal")]),
    }
    show_answer(places, found.ways_to_look, answer.sentence, answer.caveats, console)
