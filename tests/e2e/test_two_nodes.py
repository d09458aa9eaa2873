"""Sweeps over several hosts: a trial on two of them, one that dies in the middle, one without the storage."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from hosts import Hosts, cluster_of_hosts
from sweeps import run_sweep, start_sweep

from irtune.training.record import RecordReader, result_of

pytestmark = pytest.mark.timeout(700)

STEPS = 9
WAITS = "faulty_policies:WaitsForASecondDriver"
# Every host has one CPU, so that no two workers share one. The policy that waits chooses all blocks in the end, as the
# baseline does, and so has to find what that finds.
TWO_WORKERS = (
    "tests/support/tiny_sweep.yaml",
    "engine.num_workers=2",
    "engine.zero_stage=2",
    "training.micro_batch_size=4",
    f"selection.policy={{name: '{WAITS}', k: 6}}",
    "space={selection.policy.k: {type: int, low: 6, high: 6}}",
    "tune.num_trials=1",
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
        deadline = time.monotonic() + 300
        while not (flags / "waiting").exists():
            assert driver.poll() is None, driver.communicate()[0]
            assert time.monotonic() < deadline, "the trial that waits never begins"
            time.sleep(0.2)
        baseline, disturbed = sorted(storage.glob("tiny-*/trials/*"))
        (first,) = _attempts(disturbed)
        (flags / "go").touch()
        lost = next(host for host in hosts.others if host.address in _addresses(first))
        lost.cut_off_and_kill()
        output, _ = driver.communicate(timeout=300)
    finally:
        driver.kill()
    assert driver.returncode == 0, output

    # What was finished did not run again, and what was not went on from its checkpoint, on the hosts that were left.
    (undisturbed,) = _attempts(baseline)
    first, second = _attempts(disturbed)
    for attempt in (undisturbed, first, second):
        assert len(set(_addresses(attempt))) == 2
    assert lost.address not in _addresses(second)
    assert [record["step"] for record in second if record["kind"] == "resumed"] == [6]
    assert _trained_steps(second) == list(range(7, STEPS + 1))

    # It found what it would have found undisturbed.
    assert _final(disturbed) == _final(baseline)
    assert {run.info.status for run in _runs(mlflow_server, baseline.parents[1].name)} == {"FINISHED"}


def _attempts(trial: Path) -> list[list[dict]]:
    """The records of each attempt at a trial that trained."""
    attempts: dict[int, list[dict]] = {}
    for record in RecordReader(trial):
        attempts.setdefault(record["attempt"], []).append(record)
    return [records for _, records in sorted(attempts.items()) if _trained_steps(records)]


def _trained_steps(records: list[dict]) -> list[int]:
    return [r["step"] for r in records if r["kind"] == "metrics" and "train/loss" in r["values"]]


def _addresses(records: list[dict]) -> list[str]:
    """Of the node that each rank ran on."""
    tags = {}
    for record in records:
        tags |= record["values"] if record["kind"] == "tags" else {}
    return [tags[f"irtune.engine.node.rank_{rank}"] for rank in range(2)]


def _final(trial: Path) -> dict[str, float]:
    return {name: value for name, value in result_of(trial).items() if name.startswith("final/")}


def _runs(mlflow_server: str, sweep: str) -> list[mlflow.entities.Run]:
    client = mlflow.MlflowClient(mlflow_server)
    experiment = client.get_experiment_by_name("irtune")
    runs = client.search_runs([experiment.experiment_id], f"tags.`irtune.sweep` = '{sweep}'")
    assert len(runs) == 3, "two trials and the summary"
    return runs


def test_an_ablation_runs_on_two_hosts(hosts: Hosts, mlflow_server: str, tmp_path: Path) -> None:
    study = run_sweep(
        tmp_path / "storage",
        "tests/support/tiny_ablation.yaml",
        "engine.num_workers=2",
        "training.micro_batch_size=4",
        "ablation.factors={}",
        f"tracking.uri={mlflow_server}",
        job="ablate.py",
        **hosts.driver,
    )
    assert study.status == 0, study.output
    records = [record for trial in (study.folder / "trials").iterdir() for record in RecordReader(trial)]
    told = [record["values"] for record in records if record["kind"] == "tags"]
    nodes = [values for values in told if "irtune.engine.node.rank_1" in values]
    assert len(nodes) >= 6
    assert all(node["irtune.engine.node.rank_0"] != node["irtune.engine.node.rank_1"] for node in nodes)
