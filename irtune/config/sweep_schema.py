"""A sweep as one tree: an experiment, the space that it is searched in, and how."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, Field, model_validator

from irtune.analysis.metrics import Mode, better
from irtune.config.section import Section, mistakes
from irtune.config.study_schema import Aim, Constraint, StudyConfig, TrialsConfig
from irtune.redaction import redacted

Choice = str | int | float | bool | None
"""One value of a categorical dimension."""


class Condition(Section):
    """A dimension exists only while another setting has one of these values."""

    key: str = Field(description="another dimension of the space, or a setting of the experiment")
    values: tuple[Choice, ...] = Field(alias="in", min_length=1, description="the values; written as in: […]")

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)


class Dimension(Section):
    """One dimension of a search space."""

    type: Literal["int", "float", "categorical"] = Field(description="what kind of values it has")
    low: float | None = Field(None, description="smallest value")
    high: float | None = Field(None, description="largest value, included")
    step: float | None = Field(None, gt=0, description="distance between values; default: 1 for int, none for float")
    log: bool = Field(False, description="search evenly in the logarithm")
    choices: tuple[Choice, ...] | None = Field(None, description="the values of a categorical dimension")
    when: Condition | None = Field(None, description="the dimension exists only while this holds")

    @model_validator(mode="after")
    def _bounds_or_choices(self) -> "Dimension":
        found = self._mistaken_choices() if self.type == "categorical" else self._mistaken_bounds()
        if found:
            raise mistakes(found)
        return self

    def _mistaken_choices(self) -> dict[str, str]:
        if not self.choices:
            return {"choices": "a categorical dimension needs choices: [...]"}
        bounds = [key for key in ("low", "high", "step") if getattr(self, key) is not None] + ["log"] * self.log
        found = dict.fromkeys(bounds, "a categorical dimension takes choices only")
        twice = [choice for index, choice in enumerate(self.choices) if choice in self.choices[:index]]
        if twice:
            found["choices"] = f"{twice[0]!r} equals an earlier choice, and a study could not tell them apart"
        if redacted(self.choices) != list(self.choices):
            found["choices"] = "holds a login or token, which study and trials would show; leave it to the environment"
        return found

    def _mistaken_bounds(self) -> dict[str, str]:
        found = {}
        if self.choices is not None:
            found["choices"] = f"a dimension of type {self.type} takes low and high, not choices"
        for key in ("low", "high"):
            if getattr(self, key) is None:
                found[key] = f"a dimension of type {self.type} needs low and high"
        if self.low is None or self.high is None:
            return found
        if self.type == "int":
            for key in ("low", "high", "step"):
                bound = getattr(self, key)
                if bound is not None and bound != int(bound):
                    found[key] = f"must be a whole number in a dimension of type int, not {bound:g}"
        if self.low > self.high:
            found["low"] = f"{self.low:g} is above high ({self.high:g})"
        if self.log and self.low <= 0:
            found["low"] = f"log needs low above 0, not {self.low:g}"
        if self.log and self.step is not None:
            found["log"] = "log and step exclude each other"
        if self.step is not None and self.low <= self.high and not found:
            high = Decimal(str(self.high))
            rest = (high - Decimal(str(self.low))) % Decimal(str(self.step))
            if rest:
                last = float(high - rest)
                found["high"] = f"{self.high:g} is never reached in steps of {self.step:g}; the last value is {last:g}"
        return found


class AshaConfig(Section):
    """Asynchronous successive halving, measured in optimizer steps."""

    name: Literal["asha"] = Field("asha", description="the only scheduler; null in place of the section stops no trial")
    grace_steps: int = Field(10, gt=0, description="no trial is stopped before this optimizer step")
    reduction_factor: float = Field(3, gt=1, description="of the trials at a rung, one in this many goes on")
    metric: str | None = Field(None, description="what trials are stopped by; default: the first objective of eval/…")


class FinalistsConfig(Section):
    """Repeats over seeds of the best trials, and of the baseline, after the search."""

    top: int = Field(3, gt=0, description="so many of the trials, the best on validation")
    seeds: int = Field(5, ge=2, description="common seeds that each is repeated on; none is the search's own")


class TuneConfig(TrialsConfig):
    """How the space is searched, and for what.

    Metrics are those of an evaluation (``eval/…``, of a trial's best weights) and what a run costs (``cost/…``). Of
    what is measured at each step, such as ``cost/step_flops``, the mean over the run is meant.
    """

    num_trials: int = Field(20, gt=0, description="sampled trials; the baseline comes on top")
    metric: str = Field(
        "eval/f1_macro",
        description="what is searched for, where that is one thing; default: the experiment's metric",
    )
    mode: Mode | None = Field(None, description="whether more (max) or less (min) of it is better; default: as it is")
    metrics: tuple[dict[str, Mode], ...] | None = Field(
        None,
        description="several objectives instead of metric and mode; best is by the first: [{eval/f1_macro: max}, …]",
    )
    constraints: dict[str, Constraint] = Field({}, description="bounds by metric: {cost/peak_memory_bytes: {max: 8e9}}")
    sampler: str = Field(
        "tpe",
        description="tpe, gp, nsga2, random, grid (every configuration once, in random order), or your own as "
        "package.module:Attr, which is called with seed=… and gives an Optuna sampler",
    )
    num_startup_trials: int = Field(5, ge=0, description="random trials before tpe or gp models the space")
    seed: int = Field(0, ge=0, description="of the sampler; trials train with the top-level seed")
    warm_start: str | None = Field(
        None, description="folder or study.journal of an earlier sweep, whose trials the sampler learns from"
    )
    scheduler: AshaConfig | None = Field(AshaConfig(), description="what stops trials early; null stops none")
    finalists: FinalistsConfig | None = Field(None, description="repeat the best over seeds; null does not")

    @model_validator(mode="after")
    def _one_way_to_say_it(self) -> "TuneConfig":
        if self.metrics is None:
            return self._checked_modes("mode", {self.metric: self.mode} if self.mode else {})
        names = [name for entry in self.metrics for name in entry]
        if any(len(entry) != 1 for entry in self.metrics) or not names or len(set(names)) < len(names):
            raise mistakes({"metrics": "must be a list of one metric: max|min each, every metric once"})
        if said := sorted({"metric", "mode"} & self.model_fields_set):
            raise mistakes({"metrics": f"excludes tune.{' and tune.'.join(said)}; name all objectives here"})
        return self._checked_modes("metrics", self.objectives)

    @property
    def objectives(self) -> dict[str, Mode]:
        """What is searched for: metric to mode, the first of which says what is best."""
        if self.metrics is None:
            return {self.metric: self.mode or better(self.metric)}
        return {name: mode for entry in self.metrics for name, mode in entry.items()}

    def _checked_modes(self, key: str, said: Mapping[str, Mode]) -> "TuneConfig":
        """Refuse a direction in which an evaluation gets worse."""
        for name, mode in said.items():
            if name.startswith("eval/") and mode != better(name):
                raise mistakes({key: f"of {name} {better(name)} is better, not {mode}"})
        return self


class SweepConfig(StudyConfig):
    """A search: an experiment, the dimensions along which it varies, and how they are searched.

    Example:
        >>> from irtune import SweepConfig
        >>> config = SweepConfig(
        ...     selection={"policy": {"name": "top_k", "k": 4}},
        ...     space={"selection.policy.k": {"type": "int", "low": 2, "high": 8}},
        ...     tune={"num_trials": 5},
        ... )
        >>> config.aim.first_objective
        ('eval/f1_macro', 'max')
    """

    kind: ClassVar[str] = "sweep"

    space: dict[str, Dimension] = Field(min_length=1, description="the dimensions by dotted key: {key: {type: …}, …}")
    tune: TuneConfig = TuneConfig()

    @model_validator(mode="before")
    @classmethod
    def _one_metric(cls, tree: Any) -> Any:
        """What is searched for follows from ``metric``, or that from what is searched for, whichever is said."""
        tune = tree.get("tune", {}) if isinstance(tree, Mapping) else None
        if isinstance(tune, TuneConfig):
            tune = tune.model_dump(mode="json", exclude_unset=True)
        if not isinstance(tune, Mapping):
            return tree
        several: Any = tune.get("metrics")
        several = several if isinstance(several, list | tuple) else []
        named = [tune.get("metric"), *(name for entry in several if isinstance(entry, Mapping) for name in entry)]
        searched = [str(name).removeprefix("eval/") for name in named if str(name).startswith("eval/")]
        if "metric" not in tree:
            return {**tree, "metric": searched[0]} if searched else tree
        said = str(tree["metric"]).removeprefix("eval/")
        if searched and said not in searched:
            key = "tune.metrics" if several else "tune.metric"
            message = f"{said} shall decide, and the search is for {searched[0]} ({key}); leave one of them out"
            raise mistakes({"metric": message})
        is_told = several or tune.get("metric") is not None
        return tree if is_told else {**tree, "tune": {**tune, "metric": f"eval/{said}"}}

    @property
    def aim(self) -> Aim:
        """The measure that trials are judged by."""
        return Aim(self.tune.objectives, self.tune.constraints)

    @property
    def stops_by(self) -> tuple[str, Mode]:
        """Metric and mode by which running trials are judged."""
        objectives, scheduler = self.tune.objectives, self.tune.scheduler
        evaluated = [name for name in objectives if name.startswith("eval/")]
        metric = (scheduler and scheduler.metric) or next(iter(evaluated), f"eval/{self.metric}")
        return metric, objectives.get(metric, better(metric))

    @property
    def most_steps(self) -> int:
        """Optimizer steps of a trial; where they are searched, of the longest."""
        dimension = self.space.get("training.max_steps")
        if dimension is None:
            return self.training.max_steps
        return int(max(float(value) for value in (dimension.high, *(dimension.choices or ())) if value is not None))
