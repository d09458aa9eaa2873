import json
import re

from mlflow import MlflowClient

from irtune.tracking.mlflow_tracker import MlflowTracker
from irtune.tracking.view import view_state


def test_a_saved_view_orders_the_table_and_names_its_columns(tracker: MlflowTracker, store_uri: str) -> None:
    name = 'my "first" sweep'
    state = view_state(
        name,
        largest_first=False,
        metrics=["final/loss", "cost/seconds"],
        params=["selection.policy.k"],
        tags=["irtune.pruned"],
    )

    view_id = tracker.save_view(name, state)
    tracker.save_view(name, state)

    tags = MlflowClient(store_uri).get_experiment(tracker.experiment_id).tags
    (tag,) = [tag for tag in tags if tag.startswith("mlflow.sharedViewState.")]
    assert tag.removeprefix("mlflow.sharedViewState.") == view_id
    assert re.fullmatch(r"[\w-]+", view_id)
    saved = json.loads(tags[tag])
    assert saved["name"] == 'my "first" sweep'
    state = json.loads(saved["state"])
    assert state["searchFilter"] == "tags.`irtune.sweep` = 'my \"first\" sweep'"
    assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`final/loss`", True)
    assert state["selectedColumns"] == [
        "metrics.`final/loss`",
        "metrics.`cost/seconds`",
        "params.`selection.policy.k`",
        "tags.`irtune.pruned`",
    ]
    (chart,) = state["compareRunCharts"]
    assert (chart["xaxis"]["key"], chart["yaxis"]["key"]) == ("cost/total_flops", "final/loss")
    assert chart["metricSectionId"] == state["compareRunSections"][0]["uuid"]


def test_each_sweep_has_its_own_view(tracker: MlflowTracker) -> None:
    assert tracker.save_view("one", {}) != tracker.save_view("two", {})
