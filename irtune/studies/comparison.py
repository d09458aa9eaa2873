"""What a sweep took beside what its plan predicted."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from statistics import mean

from rich.box import SIMPLE_HEAD
from rich.table import Table

from irtune.analysis.tables import MISSING, duration, operations
from irtune.search.source import BASELINE_TRIAL
from irtune.studies.plan import Plan
from irtune.studies.trial_record import TrialRecord
from irtune.tracking.run_record import RunRecord

QUANTITIES: dict[str, tuple[str, Callable[[float], str]]] = {
    "step_s": ("optimizer step of the baseline", "{:.3g}s".format),
    "baseline_s": ("the baseline", duration),
    "trial_s": ("another trial, if not stopped", duration),
    "trial_flops": ("training FLOPs of such a trial", operations),
    "memory_bytes": ("memory of a worker", lambda size: f"{size / 2**30:.2g} GiB"),
    "stopped": ("trials stopped early", "{:.2g}".format),
    "trials_s": ("all trials together", duration),
    "sweep_s": ("the sweep, first trial to last", duration),
}
"""What is predicted and looked at afterwards: its name for people, and how its numbers are worded."""

Row = tuple[str, ...]
"""A quantity's name, predicted, actual, and how many times the prediction the actual is."""


def actual(entries: Sequence[TrialRecord]) -> dict[str, float]:
    """What a sweep took, by the names in ``QUANTITIES``; what cannot be told is left out.

    Time in which an interrupted sweep did not run is part of what it took, and of what the trials took that were in
    flight.
    """
    finished = [entry for entry in entries if entry.status == "finished" and entry.repeats is None]
    baseline = [entry for entry in finished if entry.trial_id == BASELINE_TRIAL]
    others = [entry for entry in finished if not entry.is_baseline]
    spans = _spans_s(entries)
    found: dict[str, list[float]] = {
        "step_s": [entry.latest["cost/train_s"] / entry.step for entry in baseline],
        "baseline_s": [end - start for start, end in _spans_s(baseline)],
        "trial_s": [end - start for start, end in _spans_s(others)],
        "trial_flops": [entry.latest["cost/total_flops"] for entry in others],
        "memory_bytes": [max(entry.latest["cost/peak_memory_bytes"] for entry in finished)] if finished else [],
        "stopped": [sum(entry.status == "pruned" for entry in entries)],
        "trials_s": [sum(end - start for start, end in spans)],
        "sweep_s": [max(end for _, end in spans) - min(start for start, _ in spans)] if spans else [],
    }
    return {name: float(mean(values)) for name, values in found.items() if values}


def _spans_s(entries: Sequence[TrialRecord]) -> list[tuple[float, float]]:
    """When trials began and ended, in seconds since 1970, as the driver noted it."""
    spans = []
    for record in (RunRecord(entry.folder) for entry in entries):
        # A record that could not be written must not cost the sweep its summary.
        with contextlib.suppress(ValueError, OSError):
            end = record.end()
            if end is not None:
                spans.append((record.start().start_time_ms / 1000, end.end_time_ms / 1000))
    return spans


def side_by_side(plan: Plan, found: Mapping[str, float]) -> list[Row]:
    """What was predicted and what was found, in words."""
    rows = []
    for name, (label, wording) in QUANTITIES.items():
        predicted, took = plan.predicted.get(name), found.get(name)
        ratio = f"{took / predicted:.2f}" if took and predicted else MISSING
        rows.append((label, *(MISSING if value is None else wording(value) for value in (predicted, took)), ratio))
    return rows


def table(rows: Sequence[Row], source: str) -> Table:
    """The rows for the terminal, with where the prediction came from."""
    shown = Table("", box=SIMPLE_HEAD, title="Predicted and actual", title_justify="left", caption=f"from {source}")
    for heading in ("predicted", "actual", "actual / predicted"):
        shown.add_column(heading, justify="right")
    for row in rows:
        shown.add_row(*row)
    return shown
