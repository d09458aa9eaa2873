"""What a sweep answers: how many blocks to train, how sure that is, what it saves, and what to hold against it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from irtune.analysis.guessing import AgainstGuessing, against_guessing
from irtune.analysis.metrics import Mode
from irtune.analysis.outcome import Outcome, outcome_of
from irtune.analysis.sentence import (
    caveat_classes,
    caveat_guessing,
    caveat_lost,
    caveat_seeds,
    nothing_learnt,
    sentence_of,
)
from irtune.analysis.trials import TrialRow, groups_of, metric_of, over_classes

_SMALL_TEST_SET = 200


@dataclass(frozen=True, eq=False, kw_only=True)
class Answer(Outcome):
    """The outcome of a sweep in words and numbers.

    Args:
        sentence: The answer, for who decides how many blocks to train.
        caveats: What to know before relying on the sentence.
    """

    sentence: str
    caveats: tuple[str, ...]


def answer_sweep(
    rows: Sequence[TrialRow],
    *,
    metric: str | None = None,
    mode: Mode = "max",
    num_classes: int | None = None,
    num_validation: int | None = None,
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
    """
    scored = metric_of(rows).words
    metric = scored if metric is None else metric
    trials = [row for row in rows if row.repeats is None]
    outcome = outcome_of(rows, mode)
    guesses = _against_guessing(outcome, num_classes)
    return Answer(
        **vars(outcome),
        sentence=nothing_learnt(guesses) + sentence_of(trials, outcome, metric),
        caveats=(
            *_caveats(rows, outcome, metric, num_validation),
            *caveat_guessing(guesses),
            *caveat_classes(scored, over_classes(rows)),
        ),
    )


def _against_guessing(outcome: Outcome, num_classes: int | None) -> dict[str, AgainstGuessing]:
    """What the trials compared have over guessing, by what they are called; the same trials over seeds if repeated."""
    final = outcome.final
    compared = {
        "the selective trial": (outcome.selective, () if final is None else final.repeats),
        "the baseline": (outcome.baseline, () if final is None else final.baseline_repeats),
    }
    found = {
        name: against_guessing(row, repeats, num_classes)
        for name, (row, repeats) in compared.items()
        if row is not None
    }
    return {name: guess for name, guess in found.items() if guess is not None}


def _caveats(rows: Sequence[TrialRow], outcome: Outcome, metric: str, num_validation: int | None) -> list[str]:
    caveats = []
    final, trials = outcome.final, [row for row in rows if row.repeats is None]
    if outcome.compared:
        caveats.append(caveat_seeds(final))
        caveats.extend(_test_set(outcome.compared))
        caveats.append(
            _choice(trials, metric, num_validation, "best of each kind was" if final is None else "finalists were")
        )
    caveats.extend(caveat_lost(rows))
    caveats.extend(_trade_off(trials, metric))
    lost = Counter(row.status for row in trials if row.status != "finished")
    if lost:
        ended = ", ".join(f"{count} {status}" for status, count in sorted(lost.items()))
        pruned = " A pruned trial was stopped on its early validation scores." if lost["pruned"] else ""
        caveats.append(f"Trials that did not finish: {ended}, of {len(trials)}.{pruned}")
    interrupted = sum(row.attempts > 1 for row in rows)
    if interrupted:
        caveats.append(f"Trials that were interrupted, and went on from their last checkpoint: {interrupted}.")
    if len(outcome.compared) == 2:
        caveats.append("Time on a shared machine is noisy; FLOPs are the dependable figure for cost.")
    return caveats


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
    groups = groups_of(compared)
    if groups is not None:
        caveats.append(f"{groups.caveat}.")
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
