"""The end of a sweep: the answer on the terminal, in a report, and in MLflow."""

import logging
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
from irtune.config.load import dotted_keys, explicit
from irtune.files import once_there_is_room, read_json, write_whole
from irtune.redaction import public_address, redact, redacted
from irtune.search.optuna_source import STUDY
from irtune.studies.artifacts import HEAT_MAP
from irtune.studies.plan import PLAN, Plan, Row, actual, side_by_side, table
from irtune.studies.preflight import Sweep
from irtune.studies.provenance import environment
from irtune.studies.trial_record import TrialRecord
from irtune.studies.trial_table import TrialTable
from irtune.tracking.address import comparison_url, requires_server, ui_command
from irtune.tracking.mlflow_tracker import MlflowTracker
from irtune.tracking.uploader import Uploader
from irtune.tracking.view import SweepView
from irtune.training.record import RecordWriter
from irtune.workers.error_text import last_line

LOCAL_UI = "http://127.0.0.1:5000"
REPORT, TABLE, BEST = "report.html", "trials.md", "best.yaml"
FIGURE, PARETO, FINALISTS_FIGURE = "response.png", "pareto.png", "finalists.png"
SUMMARY = "summary"
Compared = tuple[list[Row], str, dict[str, float]]
"""Predicted and actual in words, where the prediction comes from, and both as metrics."""

COLUMNS = (
    "final/validation_{}",
    "final/test_{}",
    "final/train_loss",
    "cost/train_s",
    "cost/total_flops",
    "cost/trainable_share",
    "cost/mean_lowest_active_block",
)


@dataclass(frozen=True)
class Conclusion:
    """What a sweep found, and where it lies."""

    name: str
    folder: Path
    answer: Answer
    rows: tuple[TrialRow, ...]
    experiment_id: str | None

    @property
    def succeeded(self) -> bool:
        """Whether at least one trial ran to its end, and kept to the constraints."""
        return self.answer.best is not None


def conclude(
    sweep: Sweep,
    trials: TrialTable,
    uploader: Uploader,
    tracker: MlflowTracker,
    console: Console,
) -> Conclusion:
    """Answer, write, record, and then show: what a terminal cannot print costs no report."""
    metric, mode = sweep.config.tune.first_objective
    entries, adapters, all_rows = list(trials.records.values()), trials.adapters, trials.rows()
    rows = [row for row in all_rows if row.repeats is None]
    answer = answer_sweep(
        all_rows,
        metric=sweep.metric.words if metric == f"eval/{sweep.metric.name}" else metric,
        mode=mode,
        num_classes=len(sweep.ready.dataset.labels),
        num_validation=len(sweep.ready.dataset.splits["validation"]),
    )
    experiment_id = _experiment(tracker)
    commands = _ways_to_look(sweep, tracker, experiment_id)
    compared = _compare(sweep, entries)
    once_there_is_room(lambda: _write_files(sweep, entries, rows, answer, commands, compared), sweep.folder)
    _record(sweep, answer, compared, adapters.told(), uploader)
    adapters.upload(uploader)
    if compared[0]:
        console.print()
        console.print(table(*compared[:2]))
    _show(sweep, entries, answer, rows, adapters.told(), commands, console)
    return Conclusion(sweep.name, sweep.folder, answer, tuple(rows), experiment_id)


def _compare(sweep: Sweep, entries: Sequence[TrialRecord]) -> Compared:
    """What was predicted beside what happened; a sweep without a plan that can be read has nothing to compare."""
    try:
        plan = read_json(sweep.folder / PLAN, Plan)
    except (OSError, ValueError) as error:
        logging.getLogger(__name__).warning("nothing was predicted: %s", error)
        return [], "", {}
    found = actual(entries)
    rows = side_by_side(plan, found)
    metrics = {f"predicted/{name}": value for name, value in plan.predicted.items()}
    return rows, plan.source, metrics | {f"actual/{name}": value for name, value in found.items()}


