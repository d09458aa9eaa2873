"""What a sweep will do and take, said before anything runs; and kept, to stand beside what it took."""

import logging
import math
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import optuna
import yaml
from optuna.samplers import RandomSampler
from rich.console import Console

from irtune.analysis.tables import duration, operations
from irtune.config.load import storage_path, with_overrides
from irtune.config.schema import EngineConfig, ExperimentConfig, SweepConfig
from irtune.data.base import Split
from irtune.tracking.address import local_database, redact
from irtune.tracking.heartbeat import is_live
from irtune.tracking.json_file import write_json
from irtune.training.cost import CostModel, memory_by_shape
from irtune.training.model import shapes_only
from irtune.training.rehearsal import Pace, Rehearsal, RehearsalError
from irtune.tuning import cluster
from irtune.tuning.forecast import SweepCost, Trial, expected_stops
from irtune.tuning.preflight import Ready, Sweep, prepare, tokenise
from irtune.tuning.resume import Resume, sweep_to_resume
from irtune.tuning.searcher import BASELINE_OVERRIDES
from irtune.tuning.space import size, suggest

PLAN = "plan.json"
NUM_DRAWN = 30
"""Configurations drawn from the space to say what its trials take on average."""


@dataclass(frozen=True)
class Plan:
    """What a sweep will do and take.

    Args:
        facts: In words, by what they are about.
        predicted: Numbers, by what ``comparison.QUANTITIES`` calls them; what is not known is left out.
        source: Where the numbers come from.
    """

    facts: dict[str, str]
    predicted: dict[str, float]
    source: str

    def show(self, console: Console) -> None:
        """Print it."""
        for name, fact in self.facts.items():
            console.print(f"{name:11} {fact}", highlight=False, soft_wrap=True, markup=False)


def plan_sweep(config: SweepConfig, source: str, console: Console, resume: Resume, rehearsal: Rehearsal) -> Plan:
    """Check a sweep as ``run_sweep`` does, and say what that would do; nothing is started, and nothing written.

    Only a model that is not in the cache yet is put there.

    Args:
        config: The sweep.
        source: The file it came from, for messages.
        console: Where notes are shown.
        resume: Whether to go on with an earlier sweep of the same name.
        rehearsal: Of its experiment.

    Raises:
        ConfigError: If settings are wrong, the cluster can never run a trial, or what is to be resumed is another
            sweep.
        DataError: If rows cannot be used.
        TrackingError: If MLflow cannot be reached.
    """
    config = cluster.with_absolute_paths(config)
    ready = prepare(config, source, makes_store=False)
    for doubt in ready.doubts:
        console.print(f"note: {source}: {doubt}", highlight=False, soft_wrap=True, markup=False)
    # Without a terminal nobody is asked; what would be gone on with is only said.
    told = Console(file=console.file, width=console.width, force_terminal=False)
    fingerprint = ready.dataset.fingerprint()
    folder = sweep_to_resume(config, fingerprint, resume, source=source, console=told, is_live=is_live)
    fits = cluster.concurrency(config.engine, cluster.planned_resources())
    at_once = min(fits, config.tune.max_concurrent_trials or fits, num_planned(config))
    with tempfile.TemporaryDirectory(prefix="irtune-plan-") as encoded:
        lengths = tokenise(config, ready, Path(encoded))
        folder = folder or storage_path(config) / f"{config.name}-<date>-<time>"
        return make_plan(config, ready, lengths, rehearsal, at_once, folder)


def predict(
    sweep: Sweep, lengths: Mapping[Split, np.ndarray], rehearsal: Rehearsal, at_once: int, console: Console
) -> None:
    """Keep a plan in a sweep's folder, for its end to be compared with, and say how long the sweep will take.

    One that goes on keeps the plan it began with. No sweep fails for want of a plan: what goes wrong is logged.
    """
    if (sweep.folder / PLAN).is_file():
        return
    try:
        plan = make_plan(sweep.config, sweep.ready, lengths, rehearsal, at_once, sweep.folder)
        write_json(sweep.folder / PLAN, plan)
    except Exception as error:
        logging.getLogger(__name__).warning("there is no prediction: %s", error, exc_info=True)
        return
    console.print(f"{'time':8} {plan.facts['sweep']}; {plan.source}", highlight=False, soft_wrap=True, markup=False)


def num_planned(config: SweepConfig) -> int:
    """Trials of a sweep, the baseline included; fewer than were asked for if the space has no more."""
    return 1 + min(config.tune.num_trials, size(config.space) or sys.maxsize)


