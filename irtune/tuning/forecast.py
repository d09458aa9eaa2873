"""What trials and a sweep of them take: FLOPs by a closed form, seconds at a pace that was measured."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import islice

import numpy as np

from irtune.config.schema import AshaConfig, ExperimentConfig
from irtune.data.base import Split
from irtune.data.encode import training_batches
from irtune.importance import Importance
from irtune.layers.controller import ProbePasses
from irtune.selection import SelectionContext
from irtune.training.cost import CostModel
from irtune.training.rehearsal import Pace

MAX_REFRESHES = 50
"""How many refreshes of a run are played through, evenly over its steps; the others are taken to be like them."""

MAX_BATCHES = 64
"""How many training batches are looked at for their length."""


@dataclass(frozen=True)
class Trial:
    """What a trial takes that nothing stops, on average over several.

    Args:
        num_steps: Its optimizer steps.
        eval_every: Optimizer steps between evaluations.
        step_flops: FLOPs of one step on all workers.
        load_s: Seconds before the first step, in a process that is there already.
        step_s: Seconds of one step.
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
        """What a configuration asks for.

        Saving checkpoints and weights is left out, and so is what workers send each other.

        Args:
            config: The run.
            cost: Of its model.
            lengths: Tokens ``(N,)`` of each split's examples; they are cut to ``model.max_length``.
            pace: What a worker takes; None leaves seconds unknown.
        """
        training, ranks = config.training, config.engine.num_workers
        cost = replace(cost, recompute=config.model.gradient_checkpointing)
        cut = {split: np.minimum(tokens, config.model.max_length) for split, tokens in lengths.items()}
        stream = training_batches(cut["train"], training.micro_batch_size, seed=config.seed, world_size=ranks)
        longest = [cut["train"][batch].max() for batch in islice(stream, min(MAX_BATCHES, training.max_steps))]
        length = float(np.mean(longest))
        flops = mean_step_flops(config, cost, length)
        trial = cls(training.max_steps, training.eval_every, flops * ranks)
        if pace is None:
            return trial
        scored_s = {}
        for split, tokens in cut.items():
            each = cost.forward_flops(1, float(tokens.mean())) / tokens.mean()
            scored_s[split] = pace.seconds(each * tokens.sum() / ranks, tokens.sum() / ranks)
        step_s = pace.seconds(flops, training.micro_batch_size * training.gradient_accumulation_steps * length)
        return replace(
            trial, load_s=pace.load_s, step_s=step_s, evaluation_s=scored_s["validation"], test_s=scored_s["test"]
        )

    @classmethod
    def mean(cls, trials: "Sequence[Trial]") -> "Trial":
        """The average of several."""
        names = [field.name for field in fields(cls)]
        return cls(**{name: float(np.mean([getattr(trial, name) for trial in trials])) for name in names})

    @property
    def seconds(self) -> float:
        """From its start to its end, in a process that is there already."""
        return self.until(self.num_steps) + self.test_s

    def until(self, step: float) -> float:
        """Seconds from its start to the evaluation after ``step``."""
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
    training, signal, policy = config.training, config.importance, config.selection.policy
    batch, tokens, every = training.micro_batch_size, round(length), range(len(cost.forward))
    rows = math.ceil(signal.probe_fraction * batch)
    reads = (policy.uses_importance or config.selection.measure == "always") and not signal.stale
    in_step = reads and signal.source == "gradients" and signal.probe_fraction == 1
    apart = reads and not in_step and signal.source != "weights"
    chosen_flops, refresh_flops = [], []
    for active, num_probes in _choices(config, cost, length):
        chosen = cost.step_flops(active, batch, tokens)
        passes = ProbePasses(num_probes + apart, int(apart and signal.source == "gradients"), rows)
        more = (cost.step_flops(every, batch, tokens) - chosen) * training.gradient_accumulation_steps * in_step
        chosen_flops.append(chosen)
        refresh_flops.append(more + cost.passes_flops(passes, tokens))
    share = math.ceil(training.max_steps / _interval(config)) / training.max_steps
    return float(training.gradient_accumulation_steps * np.mean(chosen_flops) + share * np.mean(refresh_flops))


