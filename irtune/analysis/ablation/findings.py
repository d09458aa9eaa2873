"""Findings of an ablation: its cells, its claims, the answer in a sentence, and what to know before relying on it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from irtune.analysis.ablation.cell_results import Cell, CellResult, results_of
from irtune.analysis.ablation.claims import Claimed, ClaimResult, judge
from irtune.analysis.ablation.learning_curve import Curve
from irtune.analysis.ablation.steps_to_target import Arrivals, arrivals_of
from irtune.analysis.guessing import best_guess
from irtune.analysis.significance import smallest_p
from irtune.analysis.trials import TrialRow, groups_of, metric_of

STILL_IMPROVING = 0.02
"""A rise of the validation score over the last quarter of a run, in units of the score, that says: too few steps."""


@dataclass(frozen=True, eq=False)
class AblationFindings:
    """The findings of a study.

    Args:
        results: Every cell over its seeds.
        claims: Every claim on every corpus.
        answer: The finding in a sentence.
        caveats: What to know before relying on it.
        improving: The cells whose validation score still rises at the end.
        arrivals: When cells first reached what their baseline does.
    """

    results: tuple[CellResult, ...]
    claims: tuple[ClaimResult, ...]
    answer: str
    caveats: tuple[str, ...]
    improving: tuple[str, ...]
    arrivals: tuple[Arrivals, ...] = ()


def findings_of(
    cells: Sequence[Cell],
    rows: Sequence[TrialRow],
    claims: Sequence[Claimed],
    curves: Mapping[str, Curve],
    num_classes: int,
) -> AblationFindings:
    """Judge a study.

    Args:
        cells: All of it.
        rows: All trials, in any state.
        claims: What was claimed before the first trial.
        curves: By the id of a trial.
        num_classes: Classes of the task; of several corpora of the first.
    """
    results = results_of(cells, rows)
    judged = judge(claims, results)
    improving = tuple(one.cell.name for one in results if _is_improving(one, curves))
    return AblationFindings(
        tuple(results),
        tuple(judged),
        _answer(results, judged),
        tuple(_caveats(results, improving, num_classes)),
        improving,
        tuple(arrivals_of(results, curves)),
    )


def _answer(results: Sequence[CellResult], claims: Sequence[ClaimResult]) -> str:
    if claims:
        return " ".join(claim.sentence for claim in claims)
    compared = [one for one in results if one.against is not None]
    if not compared:
        return "Nothing can be compared: no cell and its baseline finished a common seed."
    by_verdict = {
        verdict: [one.cell.name for one in compared if one.against and one.against.verdict == verdict]
        for verdict in ("better", "worse", "can't tell")
    }
    baseline = compared[0].baseline
    parts = [f"{', '.join(by_verdict['better'])}: better than {baseline}"] if by_verdict["better"] else []
    parts += [f"{', '.join(by_verdict['worse'])}: worse"] if by_verdict["worse"] else []
    parts += [f"{', '.join(by_verdict[untold])}: can't be told"] if by_verdict[untold := "can't tell"] else []
    seeds = min(one.against.num_seeds for one in compared if one.against)
    num_judged = len(compared) + sum(one.cell.dropped_from is not None for one in results)
    return f"Over {seeds} seeds, Holm-adjusted over {num_judged} comparisons at 5 %: {'; '.join(parts)}."


def _caveats(results: Sequence[CellResult], improving: Sequence[str], num_classes: int) -> list[str]:
    found = []
    compared = [one for one in results if one.against is not None]
    dropped = [one for one in results if one.cell.dropped_from is not None]
    num_judged = len(compared) + len(dropped)
    seeds = min((one.against.num_seeds for one in compared if one.against), default=0)
    if compared and smallest_p(seeds) * num_judged > 0.05:
        found.append(
            f"{seeds} paired seeds give a p-value of {smallest_p(seeds):.2g} at least, times {num_judged} "
            "comparisons: no cell can be shown to be better or worse. Raise ablation.seeds, or have fewer cells"
        )
    needed = [(one.cell.name, one.against.needed) for one in compared if one.against and one.against.needed]
    if needed:
        shown = ", ".join(f"{name} about {number}" for name, number in needed)
        found.append(f"Seeds that would tell differences of the size seen: {shown}")
    if dropped:
        shown = ", ".join(f"{one.cell.name} after {len(one.rows)} seeds" for one in dropped)
        found.append(
            f"Dropped early, since they were clearly worse than the best on validation: {shown}. They have no verdict: "
            "their means are of seeds that ended when they looked bad"
        )
    lost = [f"{one.cell.name} {len(one.unfinished)}" for one in results if one.unfinished]
    if lost:
        found.append(f"Trials that did not finish: {', '.join(lost)}; their seeds are left out of comparisons")
    if improving:
        found.append(f"Still improving at the end, so that more steps may change the order: {', '.join(improving)}")
    found += _resampled(results)
    guess = _guess(results, num_classes)
    baselines = [one for one in results if one.cell.is_baseline and one.test is not None]
    if guess is not None and baselines and baselines[0].test and not _beats(baselines[0], guess):
        found.append(
            f"Nothing was learnt: the baseline's interval holds what guessing scores ({guess:.3f}). Train longer, or "
            "at another rate"
        )
    return found


def _resampled(results: Sequence[CellResult]) -> list[str]:
    """Return what is resampled of each corpus that has groups."""
    found = []
    for corpus in dict.fromkeys(one.cell.corpus for one in results):
        groups = groups_of(row for one in results if one.cell.corpus == corpus for row in one.rows)
        if groups is not None:
            found.append((f"On {corpus}: " if corpus else "") + groups.caveat)
    return found


def _guess(results: Sequence[CellResult], num_classes: int) -> float | None:
    first = [one for one in results if one.cell.corpus == results[0].cell.corpus]
    row = next((row for one in first for row in one.rows if row.test_labels is not None), None)
    if row is None:
        return None
    return best_guess(np.asarray(row.test_labels), num_classes, row.metric).score


def _beats(one: CellResult, guess: float) -> bool:
    assert one.test is not None
    _, low, high = one.test
    is_max = metric_of(one.rows).mode == "max"
    edge = low if is_max else high
    return (edge > guess) if is_max else (edge < guess)


def _is_improving(one: CellResult, curves: Mapping[str, Curve]) -> bool:
    """Tell whether the mean score over seeds rises by more than ``STILL_IMPROVING`` in the last quarter of a run."""
    sign = 1 if metric_of(one.rows).mode == "max" else -1
    rises = []
    for row in one.rows:
        curve = curves.get(row.trial_id)
        if curve is None or len(curve.steps) < 2:
            return False
        steps, values = curve.steps, curve.scores
        before = [value for step, value in zip(steps, values, strict=True) if step <= 0.75 * steps[-1]]
        rises.append(sign * (values[-1] - max(before, key=lambda value: sign * value)) if before else 0.0)
    return bool(rises) and float(np.mean(rises)) > STILL_IMPROVING
