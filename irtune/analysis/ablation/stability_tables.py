"""Tables of agreement on which blocks matter: between seeds of a cell, and between corpora."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from irtune.analysis.ablation.cell_results import Cell, CellResult
from irtune.analysis.ablation.stability import Agreement, Choices, between_corpora, stability
from irtune.analysis.tables import MISSING, Column, TableRow, TextTable


def _or_missing(value: float | None) -> str:
    return MISSING if value is None else f"{value:.2f}"


@dataclass(frozen=True)
class Line:
    """A line of a table of agreement.

    Args:
        name: A cell; between corpora a configuration.
        corpora: Both of them; empty between seeds.
        num_trials: With a trace; between corpora on the one that has fewer.
        agreement: Of pairs of them.
        entropy: As of ``Stability``; None between corpora.
        is_baseline: Whether its cell is what others are compared with.
    """

    name: str
    corpora: tuple[str, ...]
    num_trials: int
    agreement: Agreement
    entropy: float | None
    is_baseline: bool


def _columns(between: str, *further: Column[Line]) -> tuple[Column[Line], ...]:
    """Columns of how two trials agree, ``between`` which is said."""
    return (
        Column("cell", "configuration", lambda one: one.name, "left", True),
        *further,
        Column(
            "Kendall's tau",
            f"rank correlation of blocks' mean importance between {between}, mean over pairs; chance gives 0",
            lambda one: _or_missing(one.agreement.tau),
        ),
        Column(
            "Jaccard",
            f"blocks that both of {between} train at the end, over those that either does, mean over pairs",
            lambda one: _or_missing(one.agreement.jaccard),
        ),
        Column(
            "by chance",
            "the same of as many blocks drawn at random",
            lambda one: _or_missing(one.agreement.jaccard_of_chance),
        ),
    )


STABILITY_COLUMNS: tuple[Column[Line], ...] = (
    *_columns("two seeds", Column("seeds", "trials with a trace", lambda one: str(one.num_trials))),
    Column(
        "entropy",
        "of the selection frequency over blocks: 1 where all train alike",
        lambda one: _or_missing(one.entropy),
    ),
)
CORPUS_COLUMNS = _columns(
    "two corpora",
    Column("corpora", "between which", lambda one: " – ".join(one.corpora), "left", True),
    Column("pairs", "of trials, one on each, of different seeds", lambda one: str(one.agreement.num_pairs)),
)


def seed_lines(results: Sequence[CellResult], choices: Mapping[str, Sequence[Choices]]) -> list[Line]:
    """The agreement between the seeds of each cell that has a trace."""
    found = [(one.cell, stability(choices.get(one.cell.name, []))) for one in results]
    return [
        Line(cell.name, (), stable.num_seeds, stable.between_seeds, stable.entropy, cell.is_baseline)
        for cell, stable in found
        if stable is not None
    ]


def corpus_lines(results: Sequence[CellResult], choices: Mapping[str, Sequence[Choices]]) -> list[Line]:
    """The agreement of each configuration between every two corpora on which it has traces."""
    by_configuration: dict[str, list[Cell]] = {}
    for one in results:
        if one.cell.corpus is not None and choices.get(one.cell.name):
            by_configuration.setdefault(one.cell.configuration, []).append(one.cell)
    return [
        Line(
            name,
            (str(a.corpus), str(b.corpus)),
            min(len(choices[cell.name]) for cell in (a, b)),
            between_corpora(choices[a.name], choices[b.name]),
            None,
            a.is_baseline,
        )
        for name, cells in by_configuration.items()
        for a, b in itertools.combinations(cells, 2)
    ]


def stability_tables(results: Sequence[CellResult], choices: Mapping[str, Sequence[Choices]]) -> list[TextTable]:
    """The agreement between the seeds of each cell, and where there are several corpora between these."""
    return [
        TextTable(
            columns,
            tuple(TableRow(tuple(column.cell(one) for column in columns), False, one.is_baseline) for one in lines),
            "",
            "= baseline",
        )
        for columns, lines in (
            (STABILITY_COLUMNS, seed_lines(results, choices)),
            (CORPUS_COLUMNS, corpus_lines(results, choices)),
        )
        if lines
    ]


def stability_frame(results: Sequence[CellResult], choices: Mapping[str, Sequence[Choices]]) -> pd.DataFrame:
    """Every number of both tables without rounding; NaN where it is unknown."""
    return pd.DataFrame(
        [
            {
                "between": "corpora" if one.corpora else "seeds",
                "cell": one.name,
                "corpora": " – ".join(one.corpora) or None,
                "trials": one.num_trials,
                "pairs": one.agreement.num_pairs,
                "kendall_tau": one.agreement.tau,
                "jaccard": one.agreement.jaccard,
                "jaccard_of_chance": one.agreement.jaccard_of_chance,
                "entropy": one.entropy,
            }
            for lines in (seed_lines, corpus_lines)
            for one in lines(results, choices)
        ]
    )
