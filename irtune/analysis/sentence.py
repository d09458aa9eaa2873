"""The wording of a sweep's answer."""

from collections import Counter
from collections.abc import Mapping, Sequence

from irtune.analysis.guessing import AgainstGuessing
from irtune.analysis.metrics import Metric
from irtune.analysis.outcome import Outcome
from irtune.analysis.over_seeds import Finalist
from irtune.analysis.statistics import Interval
from irtune.analysis.trials import TrialRow, other_differences

_SETTINGS = 4
"""Settings that a sentence names."""


def sentence_of(rows: Sequence[TrialRow], outcome: Outcome, metric: str) -> str:
    """The answer in a few sentences, whatever became of the sweep.

    Args:
        rows: All trials of the search.
        outcome: What they came to.
        metric: What was compared on validation.
    """
    best, selective, baseline, given = outcome.best, outcome.selective, outcome.baseline, outcome.given
    if selective is None:
        return _nothing_selective(rows, baseline)
    if baseline is None:
        return _no_baseline(rows, selective, given)
    differences = {} if given is None else other_differences(selective, given)
    same = "" if given is None else f" at the same settings ({_settings(differences, 0)})"
    comparison = (
        f"{_what(selective)} {_verdict(outcome.interval, selective.metric)} training all {baseline.num_blocks}{same}: "
        f"{_scores(selective, baseline, outcome)}. {_cost(outcome)}"
    ).strip()
    if given is not None:
        comparison += (
            f" The baseline at other settings ({_settings(differences, 1)}) reaches a test {given.metric.words} of "
            f"{_score(given.test_score)}."
        )
    if best is not None and best.is_baseline:
        return (
            f"No trial that selects blocks beat the baseline, all {best.num_blocks} blocks, on validation "
            f"({metric} {_score(best.score)} against {_score(selective.score)} for the best of them). "
            f"That one all the same: {comparison[0].lower()}{comparison[1:]}"
        )
    return comparison


def nothing_learnt(found: Mapping[str, AgainstGuessing]) -> str:
    """A warning that stands before any comparison of trials that are not shown to beat guessing; else nothing.

    Args:
        found: What the trials have over guessing, by what they are called.
    """
    if not found or any(each.beats for each in found.values()):
        return ""
    none = "neither trial beats" if len(found) > 1 else f"{next(iter(found))} does not beat"
    best = min(found.values(), key=lambda each: each.deficit)
    guessing = f"guessing ({best.metric.words} {best.guess.score:.3f}, by {best.guess.how})"
    if best.deficit >= 0:
        return (
            f"Nothing was learnt yet: {none} {guessing}, so train longer before you read anything into the comparison. "
        )
    return (
        f"Nothing is shown to be learnt: {none} {guessing} by more than the luck of test examples, with {best} at "
        "best, so train longer or test on more examples before you read anything into the comparison. "
    )


def caveat_guessing(found: Mapping[str, AgainstGuessing]) -> list[str]:
    """Return whether the trials compared beat guessing, where at least one of them does."""
    beaten = [name for name, each in found.items() if each.beats]
    if not beaten:
        return []
    guess = found[beaten[0]].guess
    reached = "; ".join(
        f"{name} {'beats' if each.beats else 'does not beat'} it: {each}" for name, each in found.items()
    )
    words = found[beaten[0]].metric.words
    return [f"Guessing reaches a test {words} of {guess.score:.3f} at best, by {guess.how}; {reached}."]


def caveat_classes(words: str, classes: Mapping[str, str]) -> list[str]:
    """Return what macro scores are over in splits that lack classes."""
    start = f"{words[0].upper()}{words[1:]}"
    return [
        f"{start} on {split} is over {over}: those that it has an example of. Nothing is known about the others."
        for split, over in classes.items()
    ]


def caveat_seeds(final: Finalist | None) -> str:
    """Which seeds stand behind what is compared, and what the interval covers."""
    if final is None:
        return (
            "One seed per configuration: differences between seeds are not measured by the interval, "
            "which covers only the choice of test examples."
        )
    seeds = _listed([str(row.seed) for row in final.repeats])
    return (
        f"Means over the seeds {seeds}, none of them the search's. The interval covers other seeds and other "
        "test examples. Of the finalists the sentence is about the one that is best on validation over these seeds; "
        "test examples chose nothing."
    )


def caveat_lost(rows: Sequence[TrialRow]) -> list[str]:
    """Repeats of finalists that did not finish, and what that means for the comparison."""
    lost = [row for row in rows if row.repeats is not None and row.status != "finished"]
    if not lost:
        return []
    listed = ", ".join(f"{row.repeats} with seed {row.seed} {row.status}" for row in lost)
    return [
        f"Repeats that did not finish: {listed}. A finalist is compared on the seeds that both it and the "
        "baseline finished, which flatters one that fails."
    ]


