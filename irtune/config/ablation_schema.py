"""An ablation study as one tree: an experiment, the cells that vary it, and what is claimed of them beforehand."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from irtune.config.section import Parts, Section, mistakes
from irtune.config.study_schema import StudyConfig
from irtune.config.sweep_schema import Choice, Dimension
from irtune.config.tree import flatten

NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"


def _flat(tree: Any) -> Any:
    """Settings by dotted key, also where they were written as sections; sections of variants keep their names."""
    return flatten(tree) if isinstance(tree, Mapping) else tree


Overrides = Annotated[dict[str, Any], BeforeValidator(_flat)]


def _levels_alone(tree: Any) -> Any:
    return {"levels": tree} if isinstance(tree, list | tuple) else tree


class Factor(Section):
    """A setting that takes several values; ``[1, 2]`` alone is short for ``{levels: [1, 2]}``."""

    levels: tuple[Choice, ...] = Field(min_length=2, description="the values, the usual one first")
    of: tuple[str, ...] | None = Field(None, description="the cells that it varies; default: all")

    @model_validator(mode="after")
    def _differ(self) -> "Factor":
        if len(set(map(repr, self.levels))) < len(self.levels):
            raise mistakes({"levels": f"{list(self.levels)} names a value twice"})
        return self


class Claim(Section):
    """Something that a study is to show, fixed before its first trial; its two cells are run on ``seeds`` seeds."""

    better: str = Field(description="the cell of which something is claimed")
    than: str = Field(description="the cell that it is compared with")
    margin: float | None = Field(
        None,
        gt=0,
        description="the largest difference of the metric that does not matter; with it, being as good can be shown",
    )
    seeds: int | None = Field(None, ge=2, description="seeds of both cells; default: ablation.seeds")


class TuningSection(Section):
    """A search for every cell, the baseline included, on validation and a seed of its own, before cells are compared.

    What is best of it then runs on the seeds of the study, which had no part in the choice.
    """

    num_trials: int = Field(8, ge=2, description="trials of each cell's search")
    space: dict[str, Dimension] = Field(
        {}, description="what is tuned of all cells, as space of a sweep: {key: {type: …}}"
    )
    own: dict[str, dict[str, Dimension]] = Field(
        {}, description="what is tuned of one cell beside that: {ir: {key: …}}"
    )
    sampler: str = Field("tpe", description="as tune.sampler of a sweep")
    num_startup_trials: int = Field(4, ge=0, description="random trials before tpe or gp models the space")


class AblationSection(Section):
    """The cells, and the number of seeds that each is run on."""

    cells: dict[Annotated[str, Field(pattern=NAME)], Overrides] = Field(
        min_length=2, description="what each cell changes of the experiment, by name: {full: {method: full}, …}"
    )
    baseline: str | None = Field(None, description="the cell that all others are compared with; default: the first")
    factors: dict[str, Annotated[Factor, BeforeValidator(_levels_alone)]] = Field(
        {}, description="settings that cells take several values of, by dotted key: {selection.reselect_every: [20, 5]}"
    )
    design: Literal["factorial", "one_at_a_time"] = Field(
        "factorial",
        description="of several factors every combination, or one after the other with the first level of the rest",
    )
    corpora: dict[Annotated[str, Field(pattern=NAME)], Overrides] = Field(
        {}, description="data sets on which every cell is run, as settings of data by name; default: data alone"
    )
    seeds: int = Field(3, ge=2, description="seeds that every cell is run on, the same ones, from the experiment's on")
    matched: Literal["nothing", "k", "trainable_parameters", "step_flops", "wall_clock", "tuning_budget"] = Field(
        "nothing",
        description="what the comparison is fair in: nothing but seeds and data; k, blocks that train in all cells but "
        "the baseline; trainable_parameters, by the rank; step_flops, by k or cost_aware's budget; wall_clock, by the "
        "number of steps; tuning_budget, the trials that each cell is tuned by (ablation.tuning)",
    )
    k: Annotated[int, Field(gt=0)] | Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="with matched: k, how many blocks, or which fraction of them"
    )
    step_flops: float | None = Field(
        None, gt=0, le=1, description="with matched: step_flops, the most of the baseline's FLOPs that a step may take"
    )
    tuning: TuningSection | None = Field(
        None, description="tune every cell by as many trials, before they are compared"
    )
    drop_hopeless: float | None = Field(
        None,
        gt=0,
        lt=0.5,
        description="give no more seeds to cells that on validation are worse than the best, by Wilcoxon's one-sided "
        "test at this level over pairs of seed and corpus (.05 needs 5); never the baseline, nor what is claimed of",
    )
    claims: tuple[Claim, ...] = Field((), description="[{better: ir, than: full, margin: .01, seeds: 10}, …]")

    @property
    def baseline_cell(self) -> str:
        """The cell that all others are compared with."""
        return self.baseline or next(iter(self.cells))

    @property
    def droppable(self) -> tuple[str, ...]:
        """The cells that ``drop_hopeless`` may drop."""
        claimed = {name for claim in self.claims for name in (claim.better, claim.than)}
        return tuple(name for name in self.cells if name not in claimed | {self.baseline_cell})

    @model_validator(mode="after")
    def _names_are_known(self) -> "AblationSection":
        named: dict[Parts, list[str]] = {("baseline",): [self.baseline] if self.baseline else []}
        named |= {("factors", key, "of"): list(factor.of or ()) for key, factor in self.factors.items()}
        for index, claim in enumerate(self.claims):
            named |= {("claims", index, "better"): [claim.better], ("claims", index, "than"): [claim.than]}
        known = ", ".join(self.cells)
        found: dict[Parts, str] = {
            key: f"{name!r} is no cell; available: {known}"
            for key, names in named.items()
            for name in names
            if name not in self.cells
        }
        found |= {
            ("claims", index, "than"): "is the same cell as better; name another"
            for index, claim in enumerate(self.claims)
            if claim.better == claim.than
        }
        if (self.matched == "k") != (self.k is not None):
            found["k",] = "belongs to matched: k; give both, or neither"
        if (self.matched == "step_flops") != (self.step_flops is not None):
            found["step_flops",] = "belongs to matched: step_flops; give both, or neither"
        if (self.matched == "tuning_budget") != (self.tuning is not None):
            found["tuning",] = "belongs to matched: tuning_budget; give both, or neither"
        if self.tuning is not None:
            found |= {
                ("tuning", "own", name): f"{name!r} is no cell; available: {known}"
                for name in self.tuning.own
                if name not in self.cells
            }
            without = [name for name in self.cells if not self.tuning.space and not self.tuning.own.get(name)]
            if without:
                found["tuning", "space"] = f"leaves nothing to tune of {', '.join(without)}; name a dimension"
        if self.drop_hopeless is not None:
            num_pairs = (self.seeds - 1) * max(len(self.corpora), 1)
            if not self.droppable:
                found["drop_hopeless",] = "drops nothing: each cell is the baseline, or something is claimed of it"
            elif 0.5**num_pairs > self.drop_hopeless:
                found["drop_hopeless",] = (
                    f"drops nothing: before the last seed there are {num_pairs} pairs of seed and corpus, whose least "
                    f"p-value is {0.5**num_pairs:.2g}; raise it, or ablation.seeds"
                )
        if found:
            raise mistakes(found)
        return self


class AblationConfig(StudyConfig):
    """An ablation: an experiment, the cells that vary it, and the seeds that each is run on.

    Example:
        >>> from irtune import AblationConfig
        >>> cells = {"full": {"method": "full"}, "lisa": {"method": "lisa"}}
        >>> AblationConfig(ablation={"cells": cells, "seeds": 5}).ablation.baseline_cell
        'full'
    """

    kind: ClassVar[str] = "ablation"

    ablation: AblationSection = Field(description="which cells there are, and over how many seeds")

    @property
    def most_steps(self) -> int:
        """Optimizer steps of the longest trial."""
        key = "training.max_steps"
        said = [overrides[key] for overrides in self.ablation.cells.values() if key in overrides]
        said += self.ablation.factors[key].levels if key in self.ablation.factors else ()
        return max([self.training.max_steps, *(int(value) for value in said if isinstance(value, int))])
