"""Verdicts on the claims that were fixed before its first trial."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from irtune.analysis.ablation.cell_results import CellResult, differences, on_common_seeds
from irtune.analysis.over_seeds import interval_between
from irtune.analysis.significance import Comparison, compare
from irtune.analysis.statistics import Interval
from irtune.analysis.trials import metric_of

State = Literal["shown", "refuted", "equivalent", "can't tell", "not run"]


@dataclass(frozen=True)
class Claimed:
    """Something claimed: one arm is better than another, or as good within a margin.

    Args:
        better: The first arm.
        than: The second.
        margin: The largest difference that does not matter; None: being as good is not looked for.
    """

    better: str
    than: str
    margin: float | None = None


@dataclass(frozen=True, eq=False)
class ClaimResult:
    """The verdict of the seeds on one claim on one corpus.

    Args:
        claimed: What.
        corpus: On which data; None where there is only one.
        comparison: The first against the second on common seeds; None below one.
        interval: Mean difference for other seeds and other test examples.
        seeds: The common seeds.
        metric: In words.
    """

    claimed: Claimed
    corpus: str | None
    comparison: Comparison | None
    interval: Interval | None
    seeds: tuple[int, ...]
    metric: str

    @property
    def state(self) -> State:
        """The verdict on what was claimed: shown, its opposite shown, or neither."""
        if self.comparison is None:
            return "not run"
        verdict = self.comparison.verdict
        return "shown" if verdict == "better" else "refuted" if verdict == "worse" else verdict

    @property
    def sentence(self) -> str:
        """The verdict with its figures."""
        first, second = self.claimed.better, self.claimed.than
        where = "" if self.corpus is None else f" on {self.corpus}"
        found = self.comparison
        if found is None:
            return f"Nothing can be said of {first} and {second}{where}: they finished no common seed."
        mean, low, high = found.difference
        margin = self.claimed.margin
        figures = (
            f"{self.metric} {mean:+.3f} over {found.num_seeds} seeds (95% interval {low:+.3f} to {high:+.3f}, "
            f"sign-flip p = {found.adjusted_p:.2g}"
        )
        if margin is not None and found.equivalence_p is not None:
            figures += f", equivalence within {margin:g}: p = {found.equivalence_p:.2g}"
        figures += ")"
        if found.verdict == "equivalent":
            return f"{first} is as good as {second}{where} within {margin:g}: {figures}."
        if found.verdict in ("better", "worse"):
            return f"{first} is {found.verdict} than {second}{where}: {figures}."
        needed = f" About {found.needed} seeds would be needed." if found.needed else ""
        return f"It can't be told whether {first} is better than {second}{where}: {figures}.{needed}"


def judge(claims: Sequence[Claimed], results: Sequence[CellResult]) -> list[ClaimResult]:
    """Every claim on every corpus, Holm-adjusted among themselves, in the order of the claims.

    An arm that factors vary is taken at the first level of each.

    Args:
        claims: What was claimed.
        results: All cells.
    """
    corpora = list(dict.fromkeys(one.cell.corpus for one in results))
    pairs = []
    for claimed in claims:
        for corpus in corpora:
            cells = [usual_cell(results, arm, corpus) for arm in (claimed.better, claimed.than)]
            finished = [{row.seed: row for row in cell.rows} if cell else {} for cell in cells]
            pairs.append((claimed, corpus, *on_common_seeds(*finished)))
    known = [pair for pair in pairs if pair[2]]
    metric = metric_of([row for one in results for row in one.rows])
    margins = [claimed.margin for claimed, *_ in known]
    found = compare(
        [differences(ours, theirs) for _, _, ours, theirs in known],
        margin=margins,
        more_is_better=metric.mode == "max",
    )
    comparisons = iter(found)
    return [
        ClaimResult(
            claimed=claimed,
            corpus=corpus,
            comparison=next(comparisons) if ours else None,
            interval=interval_between(ours, theirs) if len(ours) > 1 else None,
            seeds=tuple(row.seed for row in ours),
            metric=f"test {metric.words}",
        )
        for claimed, corpus, ours, theirs in pairs
    ]


def usual_cell(results: Sequence[CellResult], arm: str, corpus: str | None) -> CellResult | None:
    """The cell of an arm on a corpus at the first level of each factor; None where there is none."""
    return next((one for one in results if (one.cell.arm, one.cell.corpus) == (arm, corpus)), None)
