"""What fits into a cluster, and paths that mean the same on all of its nodes."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from irtune.config.load import ConfigError, build
from irtune.config.schema import EngineConfig, ExperimentConfig, SweepConfig
from irtune.tuning.cluster import concurrency, in_job, with_absolute_paths

SPACE = {"selection.policy.k": {"type": "int", "low": 1, "high": 4}}


@pytest.mark.parametrize(
    ("engine", "resources", "trials"),
    [
        ({}, {"CPU": 8}, 8),
        ({}, {"CPU": 8, "GPU": 2, "memory": 1e9}, 8),
        ({"cpus_per_worker": 3}, {"CPU": 8}, 2),
        ({"num_workers": 2, "cpus_per_worker": 3}, {"CPU": 8}, 1),
        ({"gpus_per_worker": 1}, {"CPU": 64, "GPU": 4}, 4),
        ({"gpus_per_worker": 1, "cpus_per_worker": 20}, {"CPU": 64, "GPU": 4}, 3),
        ({"gpus_per_worker": 0.25}, {"CPU": 64, "GPU": 2}, 8),
        ({"num_workers": 4, "gpus_per_worker": 1}, {"CPU": 64, "GPU": 8}, 2),
        # In floats 3 / (3 * 0.1) is a little below 10.
        ({"num_workers": 3, "cpus_per_worker": 0.1}, {"CPU": 3}, 10),
    ],
)
def test_as_many_trials_run_at_once_as_the_scarcest_resource_holds(engine, resources, trials):
    assert concurrency(EngineConfig(**engine), resources) == trials


@given(
    num_workers=st.integers(1, 8),
    cpus=st.integers(1, 40).map(lambda tenths: tenths / 10),
    gpus=st.sampled_from([0, 0.1, 0.25, 0.5, 1, 2]),
    resources=st.fixed_dictionaries({"CPU": st.integers(1, 128), "GPU": st.integers(0, 16)}),
)
def test_what_runs_at_once_fits_and_one_more_would_not(num_workers, cpus, gpus, resources):
    assume(num_workers == 1 or gpus in (0, 1, 2))
    engine = EngineConfig(num_workers=num_workers, cpus_per_worker=cpus, gpus_per_worker=gpus)
    needs = {"CPU": num_workers * cpus, "GPU": num_workers * gpus}

    def fits(trials):
        return all(trials * need <= resources[name] + 1e-6 for name, need in needs.items())

    if not fits(1):
        with pytest.raises(ConfigError):
            concurrency(engine, resources)
        return
    assert fits(concurrency(engine, resources))
    assert not fits(concurrency(engine, resources) + 1)


def test_a_cluster_that_can_never_run_a_trial_is_refused_with_what_is_missing():
    engine = EngineConfig(num_workers=2, cpus_per_worker=4, gpus_per_worker=1)
    with pytest.raises(ConfigError) as caught:
        concurrency(engine, {"CPU": 6.0})
    assert caught.value.mistakes == (
        "engine.num_workers: a trial needs 8 CPUs (2 workers x engine.cpus_per_worker), the cluster has 6",
        "engine.num_workers: a trial needs 2 GPUs (2 workers x engine.gpus_per_worker), the cluster has 0",
    )


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
    assert mistakes["data.path"] == (
        "data.path: 'data/train.csv' is relative, and a job's working directory is Ray's temporary copy of yours; give "
        "the absolute path on all nodes, such as data.path=/shared/train.csv"
    )
    assert mistakes["tracking.uri"].endswith("such as tracking.uri=sqlite:////shared/mlflow.db")


@pytest.mark.usefixtures("inside_of_a_job")
def test_a_job_takes_the_home_folder_and_names_that_are_no_paths():
    config = build(ExperimentConfig, {"storage": "~/results", "model": {"name": "tiny-random"}}, "x")
    assert with_absolute_paths(config) == config
