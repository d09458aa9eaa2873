"""What a sweep comes to in numbers: the trial that is best at selecting blocks, and what it is held against."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from irtune.analysis.metrics import Mode
from irtune.analysis.over_seeds import Finalist, compare_finalists, interval_between
from irtune.analysis.statistics import Interval
from irtune.analysis.trials import TrialRow, baseline_for, chosen, other_differences


@dataclass(frozen=True, eq=False, kw_only=True)
class Outcome:
    """The trials that count, and the difference between them.

    Where finalists were repeated over seeds, ``best``, ``selective`` and ``baseline`` are means over common seeds.

    Args:
        best: The finished trial that is best on validation; it may be the baseline. None if none finished within the
            constraints.
        selective: The best finished trial that selects blocks: the one compared with the baseline.
        baseline: The finished trial that trains all blocks and differs from ``selective`` in nothing else: what it is
            compared with. Without ``selective`` the best that trains all blocks.
        given: The best finished trial that trains all blocks at other settings, such as the file's own; None if there
            is none.
        interval: Test score of ``selective`` minus that of ``baseline``; None without predictions of both.
        finalists: What was repeated over seeds, the baseline among it, best on validation first.
        final: The finalist whose means ``selective`` and ``baseline`` are, if they are means.
    """

    best: TrialRow | None
    selective: TrialRow | None
    baseline: TrialRow | None
    given: TrialRow | None
    interval: Interval | None
    finalists: tuple[Finalist, ...]
    final: Finalist | None

    @property
    def compared(self) -> list[TrialRow]:
        """``selective`` and ``baseline``, as far as there are any."""
        return [row for row in (self.selective, self.baseline) if row is not None]

    def saving(self, measure: Literal["seconds", "flops", "trainable_share"]) -> float | None:
        """Share of what the baseline cost by this measure that ``selective`` saves; negative if it costs more."""
        ours, theirs = getattr(self.selective, measure, None), getattr(self.baseline, measure, None)
        return None if ours is None or not theirs else 1.0 - ours / theirs


def outcome_of(rows: Sequence[TrialRow], mode: Mode = "max") -> Outcome:
    """Choose on validation, and compare with the baseline on test.

    Args:
        rows: All trials of the sweep, and the repeats of its finalists, in any state.
        mode: Whether more or less of the validation score is better.
    """
    trials = [row for row in rows if row.repeats is None]
    finalists = compare_finalists(rows, mode)
    # The best on validation of those that have two seeds or more beside the baseline's.
    final, interval = next((one for one in finalists if len(one.baseline_repeats) > 1), None), None
    if final is None:
        selective = chosen(trials, mode, baseline=False)
        baseline = chosen(trials, mode, baseline=True) if selective is None else baseline_for(selective, trials, mode)
        given = chosen([row for row in trials if row is not baseline], mode, baseline=True)
        if selective is not None and baseline is not None:
            interval = interval_between([selective], [baseline])
    else:
        selective, baseline, interval = final.mean, final.baseline_mean, final.interval
        others = [one.mean for one in finalists if other_differences(one.mean, final.mean)]
        given = chosen(others, mode, baseline=True)
    return Outcome(
        best=chosen([row for row in (selective, baseline, given) if row is not None], mode),
        selective=selective,
        baseline=baseline,
        given=given,
        interval=interval,
        finalists=finalists,
        final=final,
    )
