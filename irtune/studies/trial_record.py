"""The driver's table of trials: what each is, how far it is, and what it has measured, from its record."""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from irtune.analysis.groups import Groups
from irtune.analysis.metrics import MACRO_F1, Metric
from irtune.analysis.trials import BASELINE, Status, TrialRow
from irtune.config.load import dotted_keys
from irtune.config.schema import ExperimentConfig
from irtune.config.study_schema import Aim, Constraint
from irtune.search import objectives
from irtune.search.source import TrialSpec
from irtune.selection.policy import resolve_count
from irtune.training.trial_folder import PREDICTIONS

_SUMMED = ("cost/step_s", "cost/step_flops", "cost/active_blocks", "cost/lowest_active_block")


@dataclass
class TrialRecord:
    """One trial.

    Args:
        spec: What it is to be.
        name: What people see.
        config: Its whole configuration.
        folder: Its folder on storage.
        attempts: Those that have trained.
        interruptions: Why this driver had to try again, each in a line.
    """

    spec: TrialSpec
    name: str
    config: ExperimentConfig
    folder: Path
    status: Status | None = None
    error: str | None = None
    step: int = 0
    num_blocks: int = 0
    is_settled: bool = False
    latest: dict[str, float] = field(default_factory=dict)
    attempts: set[int] = field(default_factory=set)
    interruptions: list[str] = field(default_factory=list)
    _steps: dict[int, tuple[float, ...]] = field(default_factory=dict)
    _mean_step: tuple[float, ...] | None = None
    _attempt: int = 0

    def take(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Note new records of what the trial measured; steps that a restarted trial repeats count once."""
        for record in records:
            if record["attempt"] < self._attempt:
                # A worker that was cut off writes on, while another has taken its place.
                continue
            self._attempt = record["attempt"]
            if record["kind"] == "metrics":
                self.latest.update(record["values"])
                self.step = max(self.step, record["step"])
                if "train/loss" in record["values"]:
                    self.attempts.add(record["attempt"])
                if all(name in record["values"] for name in _SUMMED):
                    self._steps[record["step"]] = tuple(record["values"][name] for name in _SUMMED)
            elif record["kind"] == "tags" and "irtune.blocks" in record["values"]:
                self.num_blocks = int(record["values"]["irtune.blocks"])

    def settle(self) -> None:
        """All of the trial's records are taken: of its steps no more than their mean is kept."""
        self._mean_step, self._steps = self._mean(), {}
        self.is_settled = True

    def row(self, aim: Aim, metric: Metric = MACRO_F1) -> TrialRow:
        """The trial as the analysis sees it. A trial that did not finish has its costs summed up from its steps.

        Args:
            aim: What the study searches for and demands.
            metric: What its trials are scored by.
        """
        first, _ = aim.first_objective
        # NaN where it was not measured: what trials are scored by does not stand in for another objective.
        values = {name: math.nan if (v := self.score(name)) is None else v for name in aim.objectives}
        seconds, flops, active, lowest = self._costs()
        labels, predictions, predicted, groups, lacking = self._predictions(metric)
        policy = self.config.selection.policy
        k = getattr(policy, "k", None)
        return TrialRow(
            trial_id=self.spec.name,
            name=self.name,
            strategy=self.config.strategy,
            status=self.status or "killed",
            num_blocks=self.num_blocks,
            seed=self.config.seed,
            reselect_every=self.config.selection.reselect_every,
            k=None if k is None or not self.num_blocks else resolve_count(k, self.num_blocks),
            within_block=getattr(self.config.importance, "within_block", None) if policy.uses_importance else None,
            mean_active=active,
            metric=metric,
            validation_score=self.score(f"eval/{metric.name}"),
            test_score=self.latest.get(f"final/test_{metric.name}"),
            train_loss=self.latest.get("final/train_loss", self.latest.get("train/loss")),
            seconds=seconds,
            flops=flops,
            trainable_share=self.latest.get("cost/trainable_share"),
            mean_lowest_active=lowest,
            peak_memory_bytes=self.latest.get("cost/peak_memory_bytes", self.latest.get("cost/memory_bytes")),
            step_s=self.latest.get("cost/mean_step_s"),
            tokens_per_s=self.latest.get("cost/mean_tokens_per_s"),
            **_refresh_shares(self.latest),
            test_labels=labels,
            test_predictions=predictions,
            test_groups=groups,
            test_classes=predicted,
            classes=lacking,
            params=dotted_keys(self.config),
            objective=None if first == f"eval/{metric.name}" else values[first],
            objectives=values if len(values) > 1 else {},
            broken=self.broken(aim.constraints),
            repeats=self.spec.repeats,
            attempts=max(len(self.attempts), 1),
        )

    def score(self, metric: str) -> float | None:
        """A metric of the trial: of the best weights if it finished, else as last measured."""
        return objectives.measured(self.latest, metric)

    def broken(self, constraints: Mapping[str, Constraint]) -> tuple[str, ...]:
        """The constraints that the trial, if it finished, breaks."""
        return objectives.broken(self.latest, constraints) if self.status == "finished" else ()

    def _costs(self) -> tuple[float | None, ...]:
        names = (
            "cost/train_s",
            "cost/total_flops",
            "cost/mean_active_blocks",
            "cost/mean_lowest_active_block",
        )
        if all(name in self.latest for name in names):
            return tuple(self.latest[name] for name in names)
        mean = self._mean()
        if mean is None:
            return (None,) * len(names)
        seconds, flops, active, lowest = mean
        # Steps in between two logged ones are taken to be like them.
        return seconds * self.step, flops * self.step, active, lowest

    def _mean(self) -> tuple[float, ...] | None:
        steps = list(self._steps.values())
        return tuple(np.mean(steps, axis=0).tolist()) if steps else self._mean_step

    def _predictions(self, metric: Metric) -> tuple[Any, Any, Any, Groups | None, dict[str, str]]:
        """Of test labels, predictions as the metric reads them and as classes, groups; what macro scores lack."""
        file = self.folder / PREDICTIONS
        if self.status != "finished" or not file.is_file():
            return None, None, None, None, {}
        with np.load(file, allow_pickle=False) as arrays:
            probabilities = arrays["test_probabilities"]
            num_classes = probabilities.shape[1]
            names = {split: f"{split}_labels" for split in ("validation", "test")}
            held = {split: len(np.unique(arrays[name])) for split, name in names.items() if name in arrays}
            lacking = {split: f"{n} of {num_classes} classes" for split, n in held.items() if n < num_classes}
            labels = arrays["test_labels"]
            read = metric.read(labels, probabilities)
            return labels, read, probabilities.argmax(axis=1), Groups.read(arrays, "test"), lacking


def _refresh_shares(measured: Mapping[str, float]) -> dict[str, float | None]:
    """What measuring blocks adds to training, as shares by the names that a ``TrialRow`` has for them."""
    total, probes = measured.get("cost/total_flops"), measured.get("cost/probe_flops")
    step, ordinary = measured.get("cost/mean_step_s"), measured.get("cost/mean_ordinary_step_s")
    trained = None if total is None or probes is None else total - probes
    return {
        "refresh_flops_share": probes / trained if probes is not None and trained else None,
        "refresh_time_share": step / ordinary - 1 if step is not None and ordinary else None,
    }


def trial_name(config: ExperimentConfig) -> str:
    """A telling name, such as ``top_k k=17 refresh=20 max``."""
    policy = config.selection.policy
    fields = type(policy).model_fields
    # Without a method its own defaults are what is usual.
    knobs = policy.model_dump(mode="json", exclude={"name"}, exclude_defaults=config.method is None)
    usual = ExperimentConfig(method=config.method).selection.policy.model_dump(mode="json") if config.method else {}
    shown = [
        f"{key}={value}"
        for key, value in knobs.items()
        if fields[key].is_required() or key not in usual or value != usual[key]
    ]
    interval = config.selection.reselect_every
    parts = [config.strategy, *shown, f"refresh={interval}" if interval else "once"]
    if policy.uses_importance:
        parts.append(str(getattr(config.importance, "within_block", config.importance.name)))
    return " ".join(parts) if config.strategy != BASELINE else BASELINE


def config_hash(config: ExperimentConfig) -> str:
    """SHA-256 over all settings but names and where things lie, 12 hexadecimal digits."""
    settings = {
        key: value
        for key, value in dotted_keys(config).items()
        if key.split(".")[0] not in ("name", "storage", "tracking")
    }
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
