"""Both ways to run a trial find the same, bit for bit, and the pool survives what happens in its worker groups."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from sweeps import ROOT
from trials import run_trials, without_times

from irtune.training.record import RecordReader
from irtune.workers import cluster

A = {"selection.policy.k": 2}
B = {"selection.policy.k": 5, "training.learning_rate": 1e-2, "importance.within_block": "max"}
TWO_WORKERS: dict[str, Any] = {"engine__num_workers": 2, "engine__cpus_per_worker": 0.5, "engine__zero_stage": 2}


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'tests' / 'support'}")
        cluster.connect()
        yield
        ray.shutdown()


def attempts(folder: Path, trial: str) -> dict[int, list[int]]:
    """Of each attempt of a trial: the steps whose loss it recorded."""
    found: dict[int, list[int]] = {}
    for record in RecordReader(folder / "trials" / trial).poll():
        steps = found.setdefault(record["attempt"], [])
        if record["kind"] == "metrics" and "train/loss" in record["values"]:
            steps.append(record["step"])
    return found


def num_groups(folder: Path) -> int:
    """How many worker groups were started for a sweep."""
    return len(list((folder / "train").iterdir()))


def test_one_worker_finds_the_same_in_both_ways(tmp_path: Path) -> None:
    in_process = run_trials(tmp_path / "i", [("a", A), ("b", B)], tune__execution="in_process", adapter__dropout=0.1)
    pool = run_trials(tmp_path / "p", [("b", B), ("a", A)], tune__execution="pool", adapter__dropout=0.1)
    assert without_times(in_process["a"]) == without_times(pool["a"])
    assert without_times(in_process["b"]) == without_times(pool["b"])
    assert in_process["a"]["final/train_loss"] != in_process["b"]["final/train_loss"]


def test_two_workers_find_the_same_whatever_their_group_did_before(tmp_path: Path) -> None:
    trials = [("a", A), ("b", B), ("b again", B), ("a again", A)]
    found = run_trials(tmp_path, trials, **TWO_WORKERS, adapter__dropout=0.1, tune__renew_after=2)
    assert without_times(found["a"]) == without_times(found["a again"])
    assert without_times(found["b"]) == without_times(found["b again"])
    assert found["a"]["final/train_loss"] != found["b"]["final/train_loss"]
    # Two trials, then processes are renewed: each was once the first of its group, and once the second.
    assert num_groups(tmp_path) == 2


def test_an_exception_on_one_rank_ends_the_group_and_its_trial_goes_on_in_new_processes(tmp_path: Path) -> None:
    trials = []
    for name in ("faulty", "a"):
        (tmp_path / name).mkdir()
        signal = {"importance.name": "faulty_signals:RaisesOnRankOneOnce", "importance.flags": str(tmp_path / name)}
        trials.append((name, {**A, **signal}))
    (tmp_path / "a" / "raised").touch()
    started = time.monotonic()
    found = run_trials(tmp_path, trials, **TWO_WORKERS, tune__execution="pool", tune__renew_after=1)
    # Far from the ten minutes after which a collective gives up.
    assert time.monotonic() - started < 300
    assert without_times(found["faulty"]) == without_times(found["a"])
    assert attempts(tmp_path, "faulty") == {0: [1, 2, 3, 4, 5, 6], 1: [7, 8, 9]}
    # Renewed after each trial, no process sees two trials or two tries of one.
    processes = {name: {file.name for file in (tmp_path / name).glob("process_*")} for name, _ in trials}
    assert (len(processes["faulty"]), len(processes["a"])) == (4, 2)
    assert not processes["faulty"] & processes["a"]
    # None has started that no trial needed.
    assert num_groups(tmp_path) == 3


def test_a_stopped_trial_ends_at_its_report_and_its_group_takes_the_next(tmp_path: Path) -> None:
    found = run_trials(tmp_path, [("a", A), ("b", B)], stop={"step": 6}, **TWO_WORKERS)
    assert found == {}
    assert attempts(tmp_path, "a") == attempts(tmp_path, "b") == {0: [1, 2, 3, 4, 5, 6]}
    assert num_groups(tmp_path) == 1


def test_what_a_killed_leader_reserved_is_given_back_and_the_trial_goes_on(tmp_path: Path) -> None:
    faulty = {**A, "importance.name": "faulty_signals:KillsLeadersOnce", "importance.flags": str(tmp_path)}
    found = run_trials(tmp_path, [("faulty", faulty), ("a", A)], **TWO_WORKERS, tune__max_failures=2)
    assert {file.name for file in tmp_path.glob("ray::*")} == {"ray::TrainController", "ray::Pool"}
    assert without_times(found["faulty"]) == without_times(found["a"])
    deadline = time.monotonic() + 30
    while ray.available_resources().get("CPU") != ray.cluster_resources()["CPU"] and time.monotonic() < deadline:
        time.sleep(0.2)
    assert ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"]


@pytest.mark.parametrize("execution", ["in_process", "pool"])
def test_a_trial_that_always_fails_is_begun_once_and_again_max_failures_times(tmp_path: Path, execution: str) -> None:
    policy = {"selection.policy.name": "faulty_policies:RaisesThenIsKilled", "selection.policy.flags": str(tmp_path)}
    found = run_trials(tmp_path, [("faulty", {**A, **policy})], tune__execution=execution, tune__max_failures=1)
    assert found == {}
    assert sorted(attempts(tmp_path, "faulty")) == [0, 1]
    assert {(tmp_path / flag).exists() for flag in ("raised", "killed")} == {True}


@pytest.mark.parametrize("execution", ["in_process", "pool"])
def test_without_retries_a_trial_is_begun_once(tmp_path: Path, execution: str) -> None:
    faulty = {**A, "selection.policy.name": "faulty_policies:RaisesAtSecondRefresh"}
    run_trials(tmp_path, [("faulty", faulty)], tune__execution=execution, tune__max_failures=0)
    assert sorted(attempts(tmp_path, "faulty")) == [0]
