"""What a sweep will do and take, said before anything runs; and kept, to stand beside what it took."""

import logging
import os
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.samplers import RandomSampler
from pydantic import TypeAdapter
from rich.console import Console

from irtune.analysis.tables import duration
from irtune.config.load import ConfigError, storage_path, with_overrides
from irtune.config.schema import Dimension, EngineConfig, ExperimentConfig, SweepConfig
from irtune.data.base import Split
from irtune.tracking.address import local_database, redact
from irtune.training.cost import CostModel
from irtune.training.distributed import num_gpus
from irtune.training.estimate import StepEstimate, closed_form
from irtune.training.model import materialize, shapes_only
from irtune.training.rehearsal import Rehearsal, RehearsalError
from irtune.training.workload import Workload
from irtune.tuning import cluster
from irtune.tuning.forecast import SweepCost, TrialCost, num_planned
from irtune.tuning.preflight import Ready, prepare, tokenise
from irtune.tuning.searcher import BASELINE_OVERRIDES
from irtune.tuning.space import size, suggest

_LOGGER = logging.getLogger(__name__)
PLAN = "plan.json"
NUM_DRAWN = 50
"""Configurations drawn from the space to say what its trials cost on average."""


@dataclass(frozen=True)
class Plan:
    """What a sweep will do and take.

    Args:
        name: Of the sweep.
        num_trials: The baseline included.
        num_configurations: Of the space; None = infinitely many.
        space: Its dimensions by dotted key.
        engine: What a trial runs on.
        at_once: Trials at a time; None where that is not known here.
        where: What ``at_once`` depends on, in words.
        estimate: What a worker takes, and whether that was measured.
        baseline: Of the trial in which every block trains.
        selective: Of the others, on average over the space.
        expected: Of the sweep, if trials come in no order of quality.
        most: Of the sweep, if none is stopped early.
        places: What is written where, by what it is.
    """

    name: str
    num_trials: int
    num_configurations: int | None
    space: Mapping[str, Dimension]
    engine: EngineConfig
    at_once: int | None
    where: str
    estimate: StepEstimate
    baseline: TrialCost
    selective: TrialCost
    expected: SweepCost
    most: SweepCost
    places: Mapping[str, str]

    def write(self, folder: Path) -> None:
        """Keep the plan in a sweep's folder."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / PLAN).write_bytes(TypeAdapter(Plan).dump_json(self, indent=1))

    @classmethod
    def read(cls, folder: Path) -> "Plan | None":
        """The plan in a sweep's folder; None if there is none that this version can read."""
        try:
            return TypeAdapter(Plan).validate_json((folder / PLAN).read_bytes())
        except FileNotFoundError:
            return None
        except ValueError as error:
            _LOGGER.warning("%s cannot be read: %s", folder / PLAN, error)
            return None


def plan_sweep(config: SweepConfig, source: str, console: Console, rehearsal: Rehearsal) -> Plan:
    """Check a sweep as ``run_sweep`` does and say what it would do. Starts no Ray and writes nothing that stays.

    Only a model that is not in the cache yet is put there.

    Args:
        config: The sweep.
        source: The file it came from, for messages.
        console: Where notes are shown.
        rehearsal: What tries a few steps; not asked where trials would run elsewhere.

    Raises:
        ConfigError: If settings are wrong.
        DataError: If rows cannot be used.
        TrackingError: If MLflow cannot be reached.
    """
    config = cluster.with_absolute_paths(config)
    measures = not _elsewhere(config.engine)
    if measures:
        # Whatever is wrong with the settings is found while it loads the model, and said with the rest.
        rehearsal.begin(_baseline(config))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="irtune-plan-")))
        if console.is_terminal:
            stack.enter_context(console.status("checking settings, model and data, and trying a few steps"))
        ready = prepare(config, source, makes_store=False)
        lengths = tokenise(config, ready, folder)
        for doubt in ready.doubts:
            console.print(f"note: {source}: {doubt}", highlight=False, soft_wrap=True, markup=False)
        return make_plan(config, ready, lengths, rehearsal if measures else None)


class Prediction:
    """The plan that a sweep makes of itself at its start, for its end to be compared with; nothing may fail for it.

    Making one takes a few seconds of the real model before the first trial, most of them (imports) while the sweep is
    being checked. Enter it before the checks.

    Args:
        config: The sweep.
    """

    def __init__(self, config: SweepConfig) -> None:
        self._config = config
        self._stack = ExitStack()
        self._rehearsal: Rehearsal | None = None

    def __enter__(self) -> "Prediction":
        try:
            if not _elsewhere(self._config.engine):
                self._rehearsal = self._stack.enter_context(Rehearsal(self._config.engine))
                self._rehearsal.begin(_baseline(self._config))
        except (OSError, ValueError) as error:
            # What is wrong with the configuration the checks say.
            _LOGGER.warning("nothing is tried before the sweep: %s", error)
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def make(self, ready: Ready, lengths: Mapping[Split, np.ndarray], folder: Path, console: Console) -> None:
        """Write the plan to the sweep's folder and say how long the sweep will take, unless a plan is there already."""
        with self._stack:
            if (folder / PLAN).is_file():
                return
            try:
                with console.status("trying a few steps") if console.is_terminal else nullcontext():
                    plan = make_plan(self._config, ready, lengths, self._rehearsal)
                plan.write(folder)
            except Exception as error:
                _LOGGER.warning("the sweep goes on without a prediction: %s", error)
                return
        if plan.expected.wall_s is not None and plan.most.wall_s is not None:
            text = f"about {duration(plan.expected.wall_s)}"
            if plan.expected.stopped:
                text += f", {duration(plan.most.wall_s)} if no trial is stopped early"
            text += f" ({plan.estimate.source}: {plan.estimate.how})"
            console.print(f"{'time':8} {text}", highlight=False, soft_wrap=True, markup=False)


