"""What a sweep answers: how many blocks to train, how sure that is, what it saves, and what to hold against it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from irtune.analysis.guessing import AgainstGuessing, against_guessing
from irtune.analysis.metrics import Mode
from irtune.analysis.over_seeds import Finalist, as_given, compare_finalists, interval_between, winner
from irtune.analysis.sentence import (
    caveat_classes,
    caveat_final,
    caveat_guessing,
    caveat_lost,
    caveat_seeds,
    nothing_learnt,
    sentence_of,
)
from irtune.analysis.statistics import Interval
from irtune.analysis.trials import TrialRow, baseline_for, chosen, metric_of, over_classes

__all__ = ["Answer", "TrialRow", "answer_sweep"]

_SMALL_TEST_SET = 200


@dataclass(frozen=True, eq=False, kw_only=True)
class Answer:
    """The outcome of a sweep in words and numbers.

    Where finalists were repeated over seeds, ``best``, ``selective`` and ``baseline`` are means over common seeds.

    Args:
        sentence: The answer, for who decides how many blocks to train.
        best: The finished trial that is best on validation; it may be the baseline. None if none finished within the
            constraints.
        selective: The best finished trial that selects blocks: the one compared with the baseline.
        baseline: The finished trial that trains all blocks and differs from ``selective`` in nothing else: what it is
            compared with. Without ``selective`` the best that trains all blocks.
        given: The best finished trial that trains all blocks at other settings, such as the file's own; None if there
            is none.
        interval: Test score of ``selective`` minus that of ``baseline``; None without predictions of both.
        saving_seconds: Share of the baseline's training time that ``selective`` saves; negative if it costs more.
        saving_flops: Likewise for FLOPs.
        saving_trainable: Likewise for the mean number of trainable parameters.
        caveats: What to know before relying on the sentence.
        finalists: What was repeated over seeds, the baseline among it, best on validation first.
    """

    sentence: str
    best: TrialRow | None
    selective: TrialRow | None
    baseline: TrialRow | None
    given: TrialRow | None
    interval: Interval | None
    saving_seconds: float | None
    saving_flops: float | None
    saving_trainable: float | None
    caveats: tuple[str, ...]
    finalists: tuple[Finalist, ...] = ()


def answer_sweep(
    rows: Sequence[TrialRow],
    *,
    metric: str | None = None,
    mode: Mode = "max",
    num_classes: int | None = None,
    num_validation: int | None = None,
    num_resamples: int = 2000,
    seed: int = 0,
) -> Answer:
    """Choose on validation, compare with the baseline on test, and say what it is worth.

    The baseline compared with has the chosen trial's other settings: where more than selecting blocks was searched, the
    baseline as the file has it had one try at them, and the chosen trial many. Until it has run there is no verdict.
    Where finalists were repeated over seeds, the one best on validation over these is compared, over these.

    Args:
        rows: All trials of the sweep, and the repeats of its finalists, in any state.
        metric: What the sweep compared on validation, for the wording; None: what its trials are scored by.
        mode: Whether more (``max``) or less (``min``) of it is better.
        num_classes: Classes of the task; None: the highest class index met, plus one.
        num_validation: Examples in the validation set, if known.
        num_resamples: Resamples of the bootstrap.
        seed: Seed of the bootstrap.

    Raises:
        ValueError: If ``mode`` does not fit the rows (see ``ranked``), or predictions are not class indices.
    """
    metric = metric_of(rows).words if metric is None else metric
    trials = [row for row in rows if row.repeats is None]
    finalists = compare_finalists(rows, mode, num_classes, num_resamples, seed)
    final = winner(finalists)
    interval = None
    if final is None:
        selective = chosen(trials, mode, baseline=False)
        baseline = chosen(trials, mode, baseline=True) if selective is None else baseline_for(selective, trials, mode)
        given = chosen([row for row in trials if row is not baseline], mode, baseline=True)
        if selective is not None and baseline is not None:
            interval = interval_between([selective], [baseline], num_classes, num_resamples, seed)
    else:
        selective, baseline, interval = final.mean, final.baseline_mean, final.interval
        given = as_given(finalists, final, mode)
    best = chosen([row for row in (selective, baseline, given) if row is not None], mode)
    savings = {
        "seconds": _saving(selective, baseline, "seconds"),
        "flops": _saving(selective, baseline, "flops"),
        "trainable": _saving(selective, baseline, "trainable_share"),
    }
    guesses = _against_guessing(selective, baseline, final, num_classes, num_resamples, seed)
    sentence = sentence_of(trials, best, selective, baseline, given, interval, savings, metric, final)
    return Answer(
        sentence=nothing_learnt(guesses) + sentence,
        best=best,
        selective=selective,
        baseline=baseline,
        given=given,
        interval=interval,
        saving_seconds=savings["seconds"],
        saving_flops=savings["flops"],
        saving_trainable=savings["trainable"],
        caveats=(
            *_caveats(rows, selective, baseline, interval, metric, num_validation, final),
            *caveat_guessing(guesses),
            *caveat_classes(metric_of(rows).words, over_classes(rows)),
        ),
        finalists=finalists,
    )


def _against_guessing(
    selective: TrialRow | None,
    baseline: TrialRow | None,
    final: Finalist | None,
    num_classes: int | None,
    num_resamples: int,
    seed: int,
) -> dict[str, AgainstGuessing]:
    """What the trials compared have over guessing, by what they are called; the same trials over seeds if repeated."""
    compared = {
        "the selective trial": (selective, () if final is None else final.repeats),
        "the baseline": (baseline, () if final is None else final.baseline_repeats),
    }
    found = {
        name: against_guessing(row, repeats, num_classes, num_resamples, seed)
        for name, (row, repeats) in compared.items()
        if row is not None
    }
    return {name: guess for name, guess in found.items() if guess is not None}


def _saving(selective: TrialRow | None, baseline: TrialRow | None, measure: str) -> float | None:
    ours, theirs = getattr(selective, measure, None), getattr(baseline, measure, None)
    return None if ours is None or not theirs else 1.0 - ours / theirs


def _caveats(
    rows: Sequence[TrialRow],
    selective: TrialRow | None,
    baseline: TrialRow | None,
    interval: Interval | None,
    metric: str,
    num_validation: int | None,
    final: Finalist | None,
) -> tuple[str, ...]:
    caveats = []
    compared = [row for row in (selective, baseline) if row is not None]
    trials = [row for row in rows if row.repeats is None]
    if compared:
        caveats.append(caveat_seeds(trials, selective, baseline) if final is None else caveat_final(final))
        caveats.extend(_test_set(compared))
        caveats.append(
            _choice(trials, metric, num_validation, "best of each kind was" if final is None else "finalists were")
        )
    caveats.extend(caveat_lost(rows))
    if selective is not None and baseline is not None:
        caveats.extend(_disagreement(selective, baseline, interval))
    caveats.extend(_trade_off(trials, metric))
    lost = Counter(row.status for row in trials if row.status != "finished")
    if lost:
        ended = ", ".join(f"{count} {status}" for status, count in sorted(lost.items()))
        pruned = " A pruned trial was stopped on its early validation scores." if lost["pruned"] else ""
        caveats.append(f"Trials that did not finish: {ended}, of {len(trials)}.{pruned}")
    interrupted = sum(row.attempts > 1 for row in rows)
    if interrupted:
        caveats.append(f"Trials that were interrupted, and went on from their last checkpoint: {interrupted}.")
    if len(compared) == 2:
        caveats.append("Time on a shared machine is noisy; FLOPs are the dependable figure for cost.")
    return tuple(caveats)


def _trade_off(rows: Sequence[TrialRow], metric: str) -> list[str]:
    """What a sweep of several objectives, or with constraints, leaves to its reader."""
    caveats = []
    others = list(next((row.objectives for row in rows), {}))[1:]
    if others:
        caveats.append(
            f"There are several objectives, and best means by the first of them, {metric}. What it costs in "
            f"{' and '.join(others)} is for you to weigh: the trials worth weighing are those on the Pareto front."
        )
    infeasible = [row for row in rows if row.broken]
    if infeasible:
        listed = "; ".join(f"{row.name} ({', '.join(row.broken)})" for row in infeasible[:3])
        more = f"; and {len(infeasible) - 3} more" if len(infeasible) > 3 else ""
        caveats.append(f"Finished, but infeasible, and therefore never the best: {listed}{more}.")
    return caveats


def _test_set(compared: Sequence[TrialRow]) -> list[str]:
    caveats = []
    labels = [row.test_labels for row in compared if row.test_labels is not None]
    if labels:
        num_test = len(labels[0])
        if num_test < _SMALL_TEST_SET:
            caveats.append(
                f"The test set has only {num_test} examples, fewer than {_SMALL_TEST_SET}: "
                "on so few, differences of a few hundredths are noise."
            )
        else:
            caveats.append(f"The test set has {num_test} examples; the interval is that of a set of this size.")
    if len(labels) == 2 and not np.array_equal(labels[0], labels[1]):
        caveats.append("The two trials were tested on different examples, so there is no paired interval.")
    return caveats


def _choice(rows: Sequence[TrialRow], metric: str, num_validation: int | None, picked: str) -> str:
    finished = [row for row in rows if row.status == "finished" and row.score is not None]
    selective = sum(not row.is_baseline for row in finished)
    size = "the validation set" if num_validation is None else f"{num_validation} validation examples"
    return (
        f"Finished: {selective} selective, {len(finished) - selective} baseline. The {picked} picked by "
        f"{metric} on {size}; the more there are to pick from, the more luck is in the best."
    )


def _disagreement(selective: TrialRow, baseline: TrialRow, interval: Interval | None) -> list[str]:
    """The scores the trials reported and those of their kept predictions must be the same thing."""
    if interval is None or selective.test_score is None or baseline.test_score is None:
        return []
    reported = selective.test_score - baseline.test_score
    if abs(reported - interval.difference) < 0.0015:
        return []
    return [
        f"The reported test scores differ by {reported:+.3f}, those of the kept predictions by "
        f"{interval.difference:+.3f}: they were not computed over the same classes or examples."
    ]
