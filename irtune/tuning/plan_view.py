"""A plan as people read it, and what a sweep took beside what was predicted."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from irtune.analysis.tables import MISSING, duration, operations
from irtune.config.schema import Dimension
from irtune.tracking.ledger import RunLedger
from irtune.tuning.book import TrialEntry
from irtune.tuning.forecast import SweepCost
from irtune.tuning.plan import Plan

HEADINGS = ("", "predicted", "actual", "actual / predicted")


def plan_table(plan: Plan) -> Table:
    """The plan as a table of facts."""
    table = Table(title=f"Plan of {plan.name}", title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, fact in plan_facts(plan):
        table.add_row(escape(name), escape(fact))
    return table


def plan_facts(plan: Plan) -> list[tuple[str, str]]:
    """Name and wording of everything that a plan says; a name stands before the first of several facts only."""
    configurations = "infinitely many" if plan.num_configurations is None else f"{plan.num_configurations:,}"
    facts = [
        ("trials", f"{plan.num_trials}: the baseline and {plan.num_trials - 1} of {configurations} configurations")
    ]
    facts += _named("space", [f"{key}: {_described(dimension)}" for key, dimension in plan.space.items()])
    facts += [("a trial", _resources(plan)), ("at once", _at_once(plan)), ("measured", _how(plan))]
    facts += [("memory", f"{gibibytes(plan.estimate.memory_bytes)} a worker ({plan.estimate.source})")]
    facts += _named("time", _times(plan))
    facts += [("in all", sweep_text(plan, lambda cost: _total(plan, cost)))]
    return facts + [(f"writes {name}", place) for name, place in plan.places.items()]


def _named(name: str, lines: Sequence[str]) -> list[tuple[str, str]]:
    return [(name if index == 0 else "", line) for index, line in enumerate(lines)]


def _described(dimension: Dimension) -> str:
    if dimension.choices is not None:
        text = f"{dimension.type}: {', '.join(map(str, dimension.choices))}"
    else:
        text = f"{dimension.type} from {dimension.low:g} to {dimension.high:g}"
        text += f" in steps of {dimension.step:g}" if dimension.step else ""
        text += ", evenly in the logarithm" if dimension.log else ""
    when = dimension.when
    return text if when is None else f"{text}; while {when.key} is {' or '.join(map(str, when.values))}"


def _resources(plan: Plan) -> str:
    engine = plan.engine
    workers = f"{engine.num_workers} worker{'s' if engine.num_workers > 1 else ''}"
    gpus = f" and {engine.gpus_per_worker:g} GPUs" if engine.gpus_per_worker else ""
    return f"{workers} x {engine.cpus_per_worker:g} CPUs{gpus}"


def _at_once(plan: Plan) -> str:
    return plan.where if plan.at_once is None else f"{plan.at_once}, {plan.where}"


def _how(plan: Plan) -> str:
    return plan.estimate.how if plan.estimate.source == "measured" else f"nothing: {plan.estimate.how}"


def _times(plan: Plan) -> list[str]:
    baseline, selective = plan.baseline, plan.selective
    if baseline.seconds is None or selective.seconds is None:
        return ["unknown: it cannot be told without measuring where trials run"]
    lines = [
        f"a trial: {duration(baseline.seconds)} the baseline, {duration(selective.seconds)} another on average; an "
        f"optimizer step: {_seconds(baseline.step_s)} and {_seconds(selective.step_s)}"
    ]
    if plan.expected.wall_s is not None:
        lines.append(f"the sweep: {sweep_text(plan, lambda cost: duration(cost.wall_s or 0))}")
    return lines


def sweep_text(plan: Plan, wording: Callable[[SweepCost], str]) -> str:
    """What a sweep is expected to take, and what it takes if no trial is stopped early."""
    if not plan.expected.stopped:
        return f"about {wording(plan.expected)}"
    stopped = f"{plan.expected.stopped:.1f} of {plan.num_trials} trials"
    return f"about {wording(plan.expected)} if {stopped} are stopped early, {wording(plan.most)} if none is"


def _total(plan: Plan, cost: SweepCost) -> str:
    flops = f"{operations(cost.flops)} FLOPs"
    return flops if cost.trials_s is None else f"{_device_hours(plan, cost)} and {flops}"


def _device_hours(plan: Plan, cost: SweepCost) -> str:
    hours, engine = (cost.trials_s or 0.0) * plan.engine.num_workers / 3600, plan.engine
    gpus = f", {hours * engine.gpus_per_worker:.2g} GPU-hours" if engine.gpus_per_worker else ""
    return f"{hours * engine.cpus_per_worker:.2g} core-hours{gpus}"


@dataclass(frozen=True)
class Compared:
    """One quantity, predicted and actual; None where it is not known.

    Args:
        name: What it is.
        metric: What it is called in the tracker.
        predicted: Before the first trial.
        actual: After the last.
        wording: From a number to text.
    """

    name: str
    metric: str
    predicted: float | None
    actual: float | None
    wording: Callable[[float], str]

    @property
    def cells(self) -> tuple[str, str, str, str]:
        """Name, predicted, actual, and how many times the prediction the actual is."""
        predicted = MISSING if self.predicted is None else self.wording(self.predicted)
        actual = MISSING if self.actual is None else self.wording(self.actual)
        ratio = f"{self.actual / self.predicted:.2f}" if self.actual and self.predicted else MISSING
        return self.name, predicted, actual, ratio

    @property
    def sentence(self) -> str:
        """All of it but the name, as ``58s, actually 61s (1.05 times)``."""
        _, predicted, actual, ratio = self.cells
        return f"{predicted}, actually {actual}" + (f" ({ratio} times)" if ratio != MISSING else "")


def compare(plan: Plan, entries: Sequence[TrialEntry]) -> list[Compared]:
    """What the plan said beside what happened.

    Trials are compared by those that ran to their end. The time in which an interrupted sweep did not run is part of
    what it took, and of what took the trials that were in flight.
    """
    finished = [entry for entry in entries if entry.status == "finished"]
    baseline = [entry for entry in finished if entry.is_baseline]
    others = [entry for entry in finished if not entry.is_baseline]
    spans = _spans_s(entries)
    wall = max(end for _, end in spans) - min(start for start, _ in spans) if spans else None
    stopped = sum(entry.status == "pruned" for entry in entries)
    expected = plan.expected
    rows: list[tuple[str, str, float | None, float | None, Callable[[float], str]]] = [
        ("optimizer step of the baseline", "step_s", plan.baseline.step_s, _step_s(baseline), _seconds),
        ("the baseline", "baseline_s", plan.baseline.seconds, _trial_s(baseline), duration),
        ("another trial, if not stopped", "trial_s", plan.selective.seconds, _trial_s(others), duration),
        ("training FLOPs of such a trial", "trial_flops", plan.selective.train_flops, _flops(others), operations),
        ("memory of a worker", "memory_bytes", plan.estimate.memory_bytes, _memory(finished), gibibytes),
        ("trials stopped early", "stopped", expected.stopped, float(stopped), "{:.2g}".format),
        ("all trials together", "trials_s", expected.trials_s, sum(end - start for start, end in spans), duration),
        ("the sweep, first trial to last", "sweep_s", expected.wall_s, wall, duration),
    ]
    return [Compared(*row) for row in rows]


def compared_table(rows: Sequence[Compared], plan: Plan) -> Table:
    """Predicted and actual side by side, for the terminal."""
    title = "Predicted and actual"
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left", caption=_caption(plan), caption_justify="left")
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading == HEADINGS[0] else "right")
    for row in rows:
        table.add_row(*map(escape, row.cells))
    return table


def compared_markdown(rows: Sequence[Compared], plan: Plan) -> str:
    """The same as a Markdown table."""
    lines = [HEADINGS, (":---", "---:", "---:", "---:"), *(row.cells for row in rows)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{table}\n\n{_caption(plan)}\n"


def gibibytes(size: float) -> str:
    """Bytes with two digits: ``1.9 GiB``."""
    return f"{size / 2**30:.2g} GiB"


def _seconds(seconds: float | None) -> str:
    return MISSING if seconds is None else f"{seconds:.3g}s"


def _caption(plan: Plan) -> str:
    return f"predicted: {plan.estimate.source}: {plan.estimate.how}"


def _step_s(entries: Sequence[TrialEntry]) -> float | None:
    steps = [entry.latest["cost/train_s"] / entry.config.training.max_steps for entry in entries]
    return mean(steps) if steps else None


def _trial_s(entries: Sequence[TrialEntry]) -> float | None:
    spans = _spans_s(entries)
    return mean(end - start for start, end in spans) if spans else None


def _spans_s(entries: Sequence[TrialEntry]) -> list[tuple[float, float]]:
    """When trials began and ended, in seconds since 1970, from what the driver noted beside their spools."""
    spans = []
    for entry in entries:
        ledger = RunLedger(entry.folder)
        end = ledger.end()
        if end is not None:
            spans.append((ledger.start().start_time_ms / 1000, end.end_time_ms / 1000))
    return spans


def _flops(entries: Sequence[TrialEntry]) -> float | None:
    return mean(entry.latest["cost/total_flops"] for entry in entries) if entries else None


def _memory(entries: Sequence[TrialEntry]) -> float | None:
    return max((entry.latest["cost/peak_memory_bytes"] for entry in entries), default=None)
