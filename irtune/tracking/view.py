"""How MLflow shows a sweep: a saved view, with the columns and the chart that matter, instead of an empty table.

A view is an experiment tag that holds the page's state as JSON, the form in which MLflow 3.17 itself keeps what a user
saves from its "Views" menu. There is no call for it.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from irtune.tracking.address import sweep_filter

_SECTION = "irtune-trade-off"


@dataclass(frozen=True)
class SweepView:
    """What to show of the runs of a sweep.

    Args:
        sweep: The value of the runs' tag ``irtune.sweep``.
        metrics: Columns, beside name, age and duration; the first is the quality that orders the table.
        params: Columns, by dotted key.
        tags: Columns.
        largest_first: Whether more of the quality is better.
        cost: The metric that the first chart puts the quality against.
        group_by: The tag that runs are grouped by, and their metrics averaged over; None groups none.
    """

    sweep: str
    metrics: Sequence[str]
    params: Sequence[str]
    tags: Sequence[str]
    largest_first: bool
    cost: str
    group_by: str | None = None

    @property
    def view_id(self) -> str:
        """What a link says to open the view: one a sweep, of characters that any name may have."""
        return f"irtune-{hashlib.sha256(self.sweep.encode()).hexdigest()[:16]}"

    @property
    def tag(self) -> str:
        """The experiment tag that holds the view."""
        return f"mlflow.sharedViewState.{self.view_id}"

    def to_json(self, now_ms: int) -> str:
        """The text of the tag."""
        state: dict[str, Any] = {
            "searchFilter": sweep_filter(self.sweep),
            "startTime": "ALL",
            "lifecycleFilter": "Active",
            "datasetsFilter": [],
            "orderByKey": _column("metrics", self.metrics[0]),
            "orderByAsc": not self.largest_first,
            "selectedColumns": [
                *(_column("metrics", name) for name in self.metrics),
                *(_column("params", name) for name in self.params),
                *(_column("tags", name) for name in self.tags),
            ],
            # By itself the page plots ten runs.
            "runsHiddenMode": "SHOW_ALL",
            **_scatter(self.cost, self.metrics[0]),
        }
        if self.group_by is not None:
            keys = [{"mode": "tag", "groupByData": self.group_by}]
            state["groupBy"] = {"aggregateFunction": "average", "groupByKeys": keys}
        view = {"name": self.sweep, "createdAt": now_ms, "updatedAt": now_ms, "state": json.dumps(state)}
        return json.dumps(view)


def _column(kind: str, name: str) -> str:
    return f"{kind}.`{name}`"


def _scatter(cost: str, quality: str) -> dict[str, Any]:
    chart = {
        "type": "SCATTER",
        "uuid": f"{_SECTION}-chart",
        "metricSectionId": _SECTION,
        "runsCountToCompare": 100,
        "deleted": False,
        "isGenerated": False,
        "xaxis": {"key": cost, "type": "METRIC"},
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
