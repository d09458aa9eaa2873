"""What a person sees: the comparison in MLflow's page and the report, in a real browser."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from servers import ROOT, free_ports, server

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update",
    "--disable-background-networking", "--disable-sync", "--window-size=1600,1000",
)  # fmt: skip

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine (Debian: apt install chromium)")


def page(url: str, picture: Path | None = None) -> str:
    """The document that a browser makes of an address; also as a picture."""
    show = [f"--screenshot={picture}"] if picture else ["--dump-dom"]
    with tempfile.TemporaryDirectory() as profile:
        finished = subprocess.run(
            [str(BROWSER), *FLAGS, f"--user-data-dir={profile}", "--virtual-time-budget=30000", *show, url],
            capture_output=True,
            text=True,
            timeout=480,
        )
    return finished.stdout


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    return run(tmp_path_factory.mktemp("storage"), "sweep", "tune.scheduler=null")


@pytest.fixture(scope="module")
def ablation(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    return run(tmp_path_factory.mktemp("ablations"), "ablation")


def run(storage: Path, kind: str, *overrides: str) -> tuple[str, Path]:
    job = {"sweep": "jobs/sweep.py", "ablation": "jobs/ablate.py"}[kind]
    finished = subprocess.run(
        [sys.executable, job, f"tests/support/tiny_{kind}.yaml", f"storage={storage}", *overrides],
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "300"},
        capture_output=True,
        text=True,
        timeout=560,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout, storage


def printed(output: str, label: str) -> str:
    lines = [" ".join(line.split()) for line in output.splitlines()]
    (line,) = [line for line in lines if line.startswith(label)]
    return line.removeprefix(label).strip()


def test_the_printed_command_and_link_open_the_comparison(sweep: tuple[str, Path], tmp_path: Path) -> None:
    output, _ = sweep
    (port,) = free_ports(1)
    command = printed(output, "MLflow MLFLOW").replace("--port 5000", f"--port {port}")
    url = printed(output, "then open").replace(":5000", f":{port}")
    with server([f"exec env MLFLOW{command}"], f"http://127.0.0.1:{port}/health", tmp_path / "log", shell=True):
        document = page(url)
    for text in ("top_k k=", "refresh=3", "final/validation_f1_macro", "cost/total_flops"):
        assert text in document, f"{text!r} is not on the page"


def test_the_link_of_an_ablation_opens_its_runs_grouped_by_cell(ablation: tuple[str, Path], tmp_path: Path) -> None:
    output, _ = ablation
    (port,) = free_ports(1)
    command = printed(output, "MLflow MLFLOW").replace("--port 5000", f"--port {port}")
    url = printed(output, "then open").replace(":5000", f":{port}")
    with server([f"exec env MLFLOW{command}"], f"http://127.0.0.1:{port}/health", tmp_path / "log", shell=True):
        shown = re.sub(r"<[^>]+>", "", page(url))
    for text in (
        "Group: all2",
        "Group: few within_block=max2",
        "Group: same2",
        "final/test_f1_macro",
        "cost/total_flops",
    ):
        assert text in shown, f"{text!r} is not on the page"
    assert "Additional runs" not in shown


def test_the_report_opens_without_a_network(sweep: tuple[str, Path]) -> None:
    output, storage = sweep
    report = Path(printed(output, "report"))
    assert report.is_relative_to(storage)
    document = page(report.as_uri())
    answer = next(line for line in output.splitlines() if line.startswith("Answer ")).removeprefix("Answer ")
    assert answer[:60] in document
    assert document.count("data:image/png;base64,") >= 2
    assert "http://" not in document.replace("http://127.0.0.1:5000", "")
