"""Ways to look at a study in MLflow: the command that opens it, and the link to a view of its trials."""

import logging
from collections.abc import Sequence

from irtune.config.study_schema import StudyConfig
from irtune.redaction import redact
from irtune.studies.preflight import Study
from irtune.tracking.address import comparison_url, requires_server, ui_command
from irtune.tracking.mlflow_tracker import MlflowTracker
from irtune.tracking.view import COST, view_state

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