def make_plan(
    config: SweepConfig, ready: Ready, lengths: Mapping[Split, np.ndarray], rehearsal: Rehearsal | None
) -> Plan:
    """What a sweep will do and take.

    Trials are costed by their FLOPs relative to those of the baseline, which was tried. The space is represented by
    random draws, although a sampler comes to prefer some of it, and the cost of a model's blocks is that of the
    experiment's own adapter, also where the space varies that.

    Args:
        config: The sweep.
        ready: What was found out about it.
        lengths: Tokens of each example ``(N,)`` of each split.
        rehearsal: What measures, and has begun to; None where trials would run elsewhere.
    """
    base = _baseline(config)
    costs = {config.model.name: _cost_model(base)}
    works = []
    for one in (base, *_drawn(config)):
        if one.model.name not in costs:
            costs[one.model.name] = _cost_model(one)
        works.append(Workload.of(one, costs[one.model.name], lengths))
    baseline, *others = works
    estimate = _estimate(base, int(lengths["train"].max()), rehearsal)
    at_once, where = _at_once(config)
    num_workers = config.engine.num_workers
    return Plan(
        name=config.name,
        num_trials=num_planned(config),
        num_configurations=size(config.space),
        space=config.space,
        engine=config.engine,
        at_once=at_once,
        where=where,
        estimate=estimate,
        baseline=TrialCost.of(baseline, estimate.times, num_workers, is_first=True),
        selective=TrialCost.mean([TrialCost.of(work, estimate.times, num_workers) for work in others]),
        expected=SweepCost.of(config, baseline, others, estimate.times, at_once, config.tune.scheduler),
        most=SweepCost.of(config, baseline, others, estimate.times, at_once, None),
        places=_places(config, ready, sum(int(tokens.sum()) for tokens in lengths.values())),
    )


def _elsewhere(engine: EngineConfig) -> str:
    """Why trials would run on other devices than this machine's; "" if they would not."""
    if cluster.joins():
        return "trials run on a cluster, whose machines may be unlike this one"
    if engine.gpus_per_worker and not num_gpus():
        return "trials need GPUs, and this machine has none"
    return ""


def _at_once(config: SweepConfig) -> tuple[int | None, str]:
    """Trials at a time, and what that depends on."""
    limit = min(config.tune.max_concurrent_trials or sys.maxsize, num_planned(config))
    if cluster.joins():
        return None, "as many as the cluster holds" + (f", at most {limit}" if limit < num_planned(config) else "")
    here = {"CPU": os.cpu_count() or 1, "GPU": num_gpus()}
    holds = " and ".join(f"{count} {name}s" for name, count in here.items() if count)
    try:
        return min(cluster.concurrency(config.engine, here), limit), f"on this machine, which has {holds}"
    except ConfigError as error:
        return None, f"none on this machine, which has {holds}: {'; '.join(error.mistakes)}"


def _cost_model(config: ExperimentConfig) -> CostModel:
    return CostModel.of(_shapes(config), recompute=config.model.gradient_checkpointing)


def _shapes(config: ExperimentConfig) -> Any:
    return shapes_only(materialize(config.model), config.adapter)


def _baseline(config: SweepConfig) -> ExperimentConfig:
    return with_overrides(config.experiment(), BASELINE_OVERRIDES)


def _drawn(config: SweepConfig) -> list[ExperimentConfig]:
    study = optuna.create_study(sampler=RandomSampler(seed=config.tune.seed))
    draws = [suggest(study.ask(), config.space) for _ in range(NUM_DRAWN)]
    return [with_overrides(config.experiment(), values) for values in draws]


def _estimate(base: ExperimentConfig, longest: int, rehearsal: Rehearsal | None) -> StepEstimate:
    """Measured if that is possible, else from the closed form."""
    reason = _elsewhere(base.engine)
    if rehearsal is not None:
        try:
            return rehearsal.result()
        except RehearsalError as error:
            reason = str(error)
    return closed_form(base, _shapes(base), longest, reason)


def _places(config: SweepConfig, ready: Ready, num_tokens: int) -> dict[str, str]:
    """What a sweep writes, and where."""
    encoded_bytes = 4 * num_tokens
    folder = storage_path(config) / f"{config.name}-<date>-<time>"
    database = local_database(ready.tracking_uri)
    made = "" if database is None or database.exists() else ", which will be made"
    return {
        "trials": f"{folder}/trials: measurements, checkpoints, adapters and predictions",
        "encoded data": f"{folder}/encoded: {encoded_bytes / 2**20:.1f} MiB of tokens, once for all trials",
        "results": f"{folder}: report.html, {PLAN}, the study and what else is about the sweep",
        "MLflow": f"{redact(ready.tracking_uri)}, experiment {config.tracking.experiment}{made}",
    }
