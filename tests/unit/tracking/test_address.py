import shlex
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from irtune.tracking.address import (
    comparison_url,
    requires_server,
    resolve_tracking_uri,
    run_url,
    ui_command,
)


def query_of(url: str) -> dict[str, list[str]]:
    return parse_qs(urlsplit(url).fragment.split("?", 1)[1])


def test_the_configured_store_goes_before_the_environment_and_that_before_the_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert resolve_tracking_uri(None, tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://from.env:5000/")
    assert resolve_tracking_uri(None, tmp_path) == "http://from.env:5000"
    assert resolve_tracking_uri("https://configured", tmp_path) == "https://configured"


def test_a_relative_database_means_the_same_from_any_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert (
        resolve_tracking_uri("sqlite:///runs/mlflow.db", Path("/elsewhere")) == f"sqlite:///{tmp_path}/runs/mlflow.db"
    )
    assert resolve_tracking_uri(None, Path("results")) == f"sqlite:///{tmp_path}/results/mlflow.db"


def test_a_file_serves_one_machine_only() -> None:
    assert requires_server("sqlite:////storage/mlflow.db")
    assert not requires_server("http://host:5000")


def test_the_command_survives_spaces_and_stays_on_this_machine() -> None:
    words = shlex.split(ui_command("sqlite:////my storage/mlflow.db", python="/my env/bin/python", port=5001))
    assert words == [
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false",
        "/my env/bin/python",
        "-m",
        "mlflow",
        "server",
        "--backend-store-uri",
        "sqlite:////my storage/mlflow.db",
        "--artifacts-destination",
        "/my storage/mlartifacts",
        "--host",
        "127.0.0.1",
        "--port",
        "5001",
        "--workers",
        "1",
    ]


def test_a_server_is_its_own_user_interface() -> None:
    assert shlex.split(ui_command("http://me:secret@host:5000", python="python")) == [
        "python", "-m", "webbrowser", "http://host:5000/#",
    ]  # fmt: skip


def test_the_link_opens_the_table_of_one_sweep() -> None:
    url = comparison_url("http://me:secret@host:5000/", "7", "it's a sweep", run_ids=["a", "b"])
    assert url.startswith("http://host:5000/#/experiments/7/runs?")
    assert query_of(url) == {
        "workflowType": ["machine_learning"],
        "searchFilter": ["tags.`irtune.sweep` = \"it's a sweep\" AND attributes.run_id IN ('a', 'b')"],
        "startTime": ["ALL"],
    }


def test_the_link_opens_a_saved_view() -> None:
    assert query_of(comparison_url("http://host", "7", "s", view_id="v")) == {
        "workflowType": ["machine_learning"],
        "viewStateShareKey": ["v"],
    }
    assert run_url("http://host", "7", "r") == "http://host/#/experiments/7/runs/r?workflowType=machine_learning"


def test_a_name_that_mlflow_cannot_search_for_is_refused() -> None:
    with pytest.raises(ValueError, match="but not both"):
        comparison_url("http://host", "7", """a'b"c""")
