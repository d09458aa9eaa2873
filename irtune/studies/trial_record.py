"""One trial as far as it is known: from what it measured, and from what its driver says of it."""

import ast
import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from irtune.analysis.groups import Groups
from irtune.analysis.metrics import MACRO_F1, Metric
from irtune.analysis.trials import BASELINE, Status, TrialRow
from irtune.config.load import apply_overrides, build, dotted_keys
from irtune.config.schema import VARIANTS, ExperimentConfig
from irtune.config.study_schema import Aim, Constraint
from irtune.config.tree import at, flatten
from irtune.search import objectives
from irtune.search.source import TrialSpec
from irtune.selection.policy import resolve_count
from irtune.tracking.run_record import Ended, RunRecord
from irtune.tracking.trace import read_trace
from irtune.training.record import RecordReader, result_of
from irtune.training.trial_folder import PREDICTIONS

if TYPE_CHECKING:
    from irtune.analysis.ablation.stability import Choices

_SUMMED = ("cost/step_s", "cost/step_flops", "cost/active_blocks", "cost/lowest_active_block")
_BLOCKS = "irtune.blocks"
"""A tag that is written with the last of what describes a trial."""

_OF_RUN: Mapping[str, Status | None] = {"FINISHED": "finished", "FAILED": "failed", "KILLED": None}


