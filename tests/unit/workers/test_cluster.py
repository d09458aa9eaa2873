"""What fits into a cluster, and paths that mean the same on all of its nodes."""

import socket

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from saying import each_says, refused, says

from irtune.config.engine_schema import EngineConfig
from irtune.config.load import ConfigError, build
from irtune.config.schema import ExperimentConfig
from irtune.config.sweep_schema import SweepConfig
from irtune.workers.cluster import (
    LONGEST_TEMP,
    Node,
    concurrency,
    connect,
    in_job,
    session_folder,
    with_absolute_paths,
)

SPACE = {"selection.policy.k": {"type": "int", "low": 1, "high": 4}}


def nodes(*resources):
    return [Node(f"id{number}", f"10.0.0.{number}", each) for number, each in enumerate(resources, start=1)]


@pytest.mark.parametrize(
    ("engine", "resources", "trials"),
    [
        ({}, [{"CPU": 8}], 8),
        ({}, [{"CPU": 8, "GPU": 2, "memory": 1e9}], 8),
        ({"cpus_per_worker": 3}, [{"CPU": 8}], 2),
        ({"num_workers": 2, "cpus_per_worker": 3}, [{"CPU": 8}], 1),
        ({"gpus_per_worker": 1}, [{"CPU": 64, "GPU": 4}], 4),
        ({"gpus_per_worker": 1, "cpus_per_worker": 20}, [{"CPU": 64, "GPU": 4}], 3),
        ({"gpus_per_worker": 0.25}, [{"CPU": 64, "GPU": 2}], 8),
        ({"num_workers": 4, "gpus_per_worker": 1}, [{"CPU": 64, "GPU": 8}], 2),
        # In floats 3 / 0.1 is a little below 30.
        ({"num_workers": 3, "cpus_per_worker": 0.1}, [{"CPU": 3}], 10),
        # Of 10 CPUs a worker of 3 can use 9, and of 5 on each of two nodes 3: the rest of neither adds up to a third.
        ({"cpus_per_worker": 3}, [{"CPU": 10}], 3),
        ({"cpus_per_worker": 3}, [{"CPU": 5}, {"CPU": 5}], 2),
        # Two trials of two workers, one of them across both nodes.
        ({"num_workers": 2, "cpus_per_worker": 2}, [{"CPU": 6}, {"CPU": 2}, {}], 2),
        # Two workers with 0.4 of a GPU fit onto each GPU; the remaining fifths of two GPUs hold none.
        ({"gpus_per_worker": 0.4}, [{"CPU": 64, "GPU": 2}], 4),
        # The CPUs of the node without GPUs, and the GPUs of the one with few CPUs, are of no use.
        ({"gpus_per_worker": 2}, [{"CPU": 64}, {"CPU": 2, "GPU": 8}], 2),
    ],
)
def test_as_many_trials_run_at_once_as_the_nodes_hold_workers(engine, resources, trials):
    assert concurrency(EngineConfig(**engine), nodes(*resources)) == trials


@given(
    num_workers=st.integers(1, 8),
    cpus=st.integers(1, 40).map(lambda tenths: tenths / 10),
    gpus=st.sampled_from([0, 0.1, 0.25, 0.5, 1, 2]),
    resources=st.fixed_dictionaries({"CPU": st.integers(1, 128), "GPU": st.integers(0, 16)}),
)
def test_what_runs_at_once_fits_and_one_more_would_not(num_workers, cpus, gpus, resources):
    assume(num_workers == 1 or gpus in (0, 1, 2))
    engine = EngineConfig(num_workers=num_workers, cpus_per_worker=cpus, gpus_per_worker=gpus)
    needs = {"CPU": cpus, "GPU": gpus}

    def fit(workers):
        return all(workers * need <= resources[name] + 1e-6 for name, need in needs.items())

    if not fit(num_workers):
        with pytest.raises(ConfigError):
            concurrency(engine, nodes(resources))
        return
    trials = concurrency(engine, nodes(resources))
    assert fit(trials * num_workers)
    assert not fit((trials + 1) * num_workers)


def test_a_worker_that_no_node_holds_is_refused_though_all_together_would():
    engine = EngineConfig(cpus_per_worker=3)
    with pytest.raises(ConfigError) as caught:
        concurrency(engine, nodes({"CPU": 2.0}, {"CPU": 2.0, "GPU": 1.0}))
    assert each_says(
        caught.value.mistakes,
        (
            "engine.num_workers: … needs 1 … 3 CPUs and 0 GPUs … room for 0",
            "10.0.0.1 … 2 CPUs and 0 GPUs … 10.0.0.2 … 2 CPUs and 1 GPUs",
            "ask for less … add nodes",
        ),
    )


def test_a_trial_with_more_workers_than_there_is_room_for_is_refused():
    engine = EngineConfig(num_workers=4, gpus_per_worker=1)
    with refused(ConfigError, "needs 4 … 1 CPUs and 1 GPUs … room for 3"):
        concurrency(engine, nodes({"CPU": 8, "GPU": 2}, {"CPU": 1, "GPU": 4}))


def test_more_than_one_gpu_is_a_whole_number_of_them():
    with refused(ConfigError, "engine.gpus_per_worker: … whole number … 1.5"):
        build(ExperimentConfig, {"engine": {"gpus_per_worker": 1.5}}, "x")


def test_workers_of_one_trial_do_not_share_a_gpu():
    with refused(ConfigError, "engine.gpus_per_worker: 0.5 … one GPU"):
        build(ExperimentConfig, {"engine": {"gpus_per_worker": 0.5, "num_workers": 2}}, "x")
    assert EngineConfig(gpus_per_worker=0.5).gpus_per_worker == 0.5


