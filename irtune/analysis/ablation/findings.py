"""Findings of an ablation: its cells, its claims, the answer in a sentence, and what to know before relying on it."""

from collections.abc import Iterable, Mapping, Sequence
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

_MOST_NAMED = 6
"""Names in a sentence; a page has all of them in a table."""


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

    @property
    def sentences(self) -> tuple[str, ...]:
        """The answer, of several claims one by one."""
        return tuple(claim.sentence for claim in self.claims) or (self.answer,)


def findings_of(
    cells: Sequence[Cell],
    rows: Sequence[TrialRow],
    claims: Sequence[Claimed],
    curves: Mapping[str, Curve],
    num_classes: Mapping[str | None, int],
) -> AblationFindings:
    """Judge a study.

    Args:
        cells: All of it.
        rows: All trials, in any state.
        claims: What was claimed before the first trial.
        curves: By the id of a trial.
        num_classes: Classes of the task, by corpus.
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
    # Of several corpora, and levels, each has a baseline of its own.
    baseline = next(one.cell.arm for one in results if one.cell.name == compared[0].baseline)
    parts = [f"{', '.join(by_verdict['better'])}: better than {baseline}"] if by_verdict["better"] else []
    parts += [f"{', '.join(by_verdict['worse'])}: worse"] if by_verdict["worse"] else []
    parts += [f"{', '.join(by_verdict[untold])}: can't be told"] if by_verdict[untold := "can't tell"] else []
    seeds = min(one.against.num_seeds for one in compared if one.against)
    num_judged = len(compared) + sum(one.cell.dropped_from is not None for one in results)
    return f"Over {seeds} seeds, Holm-adjusted over {num_judged} comparisons at 5 %: {'; '.join(parts)}."


def _caveats(
    results: Sequence[CellResult], improving: Sequence[str], num_classes: Mapping[str | None, int]
) -> list[str]:
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
        shown = _first(f"{name} about {number}" for name, number in needed)
        found.append(f"Seeds that would tell differences of the size seen: {shown}")
    if dropped:
        shown = ", ".join(f"{one.cell.name} after {len(one.rows)} seeds" for one in dropped)
        found.append(
            f"Dropped early, since they were clearly worse than the best on validation: {shown}. They have no verdict: "
            "their means are of seeds that ended when they looked bad"
        )
    lost = [f"{one.cell.name} {len(one.unfinished)}" for one in results if one.unfinished]
    if lost:
        found.append(f"Trials that did not finish: {_first(lost)}; their seeds are left out of comparisons")
    if improving:
        found.append(f"Still improving at the end, so that more steps may change the order: {_first(improving)}")
    found += _resampled(results)
    return found + _unlearnt(results, num_classes)


def _first(names: Iterable[str]) -> str:
    """Names in a sentence, of many the first."""
    known = list(names)
    more = f" and {len(known) - _MOST_NAMED} more" if len(known) > _MOST_NAMED else ""
    return ", ".join(known[:_MOST_NAMED]) + more


def _resampled(results: Sequence[CellResult]) -> list[str]:
    """Return what is resampled of each corpus that has groups."""
    found = []
    for corpus in dict.fromkeys(one.cell.corpus for one in results):
        groups = groups_of(row for one in results if one.cell.corpus == corpus for row in one.rows)
        if groups is not None:
            found.append((f"On {corpus}: " if corpus else "") + groups.caveat)
    return found


def _unlearnt(results: Sequence[CellResult], num_classes: Mapping[str | None, int]) -> list[str]:
    """Return the corpora on which the baseline, at its first levels, is no better than guessing."""
    found = []
    for corpus, number in num_classes.items():
        baseline = next((one for one in results if one.cell.corpus == corpus and one.cell.is_baseline), None)
        row = next((row for row in baseline.rows if row.test_labels is not None), None) if baseline else None
        if baseline is None or baseline.test is None or row is None:
            continue
        guess = best_guess(np.asarray(row.test_labels), number, row.metric).score
        if not _beats(baseline, guess):
            found.append(
                f"Nothing was learnt{f' on {corpus}' if corpus else ''}: the baseline's interval holds what guessing "
                f"scores ({guess:.3f}). Train longer, or at another rate"
            )
    return found


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