def _nothing_selective(rows: Sequence[TrialRow], baseline: TrialRow | None) -> str:
    tried = [row for row in rows if not row.is_baseline]
    within = " within the constraints" if any(row.broken for row in tried) else ""
    start = f"No trial that selects blocks finished{within} ({_endings(tried)})" if tried else "No trial selects blocks"
    start += ", so this sweep cannot say how many blocks are worth training."
    if baseline is None:
        return f"{start} No baseline (strategy all) finished either."
    reached = f"a test {baseline.metric.words} of {_score(baseline.test_score)}"
    return f"{start} The baseline, all {baseline.num_blocks} blocks, reaches {reached}."


def _no_baseline(rows: Sequence[TrialRow], selective: TrialRow, given: TrialRow | None) -> str:
    """Without all blocks at the same settings nothing is known of selecting them."""
    tried = [row for row in rows if row.is_baseline]
    why, same, elsewhere = "is not part of this sweep", "", ""
    if given is not None:
        differences = other_differences(selective, given)
        tried = [row for row in tried if not other_differences(row, selective)]
        why, same = "has not run yet", f" at the same settings ({_settings(differences, 0)})"
        elsewhere = (
            f" At other settings ({_settings(differences, 1)}) it reaches {_score(given.test_score)}, which may be for "
            "these as well."
        )
    if tried:
        why = f"did not finish ({_endings(tried)})"
    return (
        f"{_what(selective)} is the best of this sweep on validation, with a test {selective.metric.words} of "
        f"{_score(selective.test_score)}. The baseline, all {selective.num_blocks} blocks, {why}{same}, so whether "
        f"selecting blocks loses or saves anything is not known.{elsewhere}"
    )


def _what(row: TrialRow) -> str:
    """The configuration in words, as the subject of a sentence."""
    active = row.mean_active
    if active is None:
        blocks = "an unmeasured number" if row.k is None else f"{row.k}"
    else:
        blocks = f"{active:.0f}" if abs(active - round(active)) < 0.05 else f"on average {active:.1f}"
    interval = "step" if row.reselect_every == 1 else f"{row.reselect_every} steps"
    details = [f"strategy {row.strategy}", f"chosen anew every {interval}" if row.reselect_every > 0 else "chosen once"]
    if row.within_block is not None:
        details.append(f"scores aggregated by {row.within_block}")
    return f"Training {blocks} of {row.num_blocks} blocks at a time ({', '.join(details)})"


def _settings(differences: Mapping[str, tuple[object, object]], which: int) -> str:
    """Settings that differ between two trials, as one of them has them."""
    listed = [f"{key} {pair[which]}" for key, pair in differences.items()]
    return ", ".join(listed[:_SETTINGS] + [f"and {len(listed) - _SETTINGS} more"] * (len(listed) > _SETTINGS))


def _verdict(interval: Interval | None, metric: Metric) -> str:
    if interval is None:
        return "cannot be compared statistically with"
    if interval.contains_zero:
        return "is indistinguishable in a sweep of this size from"
    return "is better than" if interval.favours_first(metric.mode) else "is worse than"


def _scores(selective: TrialRow, baseline: TrialRow, outcome: Outcome) -> str:
    interval, final = outcome.interval, outcome.final
    over = "" if final is None else f", each the mean of {len(final.repeats)} seeds"
    scores = f"test {selective.metric.words} {_score(selective.test_score)} against {_score(baseline.test_score)}{over}"
    if interval is not None:
        bounds = f"95% interval {interval.low:+.3f} to {interval.high:+.3f}"
        return f"{scores}, a difference of {interval.difference:+.3f} ({bounds})"
    if selective.test_score is not None and baseline.test_score is not None:
        scores += f", a difference of {selective.test_score - baseline.test_score:+.3f}"
    return f"{scores} (no interval: predictions of both on one test set are missing)"


def _cost(outcome: Outcome) -> str:
    """What it saves and what it costs more; a change of less than half a per cent is neither."""
    savings = {
        "training time": outcome.saving("seconds"),
        "FLOPs": outcome.saving("flops"),
        "trainable parameters": outcome.saving("trainable_share"),
    }
    measured = {noun: share for noun, share in savings.items() if share is not None}
    saved = [f"{share:.0%} of the {noun}" for noun, share in measured.items() if share >= 0.005]
    more = [f"{-share:.0%} more {noun}" for noun, share in measured.items() if share <= -0.005]
    same = [noun for noun, share in measured.items() if abs(share) < 0.005]
    clauses = []
    if saved:
        clauses.append(f"saves {_listed(saved)}")
    if more:
        clauses.append(f"{'but ' if saved else ''}costs {_listed(more)}")
    if same:
        clauses.append(f"takes the same {_listed(same)}")
    return f"It {', '.join(clauses)}." if clauses else ""


def _endings(rows: Sequence[TrialRow]) -> str:
    unscored = {"finished": "finished without a score"}
    counts = Counter("infeasible" if row.broken else unscored.get(row.status, row.status) for row in rows)
    return ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))


def _score(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3f}"


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
