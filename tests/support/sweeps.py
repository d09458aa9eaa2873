"""Sweeps as a user runs them: through the script, in a process of its own, on a local Ray."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import mlflow
import psutil
from mlflow.entities import Run

ROOT = Path(__file__).parents[2]
"""The repository."""


@dataclass(frozen=True)
class SweepRun:
    """A finished ``jobs/sweep.py``."""

    status: int
    output: str
    storage: Path

    @property
    def folder(self) -> Path:
        (folder,) = [path for path in self.storage.iterdir() if (path / "sweep.json").is_file()]
        return folder

    def client(self) -> mlflow.MlflowClient:
        return mlflow.MlflowClient(f"sqlite:///{self.storage}/mlflow.db")

    def runs(self, kind: str = "trial") -> list[Run]:
        experiment = self.client().get_experiment_by_name("irtune")
        return list(self.client().search_runs([experiment.experiment_id], f"tags.`irtune.kind` = '{kind}'"))


def start_sweep(
    storage: Path, *arguments: str, output: Path | None = None, job: str = "sweep.py", **environment: str
) -> "subprocess.Popen[str]":
    """Start ``jobs/sweep.py``, or another job; what it prints goes to a pipe, or to the file ``output``."""
    with contextlib.ExitStack() as stack:
        written = subprocess.PIPE if output is None else stack.enter_context(output.open("w"))
        return _start(job, storage, arguments, written, environment)


def _start(
    job: str, storage: Path, arguments: Sequence[str], output: int | IO[str], environment: Mapping[str, str]
) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, str(ROOT / "jobs" / job), *arguments, f"storage={storage}"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'support'}"} | dict(environment),
        stdout=output,
        stderr=subprocess.STDOUT,
        text=True,
    )


def kill_when(driver: "subprocess.Popen[str]", is_time: Callable[[], bool], timeout_s: float = 400) -> None:
    """SIGKILL a sweep's driver once something is so, and make sure that its cluster goes too."""
    try:
        deadline = time.monotonic() + timeout_s
        while not is_time():
            assert driver.poll() is None, driver.communicate()[0]
            assert time.monotonic() < deadline, "the sweep does not get to the point where it is to be killed"
            time.sleep(0.1)
        children = psutil.Process(driver.pid).children(recursive=True)
    finally:
        driver.kill()
        driver.communicate()
    # What trains notices within seconds; Ray's agents take over a minute, and do nothing meanwhile.
    _, alive = psutil.wait_procs(children, timeout=10)
    for process in alive:
        process.send_signal(signal.SIGKILL)


def run_sweep(
    storage: Path, *arguments: str, timeout_s: float = 560, job: str = "sweep.py", **environment: str
) -> SweepRun:
    """Run ``jobs/sweep.py``, or another job, to its end."""
    with start_sweep(storage, *arguments, job=job, **environment) as process:
        try:
            output, _ = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    return SweepRun(process.returncode, output, storage)