@pytest.fixture
def outside_of_jobs(monkeypatch):
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)


@pytest.fixture
def inside_of_a_job(monkeypatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")


def relative_config():
    return build(
        SweepConfig,
        {
            "storage": "results",
            "model": {"name": "./checkpoint"},
            "data": {
                "name": "file",
                "path": "data/train.csv",
                "validation_path": "validation.csv",
                "test_path": "/test.csv",
            },
            "tracking": {"uri": "sqlite:///tracking/mlflow.db"},
            "selection": {"policy": {"name": "top_k", "k": 2}},
            "space": SPACE,
            "tune": {"warm_start": "results/earlier"},
        },
        "sweep.yaml",
    )


@pytest.mark.usefixtures("outside_of_jobs")
def test_relative_paths_are_those_of_the_folder_that_the_sweep_is_started_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = relative_config()
    absolute = with_absolute_paths(config)
    assert not in_job()
    assert isinstance(absolute, SweepConfig)
    assert absolute.storage == str(tmp_path / "results")
    assert absolute.model.name == str(tmp_path / "checkpoint")
    assert absolute.tune.warm_start == str(tmp_path / "results" / "earlier")
    assert absolute.data.path_fields() == {
        "path": str(tmp_path / "data" / "train.csv"),
        "validation_path": str(tmp_path / "validation.csv"),
        "test_path": "/test.csv",
    }
    # Nothing else is touched.
    paths = {"storage", "model", "data", "tune"}
    assert absolute.model_dump(exclude=paths) == config.model_dump(exclude=paths)


@pytest.mark.usefixtures("outside_of_jobs")
def test_a_list_of_paths_becomes_absolute_one_by_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = {"name": "file", "path": ["a.csv", "/b.csv"], "validation_path": "parts/*.csv", "test_path": ["~/c.csv"]}
    absolute = with_absolute_paths(build(ExperimentConfig, {"storage": "/shared", "data": data}, "x"))
    assert absolute.data.path_fields() == {
        "path": [str(tmp_path / "a.csv"), "/b.csv"],
        "validation_path": str(tmp_path / "parts" / "*.csv"),
        "test_path": ["~/c.csv"],
    }


@pytest.mark.usefixtures("inside_of_a_job")
def test_a_job_refuses_a_list_with_a_relative_path():
    data = {"name": "file", "path": ["a.csv", "/b.csv"]}
    with refused(ConfigError, "data.path: ['a.csv', '/b.csv'] is relative", "data.path=[/shared/a.csv, /shared/b.csv]"):
        with_absolute_paths(build(ExperimentConfig, {"storage": "/shared", "data": data}, "x"))


@pytest.mark.parametrize("job", ["outside_of_jobs", "inside_of_a_job"])
def test_paths_that_are_absolute_stay_as_they_are(job, request):
    request.getfixturevalue(job)
    config = build(ExperimentConfig, {"storage": "/shared/results", "tracking": {"uri": "sqlite:////shared/x.db"}}, "x")
    assert with_absolute_paths(config) == config


@pytest.mark.usefixtures("inside_of_a_job")
def test_a_job_refuses_relative_paths_all_together_with_an_example_each():
    with pytest.raises(ConfigError) as caught:
        with_absolute_paths(relative_config())
    assert in_job()
    mistakes = {mistake.partition(": ")[0]: mistake for mistake in caught.value.mistakes}
    assert mistakes.keys() == {
        "storage",
        "data.path",
        "data.validation_path",
        "tracking.uri",
        "model.name",
        "tune.warm_start",
    }
    assert says(
        mistakes["data.path"], "data.path: 'data/train.csv' is relative", "absolute path", "data.path=/shared/train.csv"
    )
    assert mistakes["tracking.uri"].endswith("such as tracking.uri=sqlite:////shared/mlflow.db")


@pytest.mark.usefixtures("inside_of_a_job")
def test_a_job_takes_the_home_folder_and_names_that_are_no_paths():
    config = build(ExperimentConfig, {"storage": "~/results", "model": {"name": "tiny-random"}}, "x")
    assert with_absolute_paths(config) == config


def test_a_cluster_that_is_not_there_is_said_at_once(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    monkeypatch.setattr("ray.init", lambda **options: pytest.fail("Ray was asked, which takes minutes"))
    with refused(ConnectionError, f"RAY_ADDRESS is 127.0.0.1:{port}", "refused", "running?"):
        connect()


def test_a_temporary_folder_too_long_for_sockets_is_got_round_and_one_that_was_named_for_ray_refused(caplog):
    fits, too_long = "/" + "t" * (LONGEST_TEMP - 1), "/" + "t" * LONGEST_TEMP
    assert session_folder({}) is None
    assert session_folder({"TMPDIR": fits}) is session_folder({"TMPDIR": too_long, "RAY_TMPDIR": fits}) is None
    assert caplog.messages == []
    assert session_folder({"TMPDIR": too_long}) == "/tmp/ray"
    assert "TMPDIR is too long for Ray's sockets" in caplog.text
    with pytest.raises(ConfigError, match=rf"RAY_TMPDIR: {too_long}: .* at most {LONGEST_TEMP}, such as /tmp"):
        session_folder({"RAY_TMPDIR": too_long})
    # Bytes count, not characters.
    assert session_folder({"TMPDIR": "/" + "ü" * (LONGEST_TEMP // 2 + 1)}) == "/tmp/ray"
