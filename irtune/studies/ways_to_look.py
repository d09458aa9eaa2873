"""Ways to look at a study: a command that opens MLflow, a link to the trials there, and the end of what is shown."""

import logging
from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console
from rich.markup import escape

from irtune.config.study_schema import StudyConfig
from irtune.redaction import redact
from irtune.studies.preflight import Study
from irtune.studies.trial_record import TrialRecord
from irtune.tracking.address import comparison_url, requires_server, ui_command
from irtune.tracking.mlflow_tracker import MlflowTracker
from irtune.tracking.view import COST, view_state
from irtune.workers.error_text import last_line

LOCAL_UI = "http://127.0.0.1:5000"
COLUMNS = (
    "final/validation_{}",
    "final/test_{}",
    "final/train_loss",
    "cost/train_s",
    COST,
    "cost/trainable_share",
    "cost/mean_lowest_active_block",
)


def ways_to_look(
    study: Study[StudyConfig],
    tracker: MlflowTracker,
    *,
    params: Sequence[str],
    tags: Sequence[str],
    group_by: str | None = None,
) -> tuple[str, str]:
    """The command that opens MLflow, and the link to the comparison.

    Args:
        study: What to look at.
        tracker: Keeps the view.
        params: Parameters that are columns.
        tags: Tags that are columns.
        group_by: The tag that runs are grouped by; None groups none.
    """
    uri = study.ready.tracking_uri
    base = LOCAL_UI if requires_server(uri) else uri
    try:
        experiment_id = tracker.experiment_id
    except Exception as error:
        # The server has been away all the time.
        logging.getLogger(__name__).warning("MLflow cannot be asked for the experiment: %s", redact(str(error)))
        return ui_command(uri), base
    state = view_state(
        study.name,
        metrics=tuple(name.format(study.metric.name) for name in COLUMNS),
        params=params,
        tags=tags,
        largest_first=study.metric.mode == "max",
        group_by=group_by,
    )
    try:
        view_id: str | None = tracker.save_view(study.name, state)
    except Exception:
        # The view is a convenience; the comparison opens without it too.
        logging.getLogger(__name__).warning("MLflow did not take the view of the %s", study.config.kind)
        view_id = None
    return ui_command(uri), comparison_url(base, experiment_id, study.name, view_id=view_id)


def show_attempts(entries: Iterable[TrialRecord], console: Console) -> None:
    """Say which trials were tried again, and which failed, and why."""
    for entry in entries:
        happened = [f"tried again: {entry.name}, {entry.title}: {reason}" for reason in entry.interruptions]
        if entry.error is not None:
            happened.append(f"failed: {entry.name}, {entry.title}: {last_line(entry.error)}")
        for line in happened:
            console.out(line, highlight=False)


def show_answer(
    places: Mapping[str, str], in_mlflow: tuple[str, str], answer: str, caveats: Iterable[str], console: Console
) -> None:
    """End with where everything lies, and with what was found; ``in_mlflow`` is what ``ways_to_look`` returned."""
    console.print("[bold]Look at it[/]")
    for label, what in {**places, "MLflow": in_mlflow[0], "": f"then open {in_mlflow[1]}"}.items():
        console.out(f"  {label:8} {what}", highlight=False)
    console.print(f"\n[bold green]Answer[/] {escape(answer)}", highlight=False, soft_wrap=True)
    for caveat in caveats:
        console.out(f"  - {caveat}", highlight=False)
