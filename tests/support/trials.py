"""Trials through Ray Tune in one of the two ways, without search, driver and MLflow."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
from ray import tune

from irtune.config.load import explicit, load
from irtune.config.sweep_schema import SweepConfig
from irtune.search.source import TrialSpec
from irtune.training.record import result_of
from irtune.workers.execution import Execution
from irtune.workers.worker import TrialSetup

TINY = Path(__file__).parent / "tiny_sweep.yaml"


def run_trials(
    folder: Path,
    suggestions: Sequence[tuple[str, Mapping[str, Any]]],
    *,
    at_once: int = 1,
    stop: Mapping[str, float] | None = None,
    **overrides: Any,
) -> dict[str, Any]:
    """Run named trials on the Ray that is connected; returns what each finished one found.

    Args:
        folder: Of the sweep.
        suggestions: Name and overrides of each trial.
        at_once: Trials at once.
        stop: Tune's rule to stop a trial, such as ``{"step": 3}``.
        overrides: Settings of the sweep, with ``__`` for dots.
    """
    config = load(SweepConfig, TINY, {key.replace("__", "."): value for key, value in overrides.items()})
    setup = TrialSetup(explicit(config.experiment()), folder, ray.put(config.data.load()))
    execution = Execution(config, setup, at_once)
    tune.Tuner(
        execution.trainable(),
        param_space=tune.grid_search([asdict(TrialSpec(name, dict(values))) for name, values in suggestions]),
        tune_config=tune.TuneConfig(max_concurrent_trials=at_once, reuse_actors=True),
        run_config=tune.RunConfig(
            storage_path=str(folder),
            name="tune",
            verbose=0,
            stop=dict(stop or {}),
            failure_config=tune.FailureConfig(max_failures=config.tune.max_failures),
        ),
    ).fit()
    execution.close()
    results = {name: result_of(setup.trial_folder(name)) for name, _ in suggestions}
    return {name: result for name, result in results.items() if result is not None}


def without_times(result: Mapping[str, Any]) -> dict[str, Any]:
    """What of a result is the same on every machine."""
    measured = ("cost/train_s", "_s", "memory_bytes", "per_s")
    return {name: value for name, value in result.items() if not name.endswith(measured)}
