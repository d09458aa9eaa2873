"""The best cell of each corpus, and whether seeds show that it is."""

from collections.abc import Sequence
from dataclasses import dataclass

from irtune.analysis.ablation.cell_results import CellResult, differences, on_common_seeds
from irtune.analysis.significance import LEVEL, holm, sign_flip_p
from irtune.analysis.trials import metric_of

BEST = (
    "best on its data: better than every other cell there by the two-sided sign-flip test on common seeds, the largest "
    "of whose p-values, Holm-adjusted over data sets, is at most 5 %"
)
"""The meaning of the mark of the best."""


@dataclass(frozen=True)
class Lead:
    """The cell with the best mean on a corpus.

    Args:
        cell: Its name.
        p: That it is no better than some other cell: the largest two-sided p-value against any of them; 1 where it has
            no common seeds with one, or where it is behind on these.
        adjusted_p: The same, Holm-adjusted over corpora.
    """

    cell: str
    p: float
    adjusted_p: float

    @property
    def is_shown(self) -> bool:
        """True where seeds show that it is the best."""
        return self.adjusted_p <= LEVEL


def leads_of(results: Sequence[CellResult]) -> dict[str | None, Lead]:
    """The leading cell of each corpus that has several.

    That one is the best means that it is better than each of the others, so that the largest of these p-values is that
    of the whole; that the leader was chosen by the same scores costs no more, as long as tests are two-sided.

    Args:
        results: All cells; those of which nothing finished are left out.

    Source: Gutmann and Maymin, "Is the selected population the best?", Annals of Statistics 15, 1987; Hung and Fithian,
        "Rank verification for exponential families", Annals of Statistics 47, 2019.
    """
    sign = 1 if metric_of([row for one in results for row in one.rows]).mode == "max" else -1
    found = {}
    for corpus in dict.fromkeys(one.cell.corpus for one in results):
        known = [one for one in results if one.cell.corpus == corpus and one.test is not None]
        if len(known) > 1:
            first = max(known, key=lambda one: sign * one.test[0] if one.test else 0.0)
            found[corpus] = first, max(_p(first, other, sign) for other in known if other is not first)
    adjusted = holm([p for _, p in found.values()])
    return {
        corpus: Lead(one.cell.name, p, all_p) for (corpus, (one, p)), all_p in zip(found.items(), adjusted, strict=True)
    }


def best_shown(results: Sequence[CellResult]) -> set[str]:
    """The cells, one of a corpus at most, that are shown to be the best on it."""
    return {lead.cell for lead in leads_of(results).values() if lead.is_shown}


def _p(first: CellResult, other: CellResult, sign: int) -> float:
    pairs = on_common_seeds(*({row.seed: row for row in one.rows} for one in (first, other)))
    found = differences(*pairs)
    return sign_flip_p(found) if found and sign * sum(found) > 0 else 1.0