def _experiment(tracker: MlflowTracker) -> str | None:
    """MLflow's id of the experiment; None where the server has been away all the time."""
    try:
        return tracker.experiment_id
    except Exception as error:
        logging.getLogger(__name__).warning("MLflow cannot be asked for the experiment: %s", redact(str(error)))
        return None


def _ways_to_look(sweep: Sweep, tracker: MlflowTracker, experiment_id: str | None) -> tuple[str, str]:
    """The command that opens MLflow, and the link to the comparison."""
    uri = sweep.ready.tracking_uri
    columns = tuple(name.format(sweep.metric.name) for name in COLUMNS)
    view = SweepView(
        sweep=sweep.name,
        sort_by=columns[0],
        largest_first=sweep.metric.mode == "max",
        metrics=columns,
        params=(*sweep.config.space, "selection.policy.name"),
        tags=("irtune.strategy", "irtune.pruned", *(["irtune.repeats"] if sweep.config.tune.finalists else [])),
        trade_off=("cost/total_flops", columns[0]),
    )
    base = LOCAL_UI if requires_server(uri) else uri
    if experiment_id is None:
        return ui_command(uri), base
    try:
        view_id: str | None = tracker.save_view(view)
    except Exception:
        # The view is a convenience; the comparison opens without it too.
        logging.getLogger(__name__).warning("MLflow did not take the view of the sweep")
        view_id = None
    return ui_command(uri), comparison_url(base, experiment_id, sweep.name, view_id=view_id)


def _write_files(
    sweep: Sweep,
    entries: Sequence[TrialRecord],
    rows: Sequence[TrialRow],
    answer: Answer,
    commands: tuple[str, str],
    compared: Compared,
) -> None:
    by_id = {entry.trial_id: entry for entry in entries}
    _, mode = sweep.config.tune.first_objective
    front = _front(sweep, rows)
    response = _drawn(response_curves(rows, mode=mode), sweep.folder / FIGURE)
    pareto = _drawn(pareto_plot(rows, sweep.config.tune.objectives), sweep.folder / PARETO) if front else None
    tables, finalists = [trial_table(rows, mode, front).markdown()], None
    if answer.finalists:
        tables.append(finalist_table(answer.finalists).markdown())
        finalists = _drawn(finalist_plot(answer.finalists), sweep.folder / FINALISTS_FIGURE)
    write_whole(sweep.folder / TABLE, "\n\n".join(tables) + "\n")
    best_yaml = ""
    if answer.best is not None:
        best = by_id[answer.best.trial_id].config.model_dump(mode="json")
        best_yaml = yaml.safe_dump(redacted(best), sort_keys=False)
        write_whole(sweep.folder / BEST, best_yaml)
    shown = {row.name: by_id[row.trial_id].folder / HEAT_MAP for row in (answer.selective, answer.baseline) if row}
    report = render_report(
        title=f"Sweep {sweep.name}",
        answer=answer,
        rows=rows,
        front=front,
        figures={"response": response, "pareto": pareto, "finalists": finalists},
        data=redacted(sweep.ready.inputs.facts() | {"asked": sweep.ready.inputs.asked()}),
        data_notes=redacted(sweep.ready.dataset.notes),
        best_yaml=best_yaml,
        heat_maps={name: file.read_bytes() for name, file in shown.items() if file.is_file()},
        tracking_command=commands[0],
        tracking_url=commands[1],
        provenance=environment()
        | {
            "data fingerprint": sweep.ready.dataset.fingerprint(),
            "model": redact(sweep.config.model.name),
            "sweep file": redact(sweep.source),
            "MLflow": public_address(sweep.ready.tracking_uri),
        }
        | {f"predicted: {name}": f"{predicted}, actually {took}" for name, predicted, took, _ in compared[0]},
        mode=mode,
    )
    write_whole(sweep.folder / REPORT, report)