def make_plan(
    config: SweepConfig,
    ready: Ready,
    lengths: Mapping[Split, np.ndarray],
    rehearsal: Rehearsal,
    at_once: int,
    folder: Path,
) -> Plan:
    """What a sweep will do and take.

    The space is represented by random draws, although a sampler comes to prefer some of it, and every trial by the
    model and adapter of the experiment, also where the space varies them.

    Args:
        config: The sweep.
        ready: What was found out about it.
        lengths: Tokens ``(N,)`` of each split's examples.
        rehearsal: Of its experiment.
        at_once: Trials at a time.
        folder: Where the sweep will lie.
    """
    drawn = _drawn(config)
    longest = int(lengths["train"].max())
    tokens = longest * max(one.training.micro_batch_size for one in drawn)
    pace: Pace | None = None
    try:
        pace = rehearsal.pace()
        cost, memory_bytes = pace.cost, pace.memory_bytes(tokens)
        source = "measured: steps of the real model on this machine"
        source += ", one worker by itself" if config.engine.num_workers > 1 else ""
    except RehearsalError as error:
        model = shapes_only(ready.checkpoint, config.adapter)
        cost = CostModel.of(model, recompute=config.model.gradient_checkpointing)
        memory_bytes = memory_by_shape(model, config, tokens, longest)
        source = f"closed form: {error}"
    num_trials = num_planned(config)
    baseline = Trial.of(with_overrides(config.experiment(), BASELINE_OVERRIDES), cost, lengths, pace)
    others = Trial.mean([Trial.of(one, cost, lengths, pace) for one in drawn])
    if pace:
        # Worker groups start anew for each trial; a process of its own goes on with the next one.
        share = 1.0 if config.engine.num_workers > 1 else (at_once - 1) / (num_trials - 1)
        baseline = replace(baseline, load_s=baseline.load_s + pace.process_s)
        others = replace(others, load_s=others.load_s + share * pace.process_s)
    stops = expected_stops(config.tune.scheduler, num_trials, others)
    expected = SweepCost.of(baseline, others, num_trials, stops, at_once)
    predicted = {
        "step_s": baseline.step_s,
        "baseline_s": baseline.seconds,
        "trial_s": others.seconds,
        "trial_flops": others.step_flops * others.num_steps,
        "memory_bytes": memory_bytes,
        "stopped": expected.stopped,
        "trials_s": expected.trials_s,
        "sweep_s": expected.wall_s,
    }
    most = SweepCost.of(baseline, others, num_trials, {}, at_once)
    facts = {
        "trials": f"{num_trials}: the baseline and {num_trials - 1} of {_configurations(config)}",
        **{f"space {number}": _dimension(key, config) for number, key in enumerate(config.space, 1)},
        "a trial": _resources(config.engine),
        "at once": f"{at_once}",
        "estimates": source,
        "memory": f"{memory_bytes / 2**30:.2g} GiB a worker",
        "time": _times(baseline, others),
        "sweep": _sweep_in_words(config.engine, expected, most),
        **_places(config, ready, folder, sum(int(tokens.sum()) for tokens in lengths.values())),
    }
    return Plan(facts, {name: value for name, value in predicted.items() if not math.isnan(value)}, source)


def _drawn(config: SweepConfig) -> list[ExperimentConfig]:
    study = optuna.create_study(sampler=RandomSampler(seed=config.tune.seed))
    draws = [suggest(study.ask(), config.space) for _ in range(NUM_DRAWN)]
    return [with_overrides(config.experiment(), values) for values in draws]


def _configurations(config: SweepConfig) -> str:
    number = size(config.space)
    return "infinitely many configurations" if number is None else f"{number:,} configurations"


def _dimension(key: str, config: SweepConfig) -> str:
    said = config.space[key].model_dump(mode="json", exclude_defaults=True)
    return yaml.safe_dump({key: said}, default_flow_style=True, sort_keys=False, width=math.inf).strip()[1:-1]


def _resources(engine: EngineConfig) -> str:
    gpus = f" and {engine.gpus_per_worker:g} GPUs" if engine.gpus_per_worker else ""
    return f"{engine.num_workers} x {engine.cpus_per_worker:g} CPUs{gpus} (workers x what each has)"


def _times(baseline: Trial, others: Trial) -> str:
    if math.isnan(baseline.seconds):
        return f"unknown; {operations(baseline.step_flops)} FLOPs an optimizer step of the baseline"
    each = f"{baseline.step_s:.3g}s and {others.step_s:.3g}s an optimizer step"
    return f"{duration(baseline.seconds)} the baseline, {duration(others.seconds)} another trial; {each}"


def _sweep_in_words(engine: EngineConfig, expected: SweepCost, most: SweepCost) -> str:
    def words(cost: SweepCost) -> str:
        flops = f"{operations(cost.flops)} FLOPs of training"
        if math.isnan(cost.trials_s):
            return flops
        hours = cost.trials_s * engine.num_workers / 3600
        gpus = f", {hours * engine.gpus_per_worker:.2g} GPU-hours" if engine.gpus_per_worker else ""
        return f"{duration(cost.wall_s)}, {hours * engine.cpus_per_worker:.2g} core-hours{gpus}, {flops}"

    if not expected.stopped:
        return f"about {words(expected)}"
    return f"about {words(expected)}, if {expected.stopped:.1f} trials are stopped early; {words(most)}, if none is"


def _places(config: SweepConfig, ready: Ready, folder: Path, num_tokens: int) -> dict[str, str]:
    """What a sweep writes, and where."""
    database = local_database(ready.tracking_uri)
    made = "" if database is None or database.exists() else ", which will be made"
    return {
        "writes": f"{folder}: study, report and {PLAN}",
        "trials in": f"{folder / 'trials'}: measurements, checkpoints, adapters and predictions",
        "tokens in": f"{folder / 'encoded'}: {4 * num_tokens / 2**20:.1f} MiB, once for all trials",
        "MLflow": f"{redact(ready.tracking_uri)}, experiment {config.tracking.experiment}{made}",
    }
