"""Sweeps over several hosts: a trial on two of them, one that dies in the middle, one without the storage."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from hosts import Hosts, cluster_of_hosts
from sweeps import run_sweep, start_sweep

pytestmark = pytest.mark.timeout(400)

STEPS = 9
WAITS = "faulty_policies:WaitsForASecondDriver"
# Every host has one CPU, so that no two workers share one.
TWO_WORKERS = (
    "tests/support/tiny_sweep.yaml",
    "engine.num_workers=2",
    "engine.zero_stage=2",
    "training.micro_batch_size=4",
    f"space={{selection.policy.name: {{type: categorical, choices: [top_k, '{WAITS}']}}, "
    "selection.policy.k: {type: int, low: 2, high: 2}}",
    "tune.num_trials=2",
    "tune.scheduler=null",
)


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("flags")


@pytest.fixture(scope="module")
def hosts(flags: Path) -> Iterator[Hosts]:
    if os.geteuid() != 0:
        pytest.skip("hosts are network namespaces here, and only root can make them")
    with cluster_of_hosts(2, IRTUNE_TEST_FLAGS=str(flags)) as cluster:
        yield cluster


def test_a_node_without_the_storage_is_named_before_anything_runs(hosts: Hosts, mlflow_server: str) -> None:
    refused = run_sweep(hosts.disk / "storage", *TWO_WORKERS, f"tracking.uri={mlflow_server}", **hosts.driver)
    assert refused.status == 2, refused.output
    for host in hosts.others:
        assert f"storage: node {host.address} does not share {hosts.disk}/storage/tiny-" in refused.output
    assert f"node {hosts.head} " not in refused.output
    assert "mount it there at the same path" in refused.output
    assert not list((hosts.disk / "storage").glob("*/trials"))


def test_a_driver_without_the_token_is_told_what_to_do(hosts: Hosts, mlflow_server: str, tmp_path: Path) -> None:
    refused = run_sweep(
        tmp_path / "storage",
        *TWO_WORKERS,
        f"tracking.uri={mlflow_server}",
        **(hosts.driver | {"RAY_AUTH_MODE": "disabled"}),
    )
    assert refused.status == 2, refused.output
    assert "RAY_AUTH_MODE is disabled here" in refused.output
    assert "needs RAY_AUTH_MODE=token" in refused.output


def test_a_trial_outlives_one_of_its_two_hosts(hosts: Hosts, mlflow_server: str, flags: Path, tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    driver = start_sweep(storage, *TWO_WORKERS, f"tracking.uri={mlflow_server}", **hosts.driver)
    try:
        deadline = time.monotonic() + 180
        while not (flags / "waiting").exists():
            assert driver.poll() is None, driver.communicate()[0]
            assert time.monotonic() < deadline, "the trial that waits never begins"
            time.sleep(0.2)
        (disturbed,) = [trial for trial in _trials(storage) if _policy(trial) == WAITS]
        first = _addresses(disturbed, attempt=0)
        (flags / "go").touch()
        lost = next(host for host in hosts.others if host.address in first)
        lost.cut_off_and_kill()
        output, _ = driver.communicate(timeout=180)
    finally:
        driver.kill()
    assert driver.returncode == 0, output

    # Every trial had a worker on each of two hosts, also the one that had to move.
    for trial in _trials(storage):
        assert len(set(_addresses(trial, attempt=0))) == 2
    second = _addresses(disturbed, attempt=1)
    assert len(set(second)) == 2
    assert lost.address not in second

    # What was finished did not run again, and what was not went on from its checkpoint.
    attempts = {_policy(trial): len(list(trial.glob("spool/*"))) for trial in _trials(storage)}
    assert attempts == {"all": 1, "top_k": 1, WAITS: 2}
    records = _records(disturbed, attempt=1)
    assert [record["step"] for record in records if record["kind"] == "resumed"] == [6]
    steps = [r["step"] for r in records if r["kind"] == "metrics" and "train/loss" in r["values"]]
    assert steps == list(range(7, STEPS + 1))

    # It found what the same trial finds undisturbed.
    finals = {_policy(trial): _final(trial) for trial in _trials(storage)}
    assert finals[WAITS] == finals["top_k"] != finals["all"]
    assert {run.info.status for run in _runs(mlflow_server, disturbed.parents[1].name)} == {"FINISHED"}


def _trials(storage: Path) -> list[Path]:
    return list(storage.glob("tiny-*/trials/*"))


def _records(trial: Path, attempt: int) -> list[dict]:
    return [json.loads(line) for line in (trial / "spool" / f"attempt_{attempt}.jsonl").open()]


def _policy(trial: Path) -> str:
    (params,) = [record["values"] for record in _records(trial, 0) if record["kind"] == "params"]
    return params["selection.policy.name"]


def _addresses(trial: Path, attempt: int) -> list[str]:
    """Of the node that each rank ran on."""
    tags = {}
    for record in _records(trial, attempt):
        tags |= record["values"] if record["kind"] == "tags" else {}
    return [tags[f"irtune.engine.node.rank_{rank}"] for rank in range(2)]


def _final(trial: Path) -> dict[str, float]:
    result = json.loads((trial / "result.json").read_text())
    return {name: value for name, value in result.items() if name.startswith("final/")}


def _runs(mlflow_server: str, sweep: str) -> list[mlflow.entities.Run]:
    client = mlflow.MlflowClient(mlflow_server)
    experiment = client.get_experiment_by_name("irtune")
    runs = client.search_runs([experiment.experiment_id], f"tags.`irtune.sweep` = '{sweep}'")
    assert len(runs) == 4, "three trials and the summary"
    return runs
