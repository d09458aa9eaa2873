"""A sweep that is full of secrets, and every byte that it writes or prints."""

import os
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import ROOT, free_ports, server
from sweeps import run_sweep

LOGIN = "planted-login-1"
SECRETS = {
    "the login of tracking.uri": LOGIN,
    "a login in an error": "planted-login-2",
    "a token in a query": "planted-token-3",
    "a key among settings": "planted-key-4",
    "a variable": "planted-variable-5",
}


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The address of an MLflow server that asks for a login, without it, and where it keeps things."""
    folder = tmp_path / "mlflow"
    folder.mkdir()
    port, front = free_ports(2)
    behind, address = f"http://127.0.0.1:{port}", f"127.0.0.1:{front}"
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "artifacts"),
    ]  # fmt: skip
    proxy = [sys.executable, str(ROOT / "tests" / "support" / "login_proxy.py"), str(front), behind]
    env = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "PROXY_LOGIN": f"somebody:{LOGIN}"}
    with (
        server(command, f"{behind}/health", folder / "server.log", env),
        server(proxy, f"http://{address}/health", folder / "proxy.log", env),
    ):
        yield address, folder


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    # Ray's sockets need a short path.
    folder = Path(tempfile.mkdtemp(prefix="rt", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def found_in(folder: Path) -> set[tuple[str, str]]:
    """What secret stands in which file."""
    files = [file for file in folder.rglob("*") if file.is_file() and not file.is_symlink()]
    return {
        (what, str(file.relative_to(folder)))
        for file in files
        for content in [file.read_bytes()]
        for what, secret in SECRETS.items()
        if secret.encode() in content
    }


def test_no_secret_is_written_or_shown(guarded: tuple[str, Path], ray_folder: Path, tmp_path: Path) -> None:
    address, server_folder = guarded
    storage = tmp_path / "storage"
    sweep = run_sweep(
        storage,
        "tests/support/tiny_sweep.yaml",
        f"tracking.uri=http://somebody:{LOGIN}@{address}",
        "data.instruction=As in https://host/?token=planted-token-3, say why.",
        "engine.deepspeed={comet: {enabled: false, api_key: planted-key-4}}",
        "space={selection.policy.name: {type: categorical, choices: [top_k, 'faulty_policies:Telling']}, "
        "selection.policy.k: {type: categorical, choices: [2]}}",
        "tune.num_trials=2",
        "tune.sampler=grid",
        "tune.scheduler=null",
        "tune.max_failures=0",
        SOME_SERVICE_PASSWORD="planted-variable-5",
        RAY_TMPDIR=str(ray_folder),
    )
    assert sweep.status == 0, sweep.output
    # It was in there, and it went through.
    assert "no answer from https://***@host" in sweep.output
    with sqlite3.connect(server_folder / "mlflow.db") as database:
        params = dict(database.execute("SELECT key, value FROM params"))
        statuses = {status for (status,) in database.execute("SELECT status FROM runs")}
    assert params["tracking.uri"] == f"http://{address}"
    assert params["engine.deepspeed.comet.api_key"] == "***"
    assert "token=***" in params["data.instruction"]
    assert statuses == {"FINISHED", "FAILED"}
    assert list(server_folder.glob("artifacts/**/irtune.json"))
    assert list(ray_folder.rglob("*.log"))

    assert [what for what, secret in SECRETS.items() if secret in sweep.output] == []
    assert found_in(storage) == set()
    assert found_in(server_folder) == set()
    assert found_in(ray_folder) == set()
