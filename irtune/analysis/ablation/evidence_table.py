"""Table of every test of a cell against its baseline, over seeds and over test examples."""

from collections.abc import Callable, Sequence

from irtune.analysis.ablation.cell_results import CellResult
from irtune.analysis.significance import Comparison
from irtune.analysis.tables import MISSING, Column, TableRow, TextTable


def _of_seeds(say: Callable[[Comparison], str]) -> Callable[[CellResult], str]:
    return lambda one: MISSING if one.against is None else say(one.against)


def _examples(one: CellResult) -> str:
    return MISSING if one.interval is None else f"{one.interval.low:+.3f} to {one.interval.high:+.3f}"


EVIDENCE_COLUMNS: tuple[Column[CellResult], ...] = (
    Column("cell", "configuration, and data where there are several", lambda one: one.cell.name, "left", True),
    Column("pairs", "seeds that cell and baseline have in common", _of_seeds(lambda found: str(found.num_seeds))),
    Column(
        "deviation",
        "standard deviation of the cell's own test scores over seeds",
        lambda one: MISSING if one.test_deviation is None else f"{one.test_deviation:.3f}",
    ),
    Column(
        "effect", "mean difference in standard deviations of the differences", _of_seeds(lambda f: f"{f.effect:+.2f}")
    ),
    Column("sign-flip p", "over seeds, exact and two-sided, not adjusted", _of_seeds(lambda found: f"{found.p:.2g}")),
    Column("Wilcoxon p", "of signed ranks over seeds, likewise", _of_seeds(lambda found: f"{found.wilcoxon_p:.2g}")),
    Column(
        "other examples",
        "95 % interval of the difference for other seeds and other test examples, both resampled",
        _examples,
    ),
    Column(
        "McNemar p",
        "of the test examples of the first common seed, or of whole groups of them",
        lambda one: MISSING if one.mcnemar is None else f"{one.mcnemar:.2g}",
    ),
    Column(
        "seeds needed",
        "paired seeds that would about tell a difference of the size seen",
        _of_seeds(lambda found: MISSING if found.needed is None else str(found.needed)),
    ),
)


def evidence_table(results: Sequence[CellResult]) -> TextTable | None:
    """The tests of all cells that have a baseline; None where none has."""
    compared = [one for one in results if one.against is not None]
    lines = (TableRow(tuple(column.cell(one) for column in EVIDENCE_COLUMNS), False, False) for one in compared)
    return TextTable(EVIDENCE_COLUMNS, tuple(lines), "") if compared else None
