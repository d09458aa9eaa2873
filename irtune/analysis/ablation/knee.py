"""The knee of quality against k: the fewest training blocks beyond which more of them hardly help."""

from collections.abc import Sequence

import numpy as np

from irtune.analysis.ablation.cell_results import CellResult, differences, on_common_seeds
from irtune.analysis.significance import mean_interval

K = "selection.policy.k"
"""The factor that has a knee."""


def knee_rule(margin: float | None) -> str:
    """The meaning of the mark, in a sentence.

    Args:
        margin: As of ``knee_of``.
    """
    if margin is None:
        within = "whose mean lies within one standard error of the best mean"
    else:
        within = f"whose paired difference to the best has a 95 % t interval that stays within {margin:g}"
    return (
        f"Ringed is the knee: the smallest k {within}, of all k and of the baseline; there is none where that holds of "
        "the largest of them alone."
    )


def knee_of(
    cells: Sequence[CellResult], baseline: CellResult | None, margin: float | None, *, more_is_better: bool = True
) -> CellResult | None:
    """The knee of one method on one corpus.

    With a margin a k counts whose score is shown, on common seeds, to be worse than the best by less; that the best is
    chosen by the same scores makes this the harder. Without one it is the rule of one standard error.

    Args:
        cells: At one k each, by k.
        baseline: The cell that trains more blocks than any of them; None where there is none.
        margin: The largest difference that does not matter.
        more_is_better: Of the score.

    Returns:
        None where quality still grows at the end, or seeds don't tell that it does not.

    Source: Breiman, Friedman, Olshen and Stone, "Classification and regression trees", 1984, section 3.4.3, of one
        standard error.
    """
    sign = 1.0 if more_is_better else -1.0
    known = [one for one in (*cells, baseline) if one is not None and one.test is not None]
    if not known:
        return None
    best = max(known, key=lambda one: sign * one.test[0] if one.test else 0.0)
    found = next((one for one in cells if one is best or _is_as_good(one, best, margin, sign)), None)
    return None if baseline is None and found is cells[-1] else found


def _is_as_good(one: CellResult, best: CellResult, margin: float | None, sign: float) -> bool:
    if one.test is None or best.test is None:
        return False
    if margin is None:
        scores = list(best.scores.values())
        error = np.std(scores, ddof=1) / np.sqrt(len(scores)) if len(scores) > 1 else 0.0
        return bool(sign * (one.test[0] - best.test[0]) >= -error)
    pairs = on_common_seeds(*({row.seed: row for row in each.rows} for each in (one, best)))
    found = [sign * difference for difference in differences(*pairs)]
    return bool(found) and mean_interval(found)[1] > -margin
