"""How MLflow shows a sweep: a saved view, with the columns and the chart that matter, instead of an empty table.

A view is an experiment tag that holds the page's state as JSON, the form in which MLflow 3.17 itself keeps what a user
saves from its "Views" menu. There is no call for it.
"""

from collections.abc import Sequence
from typing import Any

from irtune.tracking.address import sweep_filter

COST = "cost/total_flops"
"""The metric that the first chart puts the quality against."""

_SECTION = "irtune-trade-off"


def view_state(
    sweep: str,
    *,
    metrics: Sequence[str],
    params: Sequence[str],
    tags: Sequence[str],
    largest_first: bool,
    group_by: str | None = None,
) -> dict[str, Any]:
    """What to show of the runs of a sweep.

    Args:
        sweep: The value of the runs' tag ``irtune.sweep``.
        metrics: Columns, beside name, age and duration; the first is the quality that orders the table.
        params: Columns, by dotted key.
        tags: Columns.
        largest_first: Whether more of the quality is better.
        group_by: The tag that runs are grouped by, and their metrics averaged over; None groups none.
    """
    quality = metrics[0]
    columns = {"metrics": metrics, "params": params, "tags": tags}
    state: dict[str, Any] = {
        "searchFilter": sweep_filter(sweep),
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "orderByKey": f"metrics.`{quality}`",
        "orderByAsc": not largest_first,
        "selectedColumns": [f"{kind}.`{name}`" for kind, names in columns.items() for name in names],
        # By itself the page plots ten runs.
        "runsHiddenMode": "SHOW_ALL",
        **_scatter(quality),
    }
    if group_by is not None:
        keys = [{"mode": "tag", "groupByData": group_by}]
        state["groupBy"] = {"aggregateFunction": "average", "groupByKeys": keys}
        # A run without the tag is a group of its own in every chart (mlflow/mlflow#21129).
        state["searchFilter"] += " AND tags.`irtune.kind` != 'summary'"
    return state


def _scatter(quality: str) -> dict[str, Any]:
    chart = {
        "type": "SCATTER",
        "uuid": f"{_SECTION}-chart",
        "metricSectionId": _SECTION,
        "runsCountToCompare": 100,
        "deleted": False,
        "isGenerated": False,
        "xaxis": {"key": COST, "type": "METRIC"},
        "yaxis": {"key": quality, "type": "METRIC"},
    }
    section = {
        "uuid": _SECTION,
        "name": "Quality against cost",
        "display": True,
        "isReordered": True,
        "deleted": False,
        "isGenerated": False,
    }
    # Reordered sections stay where they are put; others are sorted by name.
    return {"compareRunCharts": [chart], "compareRunSections": [section], "isAccordionReordered": True}