def _interval(config: ExperimentConfig) -> int:
    return config.selection.reselect_every or config.training.max_steps


def _choices(config: ExperimentConfig, cost: CostModel, length: float) -> Iterator[tuple[Sequence[int], int]]:
    """The blocks that refreshes choose, and the forward passes that the policy asks for before."""
    policy, num_blocks, per_block = config.selection.policy, len(cost.forward), cost.per_block(length)
    refreshes = range(0, config.training.max_steps, _interval(config))
    generator = np.random.default_rng(config.seed)
    importance, state = Importance.unseen(num_blocks), {}
    for step in refreshes[:: math.ceil(len(refreshes) / MAX_REFRESHES)]:
        scores = generator.lognormal(sigma=0.5, size=num_blocks)
        importance = Importance(scores, np.full(num_blocks, step), importance.num_probes + 1)
        context = SelectionContext(num_blocks, step, config.training.max_steps, importance, generator, state, per_block)
        probes = policy.probes(context)
        losses = generator.random(len(probes))
        active, state = policy.select(replace(context, probes=probes, probe_losses=losses))
        yield active, len(probes)


def expected_stops(asha: AshaConfig | None, num_trials: int, trial: Trial) -> dict[int, float]:
    """How many trials are stopped after which step, if trials come in no order of quality.

    Of the n-th trial at a rung, n from 0, the score lies with equal chance between any two of those before it, and ASHA
    lets it go on if it is above all but the best ``1 / reduction_factor`` of them: with probability ``(1 + (n - 1) /
    reduction_factor) / (n + 1)``. The first always goes on; it is taken to be the baseline.

    Args:
        asha: None stops no trial.
        num_trials: The baseline included.
        trial: What they are like.
    """
    stops: dict[int, float] = {}
    reached, rung = num_trials, float(asha.grace_steps) if asha else math.inf
    while asha and (step := math.ceil(rung / trial.eval_every) * int(trial.eval_every)) < trial.num_steps:
        if step not in stops:
            go_on = 1 + sum((1 + (n - 1) / asha.reduction_factor) / (n + 1) for n in range(1, reached))
            stops[step], reached = reached - go_on, round(go_on)
        rung *= asha.reduction_factor
    return stops


@dataclass(frozen=True)
class SweepCost:
    """What a sweep takes.

    Args:
        trials_s: Seconds of all trials together.
        wall_s: From the first trial's start to the last one's end.
        flops: Of training, on all workers.
        stopped: Trials that are stopped early.
    """

    trials_s: float
    wall_s: float
    flops: float
    stopped: float

    @classmethod
    def of(
        cls,
        baseline: Trial,
        others: Trial,
        num_trials: int,
        stops: Mapping[int, float],
        at_once: int,
        num_repeats: int = 0,
    ) -> "SweepCost":
        """Add it up.

        Args:
            baseline: The first trial, which nothing stops.
            others: The others, on average.
            num_trials: The baseline included.
            stops: How many of the others are stopped after which step.
            at_once: Trials at a time.
            num_repeats: Further runs from start to end, such as those of finalists.
        """
        stopped = sum(stops.values())
        whole = num_trials - 1 - stopped + num_repeats
        steps = whole * others.num_steps + sum(count * step for step, count in stops.items())
        others_s = whole * others.seconds + sum(count * others.until(step) for step, count in stops.items())
        total = baseline.seconds + others_s
        # Where trials end by themselves, a place is free for half a trial at the end, but for the one of the last.
        last = (at_once - 1) / at_once * others.seconds / 2
        return cls(
            trials_s=total,
            wall_s=max(total / at_once + last, baseline.seconds),
            flops=baseline.step_flops * baseline.num_steps + others.step_flops * steps,
            stopped=stopped,
        )
