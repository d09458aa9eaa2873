"""The cost of trials and of a sweep of them: FLOPs by a closed form, seconds at a pace that was measured."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from itertools import islice

import numpy as np

from irtune.config.schema import ExperimentConfig
from irtune.config.sweep_schema import AshaConfig
from irtune.data.batches import training_batches
from irtune.data.dataset import Split
from irtune.importance import Importance
from irtune.layers.refresh import RefreshRule
from irtune.selection import PolicyState, SelectionContext
from irtune.training.cost import CostModel
from irtune.training.rehearsal import Pace

MAX_REFRESHES = 50
"""Refreshes of a run that are played through, evenly over its steps; the others are taken to be like them."""

MAX_BATCHES = 64
"""Training batches that are looked at for their length."""


@dataclass(frozen=True)
class Trial:
    """The cost of a trial that nothing stops; seconds are NaN where no pace is known.

    Args:
        num_steps: Its optimizer steps.
        eval_every: Optimizer steps between evaluations.
        step_flops: FLOPs of a step on all workers, on average.
        load_s: Seconds before the first step.
        step_s: Seconds of a step, on average.
        evaluation_s: Seconds of scoring validation once.
        test_s: Seconds of scoring test.
    """

    num_steps: float
    eval_every: float
    step_flops: float
    load_s: float = math.nan
    step_s: float = math.nan
    evaluation_s: float = math.nan
    test_s: float = math.nan

    @classmethod
    def of(
        cls, config: ExperimentConfig, cost: CostModel, lengths: Mapping[Split, np.ndarray], pace: Pace | None
    ) -> "Trial":
        """The cost of a configuration, but for saving, and for what workers send each other.

        Args:
            config: The run.
            cost: Of its model.
            lengths: Tokens ``(N,)`` of each split's examples.
            pace: What a worker takes.
        """
        training, ranks = config.training, config.engine.num_workers
        cost = cost.under(config.selection.policy, float(lengths["train"].mean()))
        stream = training_batches(lengths["train"], training.micro_batch_size, seed=config.seed, world_size=ranks)
        num_batches = min(training.max_steps * training.gradient_accumulation_steps, MAX_BATCHES)
        longest = [int(lengths["train"][batch].max()) for batch in islice(stream, num_batches)]
        length, spread = float(np.mean(longest)), float(np.std(longest))
        # FLOPs are quadratic in the length, so two lengths of the same mean and spread cost what all of them do.
        flops = float(np.mean([mean_step_flops(config, cost, each) for each in (length - spread, length + spread)]))
        trial = cls(training.max_steps, training.eval_every, flops * ranks)
        if pace is None:
            return trial
        scored_s, kept_s, rows = {}, {}, training.eval_batch_size
        for split, each in lengths.items():
            tokens, mean = each.sum() / ranks, round(each.mean())
            scored_s[split] = pace.seconds(cost.evaluation_flops(rows, mean) / (rows * mean) * tokens, tokens)
            kept_s[split] = pace.seconds(cost.keeping_flops(rows, mean) / (rows * mean) * tokens, tokens)
        tokens = training.micro_batch_size * training.gradient_accumulation_steps * length
        step_s, evaluation_s, test_s = pace.seconds(flops, tokens), scored_s["validation"], scored_s["test"]
        # Whoever comes first computes what is kept.
        load_s = pace.load_s + kept_s["validation"] + (kept_s["train"] if cost.reuse.training else 0.0)
        return replace(trial, load_s=load_s, step_s=step_s, evaluation_s=evaluation_s, test_s=test_s + kept_s["test"])

    @classmethod
    def mean(cls, trials: "Sequence[Trial]") -> "Trial":
        """The average of several."""
        return cls(*np.mean([astuple(trial) for trial in trials], axis=0).tolist())

    @property
    def seconds(self) -> float:
        """From its start to its end."""
        return self.until(self.num_steps) + self.test_s

    def until(self, step: float) -> float:
        """Seconds from its start to the end of the evaluation after ``step``."""
        return self.load_s + step * self.step_s + math.ceil(step / self.eval_every) * self.evaluation_s


def mean_step_flops(config: ExperimentConfig, cost: CostModel, length: float) -> float:
    """FLOPs of an optimizer step on one rank, averaged over a run.

    Which blocks train is what the policy chooses on scores drawn at random. That is right for a policy that trains a
    given number of blocks, but for where the lowest of them lies, and a guess for one that makes up its number.

    Args:
        config: The run.
        cost: Of its model.
        length: Tokens of an input, on average.
    """
    training, rule = config.training, _rule(config)
    shapes = [(training.micro_batch_size, round(length))] * training.gradient_accumulation_steps
    steps, probes = [], []
    num_blocks = len(cost.forward)
    for index, (active, num_suppressed) in enumerate(_choices(config, rule, cost, length)):
        through = range(num_blocks) if rule.probes_in_step else active
        recomputed = rule.recomputed(num_blocks, active if index else ())
        passes = rule.passes(training.micro_batch_size, num_suppressed, recomputed)
        steps.append(cost.optimizer_step_flops(active, shapes))
        probes.append(cost.optimizer_step_flops(through, shapes, passes) - steps[-1])
    return float(np.mean(steps) + np.mean(probes) * len(rule.steps) / training.max_steps)


def mean_active_blocks(config: ExperimentConfig, cost: CostModel, length: float) -> float:
    """Blocks that train at a time, averaged over a run; see ``mean_step_flops``."""
    return float(np.mean([len(active) for active, _ in _choices(config, _rule(config), cost, length)]))


def _rule(config: ExperimentConfig) -> RefreshRule:
    selection, measures = config.selection, config.selection.measure == "always"
    every, steps, memory = selection.reselect_every, config.training.max_steps, selection.probe_memory
    return RefreshRule(selection.policy, config.importance, every, steps, always_measure=measures, probe_memory=memory)


def _choices(
    config: ExperimentConfig, rule: RefreshRule, cost: CostModel, length: float
) -> Iterator[tuple[Sequence[int], int]]:
    """The blocks that refreshes choose, and how many forward passes the policy asks for before each."""
    policy, num_blocks, per_block = rule.policy, len(cost.forward), cost.per_block(length)
    generator = np.random.default_rng(config.seed)
    if not type(policy).__module__.startswith("irtune."):
        # A user's own code is run in trials, where it can be retried, and not in the driver: all blocks stand for it.
        yield range(num_blocks), 0
        return
    state: PolicyState = {}
    for index, step in enumerate(rule.steps[:: math.ceil(len(rule.steps) / MAX_REFRESHES)], 1):
        scores = generator.lognormal(sigma=0.5, size=num_blocks)
        importance = Importance(scores, np.full(num_blocks, step), np.full(num_blocks, index))
        context = SelectionContext(num_blocks, step, rule.total_steps, importance, generator, state, per_block)
        probes = policy.probes(context)
        losses = generator.random(len(probes))
        active, state = policy.select(replace(context, probes=probes, probe_losses=losses))
        yield active, len(probes)


def expected_stops(asha: AshaConfig | None, num_searched: int, trial: Trial) -> dict[int, float]:
    """Count the trials that are stopped after each step, if trials come in no order of quality.

    The score of a trial that comes to a rung after n others lies with equal chance between any two of theirs, and ASHA
    lets it go on if it is above all but the best ``1 / reduction_factor`` of them: with probability ``(1 + (n - 1) /
    reduction_factor) / (n + 1)``. The first at each rung is the baseline, which always goes on.

    Args:
        asha: None stops no trial.
        num_searched: The trials besides the baseline.
        trial: What they are like.
    """
    stops: dict[int, float] = {}
    reached, rung = num_searched, float(asha.grace_steps) if asha else math.inf
    while asha and (step := math.ceil(rung / trial.eval_every) * int(trial.eval_every)) < trial.num_steps:
        if step not in stops:
            go_on = sum((1 + (n - 1) / asha.reduction_factor) / (n + 1) for n in range(1, reached + 1))
            stops[step], reached = reached - go_on, round(go_on)
        rung *= asha.reduction_factor
    return stops


@dataclass(frozen=True)
class SweepCost:
    """The cost of a sweep.

    Args:
        trials_s: Seconds of all trials together.
        wall_s: From the first trial's start to the last one's end.
        flops: Of training, on all workers.
    """

    trials_s: float
    wall_s: float
    flops: float

    @classmethod
    def of(
        cls, baseline: Trial, others: Trial, num_full: float, stops: Mapping[int, float], at_once: int
    ) -> "SweepCost":
        """Add it up.

        Args:
            baseline: The first trial, which nothing stops.
            others: The others, on average.
            num_full: How many of the others run to their end.
            stops: How many of them are stopped after which step.
            at_once: Trials at a time.
        """
        steps = num_full * others.num_steps + sum(count * step for step, count in stops.items())
        stopped_s = sum(count * others.until(step) for step, count in stops.items())
        total = baseline.seconds + num_full * others.seconds + stopped_s
        # Where trials end by themselves, a place is free for half a trial at the end, but for the one of the last.
        wall = total / at_once + (at_once - 1) / at_once * others.seconds / 2
        flops = baseline.step_flops * baseline.num_steps + others.step_flops * steps
        return cls(total, max(wall, baseline.seconds), flops)
