import shlex
import sys
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from mlflow import MlflowClient

from irtune.tracking.address import (
    comparison_url,
    requires_server,
    resolve_tracking_uri,
    ui_command,
)
from irtune.tracking.connection import check_tracking
from irtune.tracking.mlflow_tracker import MlflowTracker


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


def test_the_command_survives_spaces_and_stays_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/my env/bin/python")
    words = shlex.split(ui_command("sqlite:////my storage/mlflow.db"))
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
        "5000",
        "--workers",
        "1",
    ]


def test_a_server_is_its_own_user_interface() -> None:
    words = shlex.split(ui_command("http://me:secret@host:5000"))
    assert words == [sys.executable, "-m", "webbrowser", "http://host:5000/#"]


def test_the_link_opens_the_table_of_one_sweep() -> None:
    url = comparison_url("http://me:secret@host:5000/", "7", "it's a sweep")
    assert url.startswith("http://host:5000/#/experiments/7/runs?")
    assert query_of(url) == {
        "workflowType": ["machine_learning"],
        "searchFilter": ['tags.`irtune.sweep` = "it\'s a sweep"'],
        "startTime": ["ALL"],
    }


def test_the_link_opens_a_saved_view() -> None:
    assert query_of(comparison_url("http://host", "7", "s", view_id="v")) == {
        "workflowType": ["machine_learning"],
        "viewStateShareKey": ["v"],
    }


def test_a_name_that_mlflow_cannot_search_for_is_refused() -> None:
    with pytest.raises(ValueError, match="but not both"):
        comparison_url("http://host", "7", """a'b"c""")


@pytest.mark.parametrize(("name", "odd"), [("what?", "?"), ("a%20b", "%20"), ("100%25", "%25")])
def test_a_folder_that_an_address_cannot_say_is_refused_with_what_to_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, odd: str
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ValueError, match=r"storage: .* has .* in its path.*set tracking\.uri") as caught:
        resolve_tracking_uri(None, tmp_path / name)
    assert f"has {odd!r} in its path" in str(caught.value)
    with pytest.raises(ValueError, match=r"^tracking\.uri: "):
        resolve_tracking_uri(f"sqlite:///{tmp_path / name}/mlflow.db", tmp_path)
    assert resolve_tracking_uri("http://there", tmp_path / name) == "http://there"


@pytest.mark.parametrize("name", ["a b", "a#b", "100%", "a;b&c=d", "ü", "it's", 'a"b', "a@b:c+d", "$HOME{x}"])
def test_in_other_folders_database_and_artifacts_lie_where_they_should(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    storage = tmp_path / name
    uri = resolve_tracking_uri(None, storage)
    check_tracking(uri)
    client, experiment_id = MlflowClient(uri), MlflowTracker(uri, "irtune").experiment_id
    (tmp_path / "file").touch()
    client.log_artifact(client.create_run(experiment_id).info.run_id, str(tmp_path / "file"))
    assert (storage / "mlflow.db").stat().st_size > 0
    assert len(list((storage / "mlartifacts").rglob("file"))) == 1
    assert {path.name for path in tmp_path.iterdir()} == {name, "file"}
