"""Scores of a trial on validation as it trains, and what it had spent by then."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_SPENT = {"flops": ("cost/step_flops", "cost/total_flops"), "seconds": ("cost/step_s", "cost/train_s")}
"""Costs by name: as a step records them, and as a finished trial does."""


@dataclass(frozen=True)
class Curve:
    """A learning curve.

    Args:
        steps: Optimizer steps after which it was evaluated ``(E,)``, ascending.
        scores: On validation, after each of them ``(E,)``.
        flops: Of training until then ``(E,)``; empty where unknown.
        seconds: Spent training until then, without evaluations ``(E,)``; empty where unknown.
    """

    steps: Sequence[int]
    scores: Sequence[float]
    flops: Sequence[float] = ()
    seconds: Sequence[float] = ()


def curve_of(records: Iterable[Mapping[str, Any]], metric: str) -> Curve:
    """Read a learning curve off what a trial measured.

    What a later attempt measured again counts. Where not every step is recorded, those in between are taken to be like
    the next that is, and the sum is brought to that of the whole trial.

    Args:
        records: Of the trial, in the order in which they were written.
        metric: The name of the score, such as ``eval/f1_macro``.
    """
    scores: dict[int, float] = {}
    spent: dict[str, dict[int, float]] = {name: {} for name in _SPENT}
    whole: dict[str, float] = {}
    latest = 0
    for record in records:
        # A worker that was cut off writes on, while another has taken its place.
        if record["kind"] != "metrics" or record["attempt"] < latest:
            continue
        latest, values = record["attempt"], record["values"]
        if metric in values:
            scores[record["step"]] = values[metric]
        for name, (of_step, of_trial) in _SPENT.items():
            if of_step in values:
                spent[name][record["step"]] = values[of_step]
            if of_trial in values:
                whole[name] = values[of_trial]
    steps = sorted(scores)
    until = {name: _until(steps, spent[name], whole.get(name)) for name in _SPENT}
    return Curve(steps, [scores[step] for step in steps], **until)


def _until(steps: Sequence[int], of_step: Mapping[int, float], whole: float | None) -> list[float]:
    """Costs until each of ``steps``."""
    if not of_step:
        return []
    recorded = np.array(sorted(of_step))
    sums = np.cumsum(np.diff(recorded, prepend=0) * [of_step[step] for step in recorded])
    scale = whole / sums[-1] if whole and sums[-1] > 0 else 1.0
    until = np.interp(steps, np.append(0, recorded), np.append(0.0, sums))
    return [float(scale * each) for each in until]