def _front(sweep: Sweep, rows: Sequence[TrialRow]) -> list[TrialRow]:
    """The trials on the Pareto front, where there are several objectives."""
    modes = sweep.config.tune.objectives
    return pareto_front(rows, modes) if len(modes) > 1 else []


def _drawn(figure: Figure, path: Path) -> bytes:
    figure.savefig(path, dpi=120)
    return path.read_bytes()


def _record(sweep: Sweep, answer: Answer, compared: Compared, adapters: str, uploader: Uploader) -> None:
    """A run of its own for the sweep, with everything that is about all of its trials."""
    key, folder = f"{sweep.name}/{SUMMARY}", sweep.folder / SUMMARY
    tags = {"irtune.sweep": sweep.name, "irtune.kind": "summary", "irtune.data": sweep.ready.dataset.name}
    tags |= {"irtune.data.lengths": sweep.ready.inputs.encoded.in_words()}
    uploader.add(key, folder, name=f"summary of {sweep.name}", tags=tags)
    writer = RecordWriter(folder)
    writer.params(dotted_keys(sweep.config))
    writer.tags({"irtune.answer": answer.sentence, "irtune.caveats": " ".join(answer.caveats)})
    writer.tags({"irtune.data.notes": " ".join(sweep.ready.dataset.notes), "irtune.adapters": adapters})
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
    writer.metrics(writer.attempt, known | compared[2])
    # The journal may be written to while it is uploaded; and only what lies in its own folder is uploaded of a run.
    for file in (REPORT, FIGURE, PARETO, FINALISTS_FIGURE, TABLE, BEST, PLAN, STUDY):
        if (sweep.folder / file).is_file():
            shutil.copyfile(sweep.folder / file, folder / file)
            writer.artifact(folder / file, "")
    writer.close()
    uploader.finish(key, "FINISHED", {})


def _show(
    sweep: Sweep,
    entries: Sequence[TrialRecord],
    answer: Answer,
    rows: Sequence[TrialRow],
    adapters: str,
    commands: tuple[str, str],
    console: Console,
) -> None:
    console.print()
    metric, mode = sweep.config.tune.first_objective
    front = _front(sweep, rows)
    console.print(trial_table(rows, mode, front).rich(console.width))
    if answer.finalists:
        console.print("[bold]Finalists over seeds[/]")
        console.print(finalist_table(answer.finalists).rich(console.width))
    for entry in entries:
        happened = [f"tried again: {entry.trial_id}, {entry.name}: {reason}" for reason in entry.interruptions]
        if entry.error is not None:
            happened.append(f"failed: {entry.trial_id}, {entry.name}: {last_line(entry.error)}")
        for line in happened:
            console.out(line, highlight=False)
    if answer.best is not None:
        where = f"what was set; all of it: {sweep.folder / BEST}"
        by = f" by {metric}, the first objective" if front else ""
        console.print(f"\n[bold]Best configuration{by}[/] ({escape(where)})", highlight=False, soft_wrap=True)
        best = next(entry.config for entry in entries if entry.trial_id == answer.best.trial_id)
        console.print(
            Syntax(yaml.safe_dump(redacted(explicit(best)), sort_keys=False), "yaml", background_color="default")
        )
    console.print("[bold]Look at it[/]")
    for label, what in {
        "report": str(sweep.folder / REPORT),
        "figure": str(sweep.folder / (PARETO if front else FIGURE)),
        "adapters": adapters,
        "study": shlex.join(["optuna-dashboard", str(sweep.folder / "study.journal")]),
        "MLflow": commands[0],
        "": f"then open {commands[1]}",
    }.items():
        console.out(f"  {label:8} {what}", highlight=False)
    console.print(f"\n[bold green]Answer[/] {escape(answer.sentence)}", highlight=False, soft_wrap=True)
    for caveat in answer.caveats:
        console.out(f"  - {caveat}", highlight=False)
