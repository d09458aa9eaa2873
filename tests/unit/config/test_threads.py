"""How many threads a worker has: the cores of its machine, shared with the workers beside it."""

import pytest

from irtune.config.engine_schema import EngineConfig
from irtune.config.load import load, with_threads
from irtune.config.schema import ExperimentConfig
from irtune.processor import num_cores


@pytest.mark.parametrize(
    ("engine", "cores", "at_once", "threads"),
    [
        # One trial at a time has all cores, as many as fit share them.
        ({}, 2, 1, 2),
        ({}, 2, None, 1),
        ({}, 2, 2, 1),
        ({}, 8, 3, 2),
        ({}, 2, 5, 1),
        # What a worker reserves says how many fit.
        ({"cpus_per_worker": 4}, 10, None, 5),
        ({"cpus_per_worker": 0.25}, 2, None, 1),
        ({"cpus_per_worker": 0.25}, 2, 1, 2),
        ({"cpus_per_worker": 64}, 2, None, 2),
        # What is said is so.
        ({"threads_per_worker": 3}, 2, 2, 3),
    ],
)
def test_cores_are_shared_by_the_workers_at_once(engine, cores, at_once, threads):
    assert EngineConfig(**engine).threads(cores, at_once) == threads


def test_a_worker_is_told_its_number_and_nothing_else_changes():
    config = load(ExperimentConfig, None, {"engine.cpus_per_worker": 0.5})
    told = with_threads(config, 1)
    assert told.engine.threads_per_worker == num_cores()
    assert told.model_copy(update={"engine": config.engine}) == config
    assert told.engine.model_copy(update={"threads_per_worker": None}) == config.engine
