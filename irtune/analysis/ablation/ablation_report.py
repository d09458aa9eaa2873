"""Findings of an ablation, and its report: one HTML file that needs nothing else, neither network nor server."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from irtune.analysis.ablation.cell_figures import Curve
from irtune.analysis.ablation.cell_results import Cell, CellResult, results_of
from irtune.analysis.ablation.cell_tables import cell_table
from irtune.analysis.ablation.claims import Claimed, ClaimResult, judge
from irtune.analysis.ablation.stability import Choices, Stability, stability
from irtune.analysis.guessing import best_guess
from irtune.analysis.metrics import Metric
from irtune.analysis.report import environment
from irtune.analysis.significance import smallest_p
from irtune.analysis.tables import MISSING, Column, TableRow, TextTable
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
    """

    results: tuple[CellResult, ...]
    claims: tuple[ClaimResult, ...]
    answer: str
    caveats: tuple[str, ...]
    improving: tuple[str, ...]


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
        curves: Validation scores by the id of a trial.
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
    row = next((row for one in results for row in one.rows if row.test_labels is not None), None)
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
        steps, values = curves.get(row.trial_id, ([], []))
        if len(steps) < 2:
            return False
        before = [value for step, value in zip(steps, values, strict=True) if step <= 0.75 * steps[-1]]
        rises.append(sign * (values[-1] - max(before, key=lambda value: sign * value)) if before else 0.0)
    return bool(rises) and float(np.mean(rises)) > STILL_IMPROVING


def render_ablation(
    *,
    title: str,
    findings: AblationFindings,
    matched: str,
    choices: Mapping[str, Sequence[Choices]],
    pictures: Mapping[str, bytes],
    factor_pngs: Mapping[str, bytes],
    heat_maps: Mapping[str, bytes],
    class_names: Sequence[str],
    failures: Sequence[str],
    claims_record: Mapping[str, str],
    data: Mapping[str, str],
    tracking: tuple[str, str],
    command: str,
    study_yaml: str,
    provenance: Mapping[str, object],
) -> str:
    """The page as text; everything given is escaped, and what is empty is left out.

    Args:
        title: Heading of the page.
        findings: What the study found.
        matched: What the cells have in common.
        choices: What the trials of each cell chose, by the cell's name.
        pictures: PNG by name: cells, trade_off, curves, selection.
        factor_pngs: PNG by factor.
        heat_maps: Layer traces as PNG by caption.
        class_names: Of the task; of several corpora of the first.
        failures: Trials that did not finish, in words.
        claims_record: When the claims were recorded, and the study's SHA-256.
        data: What to know of the data.
        tracking: The command that opens the tracker, and the address of the study in it.
        command: What repeats the study.
        study_yaml: The study's file.
        provenance: What the results come from.
    """
    results = findings.results
    improving = ", ".join(findings.improving)
    page = environment().get_template("ablation.html")
    return page.render(
        title=title,
        answer=findings.answer,
        claims=[_claim_row(claim) for claim in findings.claims],
        matched=matched,
        recorded=claims_record["recorded"],
        sha256=claims_record["sha256"],
        caveats=findings.caveats,
        cells=cell_table(results),
        cells_png=pictures.get("cells"),
        trade_off_png=pictures.get("trade_off"),
        curves_png=pictures.get("curves"),
        selection_png=pictures.get("selection"),
        unfinished_learning=improving and f"Still improving at the end: {improving}.",
        factor_pngs=factor_pngs,
        stability=stability_table(results, choices),
        heat_maps=heat_maps,
        classes=class_names,
        per_class=per_class([one for one in results if one.cell.corpus == results[0].cell.corpus], class_names),
        failures=failures,
        data=data,
        tracking_command=tracking[0],
        tracking_url=tracking[1],
        # Escaping does not disarm an address such as javascript:…, so only a web address becomes a link.
        is_link=tracking[1].startswith(("http://", "https://")),
        command=command,
        study_yaml=study_yaml,
        provenance=provenance,
    )


Named = tuple[str, Stability]


def _or_missing(value: float | None) -> str:
    return MISSING if value is None else f"{value:.2f}"


STABILITY_COLUMNS: tuple[Column[Named], ...] = (
    Column("cell", "configuration", lambda one: one[0], "left", True),
    Column("seeds", "trials with a trace", lambda one: str(one[1].num_seeds)),
    Column(
        "Kendall's tau",
        "rank correlation of blocks' mean importance between two seeds, mean over pairs; chance gives 0",
        lambda one: _or_missing(one[1].tau),
    ),
    Column(
        "Jaccard",
        "blocks that both of two seeds train at the end, over those that either does, mean over pairs",
        lambda one: _or_missing(one[1].jaccard),
    ),
    Column(
        "by chance", "the same of as many blocks drawn at random", lambda one: _or_missing(one[1].jaccard_of_chance)
    ),
    Column(
        "entropy",
        "of the selection frequency over blocks: 1 where all train alike",
        lambda one: _or_missing(one[1].entropy),
    ),
)


def stability_table(results: Sequence[CellResult], choices: Mapping[str, Sequence[Choices]]) -> TextTable | None:
    """The agreement between the seeds of each cell; None where no trial has a trace."""
    found = [(one.cell, stability(choices.get(one.cell.name, []))) for one in results]
    lines = tuple(
        TableRow(tuple(column.cell((cell.name, stable)) for column in STABILITY_COLUMNS), False, cell.is_baseline)
        for cell, stable in found
        if stable is not None
    )
    return TextTable(STABILITY_COLUMNS, lines, "", "= baseline") if lines else None


def per_class(results: Sequence[CellResult], class_names: Sequence[str]) -> dict[str, list[str]]:
    """F1 on test of every class, mean over seeds, by cell; nothing where predictions are not classes."""
    found = {}
    for one in results:
        scores = [_f1_of_classes(row, class_names) for row in one.rows]
        kept = [each for each in scores if each is not None]
        if kept and len(kept) == len(one.rows):
            found[one.cell.name] = [f"{value:.3f}" for value in np.mean(kept, axis=0)]
    return found


def _f1_of_classes(row: TrialRow, class_names: Sequence[str]) -> NDArray[np.float64] | None:
    labels, predictions = row.test_labels, row.test_predictions
    if labels is None or predictions is None or not row.metric.reads_classes:
        return None
    weights = np.ones((1, len(labels)))
    metrics = [Metric.named(f"f1/{name}", class_names) for name in class_names]
    return np.array([metric.scores(weights, labels, predictions)[0] for metric in metrics])


def _claim_row(claim: ClaimResult) -> dict[str, object]:
    found, interval = claim.comparison, claim.interval
    margin = "" if claim.claimed.margin is None else f", or as good within {claim.claimed.margin:g}"
    where = "" if claim.corpus is None else f" on {claim.corpus}"
    return {
        "text": f"{claim.claimed.better} is better than {claim.claimed.than}{margin}{where}",
        "state": claim.state,
        "sentence": claim.sentence,
        "difference": MISSING if found is None else f"{found.difference[0]:+.3f}",
        "interval": MISSING if found is None else f"{found.difference[1]:+.3f} to {found.difference[2]:+.3f}",
        "examples": MISSING if interval is None else f"{interval.low:+.3f} to {interval.high:+.3f}",
        "seeds": len(claim.seeds),
    }