@dataclass(eq=False)
class TrialRecord:
    """One trial. The driver of its study knows what it is to be; for everybody else ``of`` makes it from its folder.

    Args:
        spec: What it is to be.
        title: What people see.
        known: Its whole configuration, where its driver has it.
        folder: Its folder on storage.
        status: How it ended; None while it runs, and where it was killed, since it may go on.
        error: Why it failed.
        step: The last optimizer step that it measured something at.
        num_blocks: L; 0 before it says so.
        is_settled: No more is to come.
        latest: The last value of each metric.
        attempts: Those that have trained.
        interruptions: Why this driver had to try again, each in a line.
        metric: What its curve is of; None keeps none.
        curve: That metric by step.
        active: Blocks that train now.
        began_ms: When, since the epoch; as late as can be before its driver has said so.
        was_killed: Whether its driver says so.
        damage: Why its records cannot be read.
        tags: What the driver and the trial noted of it; empty in its driver's own memory, as the next two are.
        tree: Its settings as a configuration file holds them; empty before it knew them.
        texts: Its settings by dotted key, as text.
        has_result: It has finished, whoever heard of it.
    """

    spec: TrialSpec
    title: str
    known: ExperimentConfig | None
    folder: Path
    status: Status | None = None
    error: str | None = None
    step: int = 0
    num_blocks: int = 0
    is_settled: bool = False
    latest: dict[str, Any] = field(default_factory=dict)
    attempts: set[int] = field(default_factory=set)
    interruptions: list[str] = field(default_factory=list)
    metric: str | None = None
    curve: dict[int, float] = field(default_factory=dict)
    active: tuple[int, ...] = ()
    began_ms: int = sys.maxsize
    was_killed: bool = False
    damage: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    tree: Mapping[str, Any] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    has_result: bool = False
    _steps: dict[int, tuple[float, ...]] = field(default_factory=dict)
    _mean_step: tuple[float, ...] | None = None
    _attempt: int = 0

    def __post_init__(self) -> None:
        self._reader = RecordReader(self.folder)

    @classmethod
    def of(cls, folder: Path, metric: str | None = None) -> "TrialRecord":
        """The trial of a folder, before the first look at it."""
        return cls(TrialSpec(folder.name, {}), "", None, folder, metric=metric)

    @property
    def name(self) -> str:
        """Its name in its study."""
        return self.spec.name

    @property
    def has_start(self) -> bool:
        """Whether its driver's record says how it began."""
        return self.began_ms < sys.maxsize

    @property
    def configuration(self) -> str:
        """The name that all of its seeds have in common."""
        return self.spec.name if self.spec.repeats is None else self.spec.repeats

    @property
    def config(self) -> ExperimentConfig:
        """Its whole configuration.

        A policy, signal or data set that has to be imported is not, where only its record says it: its section then
        holds defaults.

        Raises:
            ConfigError: Its record does not hold it.
        """
        if self.known is not None:
            return self.known
        tree = self.tree
        for section, variants in VARIANTS.items():
            if ":" in str(at(tree, [*section.split("."), "name"])):
                tree = apply_overrides(tree, {f"{section}.name": variants.default})
        return build(ExperimentConfig, tree, str(self.folder))

    @property
    def settings(self) -> dict[str, Any]:
        """Its settings by dotted key."""
        return {key: _value(text) for key, text in self.texts.items()}

    @property
    def seed(self) -> int:
        """Its seed."""
        return int(self.texts["seed"]) if self.known is None else self.known.seed

    @property
    def max_steps(self) -> int | None:
        """Optimizer steps that it would do; None before it says so."""
        if self.known is not None:
            return self.known.training.max_steps
        text = self.texts.get("training.max_steps")
        return None if text is None else int(text)

    @property
    def is_baseline(self) -> bool:
        """True where every block trains at every step."""
        strategy = self.tags.get("irtune.strategy") if self.known is None else self.known.strategy
        return strategy == BASELINE

    def look(self, *, briefly: bool = False) -> None:
        """Read on in both of its records, from the last look.

        Args:
            briefly: Of what it measured only what describes it, and its result.

        Raises:
            OSError: They cannot be read.
            ValueError, TypeError, KeyError: They are damaged.
        """
        if self.is_settled:
            return
        # How it ended is looked at first: a trial that is over measures no more.
        run = RunRecord(self.folder)
        end = None
        if run.file.exists():
            opened, end = run.start(), run.end()
            self.title, self.began_ms = opened.name, opened.start_time_ms
            self.tags = opened.tags | self.tags
            self.spec = TrialSpec(self.spec.name, {}, opened.tags.get("irtune.repeats"))
        if briefly:
            self._read_briefly()
        else:
            self.take(self._reader.poll())
        self._take_end(end)

    def read(self) -> None:
        """Read on in what it measured."""
        self.take(self._reader.poll())

    def take(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Note new records of what the trial measured; steps that a restarted trial repeats count once."""
        for record in records:
            if record["attempt"] < self._attempt:
                # A worker that was cut off writes on, while another has taken its place.
                continue
            self._attempt = record["attempt"]
            kind, values = record["kind"], record.get("values", {})
            if kind == "metrics":
                self._take_metrics(record)
            elif kind == "selection":
                self.active = tuple(record["active"])
                self.num_blocks = self.num_blocks or len(record["scores"])
            elif kind == "tags":
                self.num_blocks = int(values.get(_BLOCKS, self.num_blocks))
                self.tags |= {} if self.known else {str(key): str(text) for key, text in values.items()}
            elif kind == "params" and self.known is None:
                self.tree, self.texts = record.get("settings", {}), values
            elif kind == "result":
                self._take_result(values)

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
        config, policy = self.config, self.config.selection.policy
        k = getattr(policy, "k", None)
        within_block = getattr(config.importance, "within_block", None)
        if self.tree:
            # As it was, though a signal that has to be imported is not.
            within_block = at(self.tree, ["importance", "within_block"])
        return TrialRow(
            trial_id=self.spec.name,
            name=self.title,
            strategy=self.tags.get("irtune.strategy", config.strategy),
            status=self.status or "killed",
            num_blocks=self.num_blocks,
            seed=config.seed,
            reselect_every=config.selection.reselect_every,
            k=None if k is None or not self.num_blocks else resolve_count(k, self.num_blocks),
            within_block=within_block if policy.uses_importance else None,
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
            params=flatten(self.tree) if self.tree else dotted_keys(config),
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

    def choices(self) -> "Choices":
        """Read which blocks it trained.

        Raises:
            ValueError: Its trace is absent or damaged.
        """
        # It brings SciPy's statistics, and whoever only looks at a study reads no choices.
        from irtune.analysis.ablation.stability import Choices

        try:
            trace = read_trace(self.folder)
            if len(trace["step"]):
                steps = self.max_steps or self.step
                return Choices.of(self.seed, trace["step"], trace["active"], trace["scores"], steps)
        except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
            raise ValueError(f"{self.folder}: its choices of blocks cannot be read ({error})") from error
        raise ValueError(f"{self.folder}: no choice of blocks is recorded")

    def _read_briefly(self) -> None:
        for record in self._reader:
            # Later attempts say the same again.
            if record["kind"] in ("params", "tags"):
                self.take([record])
            if self.texts and _BLOCKS in self.tags:
                break
        result = result_of(self.folder)
        if result is not None:
            self._take_result(result)

    def _take_metrics(self, record: Mapping[str, Any]) -> None:
        step, values = record["step"], record["values"]
        self.latest.update(values)
        self.step = max(self.step, step)
        if "train/loss" in values:
            self.attempts.add(record["attempt"])
        if all(name in values for name in _SUMMED):
            self._steps[step] = tuple(values[name] for name in _SUMMED)
        if self.metric in values:
            self.curve[step] = values[self.metric]

    def _take_result(self, values: Mapping[str, Any]) -> None:
        self.has_result = True
        # Its evaluation is that of the best weights.
        self.latest = {key: value for key, value in values.items() if "/" in key} | self.latest

    def _take_end(self, end: Ended | None) -> None:
        """Note how the trial ended, whoever heard of it: who has a result is finished."""
        self.was_killed = end is not None and end.status == "KILLED" and not self.has_result
        self.status = "finished" if self.has_result else None
        if end is not None:
            self.tags |= end.tags
            self.error = end.error_text
            self.status = _OF_RUN[end.status] or self.status
            if end.status != "FAILED" and self.tags.get("irtune.pruned") == "true":
                self.status = "pruned"

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


def _value(text: Any) -> Any:
    """A setting from how a record has it: as Python's text of it."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return text
