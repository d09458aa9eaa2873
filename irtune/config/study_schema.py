"""Settings of every study, a sweep or an ablation: an experiment, and the way in which trials are run and judged."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from irtune.analysis.metrics import Mode, better
from irtune.config.engine_schema import EngineConfig
from irtune.config.schema import ExperimentConfig
from irtune.config.section import Section, mistakes


class Constraint(Section):
    """Bounds within which a finished trial has to lie, themselves included."""

    max: float | None = Field(None, description="most that is allowed")
    min: float | None = Field(None, description="least that is allowed")

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if self.max is None and self.min is None:
            raise mistakes({"max": "a constraint needs max, min or both"})
        if self.max is not None and self.min is not None and self.min > self.max:
            raise mistakes({"min": f"{self.min:g} is above max ({self.max:g})"})
        return self


@dataclass(frozen=True)
class Aim:
    """What trials are judged by.

    Args:
        objectives: Metric to mode.
        constraints: Bounds by metric.
    """

    objectives: Mapping[str, Mode]
    constraints: Mapping[str, Constraint] = field(default_factory=dict)

    @property
    def first_objective(self) -> tuple[str, Mode]:
        """Metric and mode that decide which trial is called best."""
        return next(iter(self.objectives.items()))


class TrialsConfig(Section):
    """The way in which the trials of a study are run."""

    max_concurrent_trials: int | None = Field(None, gt=0, description="default: as many as the cluster holds")
    time_budget_s: float | None = Field(
        None, gt=0, description="end the sweep in order after so long, finalists included; --resume goes on with it"
    )
    max_failures: int = Field(1, ge=0, description="how often a trial is retried from its last checkpoint")
    execution: Literal["in_process", "pool"] | None = Field(
        None,
        description="where trials run: in Tune's process (one worker only), or in a pool of worker groups that take "
        "trial after trial; default: in_process for one worker, pool for more",
    )
    renew_after: int = Field(
        50, gt=0, description="trials after which a worker group of the pool is replaced; 1: each has a fresh one"
    )

    def execution_of(self, engine: EngineConfig) -> str:
        """The place where trials with these workers run."""
        return self.execution or ("in_process" if engine.num_workers == 1 else "pool")

    def trials_per_process(self, engine: EngineConfig) -> float:
        """Trials that a process takes before another takes its place."""
        return self.renew_after if self.execution_of(engine) == "pool" else math.inf


class StudyConfig(ExperimentConfig):
    """An experiment that trials vary, and how these are run; what they vary is said by its subclasses."""

    kind: ClassVar[str] = "study"
    """The kind in a word."""

    tune: TrialsConfig = TrialsConfig()

    @model_validator(mode="after")
    def _in_process_is_one_worker(self) -> Self:
        workers = self.engine.num_workers
        if self.tune.execution == "in_process" and workers > 1:
            message = f"in_process is for one worker, and engine.num_workers is {workers}; use pool"
            raise mistakes({"tune.execution": message})
        renews = self.tune.renew_after != TrialsConfig.model_fields["renew_after"].default
        if renews and self.tune.trials_per_process(self.engine) == math.inf:
            message = "is for the pool, and trials run in_process; set tune.execution=pool, or leave it out"
            raise mistakes({"tune.renew_after": message})
        return self

    @property
    def aim(self) -> Aim:
        """The measure that trials are judged by."""
        metric = f"eval/{self.metric}"
        return Aim({metric: better(metric)})

    @property
    def stops_by(self) -> tuple[str, Mode]:
        """Metric and mode by which running trials are judged."""
        return self.aim.first_objective

    @property
    def most_steps(self) -> int:
        """Optimizer steps of the longest trial."""
        return self.training.max_steps

    def experiment(self) -> ExperimentConfig:
        """The experiment that trials start from."""
        fields = {name: getattr(self, name) for name in ExperimentConfig.model_fields}
        return ExperimentConfig.model_construct(self.model_fields_set & fields.keys(), **fields)
