"""The cells of a study as tables: for the terminal and the report, and as CSV, Parquet, Markdown and LaTeX."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from irtune.analysis.ablation.best import BEST, best_shown
from irtune.analysis.ablation.cell_results import CellResult
from irtune.analysis.ablation.cost_table import COSTS, cost_table
from irtune.analysis.ablation.latex import latex_of
from irtune.analysis.tables import FULL_WIDTH, MISSING, Column, TableRow, TextTable, classes_note
from irtune.analysis.trials import groups_of, metric_of

NAME, COST_NAME = "cells", "costs"
"""Of the files, before their endings."""


def cell_columns(results: Sequence[CellResult]) -> tuple[Column[CellResult], ...]:
    """The columns of a table of cells: quality, and what seeds tell of its difference to the baseline."""
    words = metric_of([row for one in results for row in one.rows]).words
    return (
        Column("cell", "configuration, and data where there are several", lambda one: one.cell.name, "left", True),
        Column("seeds", "seeds that finished", lambda one: str(len(one.rows))),
        Column(
            f"test {words}",
            "mean over seeds with half the width of its 95 % t interval",
            lambda one: _with_margin(one.test),
        ),
        Column("IQM", "mean of the middle half of the seeds", lambda one: _number(one.test_iqm), from_width=FULL_WIDTH),
        Column("to baseline", "mean difference on common seeds, with its 95 % t interval", _difference),
        Column(
            "p",
            "of the sign-flip test over seeds, Holm-adjusted over all cells",
            lambda one: MISSING if one.against is None else f"{one.against.adjusted_p:.2g}",
        ),
        Column("verdict", "of the seeds, at 5 %", _verdict, "left"),
        *(
            [Column("set to", "what its own search found on validation, or its budget asks for", _set, "left", True)]
            if any(one.cell.tuned or one.cell.set_by_budget for one in results)
            else []
        ),
    )


def cell_table(results: Sequence[CellResult], *, with_costs: bool = False) -> TextTable:
    """The cells as text: marked is the best of each corpus, where seeds show that it is.

    Args:
        results: All cells.
        with_costs: Whether the costs that a terminal has room for stand in the same table.
    """
    costs = [cost.column(cost.from_width) for cost in COSTS if with_costs and cost.from_width is not None]
    columns, best = (*cell_columns(results), *costs), best_shown(results)
    lines = tuple(
        TableRow(tuple(column.cell(one) for column in columns), one.cell.name in best, one.cell.is_baseline)
        for one in results
    )
    note = classes_note([row for one in results for row in one.rows])
    return TextTable(columns, lines, note, "* shown to be the best on its data, = baseline")


def cell_frame(results: Sequence[CellResult]) -> pd.DataFrame:
    """Every number of every cell, one a row, with the names of fields and without rounding; NaN where it is unknown."""
    rows = []
    for one in results:
        against, interval = one.against, one.interval
        test = one.test or (None, None, None)
        difference = against.difference if against else (None, None, None)
        rows.append(
            {
                "cell": one.cell.name,
                "arm": one.cell.arm,
                "corpus": one.cell.corpus,
                **{f"level.{key}": str(level) for key, level in one.cell.levels.items()},
                **{f"tuned.{key}": value for key, value in one.cell.tuned.items()},
                **{f"set_by_budget.{key}": value for key, value in one.cell.set_by_budget.items()},
                "is_baseline": one.cell.is_baseline,
                "seeds": len(one.rows),
                "unfinished": len(one.unfinished),
                **dict(zip(("test_mean", "test_low", "test_high"), test, strict=True)),
                "test_iqm": one.test_iqm,
                "test_deviation": one.test_deviation,
                "validation_mean": one.mean("validation_score"),
                "baseline": one.baseline,
                **dict(zip(("difference", "difference_low", "difference_high"), difference, strict=True)),
                "examples_low": interval.low if interval else None,
                "examples_high": interval.high if interval else None,
                "p": against.p if against else None,
                "holm_p": against.adjusted_p if against else None,
                "wilcoxon_p": against.wilcoxon_p if against else None,
                "mcnemar_p": one.mcnemar,
                "test_groups": None if (groups := groups_of(one.rows)) is None else groups.num,
                "effect_size": against.effect if against else None,
                "verdict": against.verdict if against else None,
                "dropped_from_seed": one.cell.dropped_from,
                "seeds_needed": against.needed if against else None,
                **{cost.name: one.mean(cost.name) for cost in COSTS},
            }
        )
    return pd.DataFrame(rows)


def trial_frame(results: Sequence[CellResult]) -> pd.DataFrame:
    """Every trial, one a row: its cell, seed, status, scores and costs."""
    return pd.DataFrame(
        [
            {
                "cell": one.cell.name,
                "arm": one.cell.arm,
                "corpus": one.cell.corpus,
                **{f"level.{key}": str(level) for key, level in one.cell.levels.items()},
                "seed": row.seed,
                "status": row.status,
                "validation_score": row.validation_score,
                "test_score": row.test_score,
                "train_loss": row.train_loss,
                **{cost.name: getattr(row, cost.name) for cost in COSTS},
            }
            for one in results
            for row in (*one.rows, *one.unfinished)
        ]
    )


def write_tables(results: Sequence[CellResult], folder: Path, caption: str) -> list[Path]:
    """Write every number of cells and trials as CSV and Parquet, and quality and costs as Markdown and LaTeX.

    Args:
        results: All cells.
        folder: Where.
        caption: Of the tables; it says what is equal in all cells.

    Returns:
        The files.
    """
    written = []
    for name, frame in ((NAME, cell_frame(results)), ("trials", trial_frame(results))):
        written += [folder / f"{name}.csv", folder / f"{name}.parquet"]
        frame.to_csv(written[-2], index=False)
        frame.to_parquet(written[-1], index=False)
    costs = cost_table(results)
    texts = {
        f"{NAME}.md": f"{cell_table(results).markdown()}\n\n{caption}.\n",
        f"{NAME}.tex": latex(results, caption),
        f"{COST_NAME}.md": f"{costs.markdown()}\n\n{caption}.\n",
        f"{COST_NAME}.tex": latex_of(costs, f"{caption}. Means over seeds"),
    }
    for name, text in texts.items():
        written.append(folder / name)
        written[-1].write_text(text, encoding="utf-8")
    return written


def latex(results: Sequence[CellResult], caption: str) -> str:
    """The table of cells as a LaTeX table that needs the package booktabs alone."""
    table = cell_table(results)
    score = next(index for index, column in enumerate(table.columns) if column.heading.startswith("test "))
    is_marked = any(line.is_best for line in table.lines)
    return latex_of(table, f"{caption}. Bold: {BEST}" if is_marked else caption, of_best=score)


def _set(one: CellResult) -> str:
    values = {**one.cell.set_by_budget, **one.cell.tuned}.items()
    return ", ".join(
        f"{key.rpartition('.')[2]}={f'{value:.3g}' if isinstance(value, float) else value}" for key, value in values
    )


def _number(value: float | None) -> str:
    return MISSING if value is None else f"{value:.3f}"


def _with_margin(interval: tuple[float, float, float] | None) -> str:
    if interval is None:
        return MISSING
    mean, low, high = interval
    return f"{mean:.3f}" if high == float("inf") else f"{mean:.3f} ± {(high - low) / 2:.3f}"


def _verdict(one: CellResult) -> str:
    if one.cell.dropped_from is not None:
        return "dropped"
    return one.against.verdict if one.against else MISSING


def _difference(one: CellResult) -> str:
    if one.against is None:
        return MISSING
    mean, low, high = one.against.difference
    return f"{mean:+.3f}" if high == float("inf") else f"{mean:+.3f} ({low:+.3f} to {high:+.3f})"
