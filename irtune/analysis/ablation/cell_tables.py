"""The cells of a study as tables: for the terminal and the report, and as CSV, Parquet, Markdown and LaTeX."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from irtune.analysis.ablation.best import BEST, best_shown
from irtune.analysis.ablation.cell_results import CellResult
from irtune.analysis.ablation.latex import bold, escaped, latex_table
from irtune.analysis.tables import (
    FULL_WIDTH,
    MISSING,
    Column,
    TableRow,
    TextTable,
    classes_note,
    duration,
    operations,
)
from irtune.analysis.trials import groups_of, metric_of

NAME = "cells"
"""Of the files, before their endings."""

_COSTS: tuple[tuple[str, str, str, Callable[[float], str], int], ...] = (
    ("mean_active", "blocks", "blocks training at a time, mean over steps and seeds", "{:.3g}".format, 0),
    (
        "mean_lowest_active",
        "lowest block",
        "mean lowest active block, where the backward pass ends",
        "{:.1f}".format,
        FULL_WIDTH,
    ),
    (
        "trainable_share",
        "param share",
        "mean trainable parameters, as a share of those of all blocks",
        "{:.0%}".format,
        FULL_WIDTH,
    ),
    ("flops", "FLOPs", "of training; T is 10^12, P is 10^15", operations, 0),
    ("seconds", "time", "spent training", duration, 0),
    ("peak_memory_bytes", "peak GiB", "peak memory", lambda size: f"{size / 2**30:.1f}", FULL_WIDTH),
)


def cell_columns(results: Sequence[CellResult]) -> tuple[Column[CellResult], ...]:
    """The columns of a table of cells: quality, what seeds tell of its difference to the baseline, and cost."""
    words = metric_of([row for one in results for row in one.rows]).words
    return (
        Column("cell", "configuration, and data where there are several", lambda one: one.cell.name, "left", True),
        *(
            [Column("set to", "what its own search found on validation, or its budget asks for", _set, "left", True)]
            if any(one.cell.tuned or one.cell.set_by_budget for one in results)
            else []
        ),
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
            Column(heading, meaning, _mean(name, say), from_width=width)
            for name, heading, meaning, say, width in _COSTS
        ),
    )


def cell_table(results: Sequence[CellResult]) -> TextTable:
    """The cells as text: marked is the best of each corpus, where seeds show that it is."""
    columns, best = cell_columns(results), best_shown(results)
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
                **{name: one.mean(name) for name, *_ in _COSTS},
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
                **{name: getattr(row, name) for name, *_ in _COSTS},
            }
            for one in results
            for row in (*one.rows, *one.unfinished)
        ]
    )


def write_tables(results: Sequence[CellResult], folder: Path, caption: str) -> list[Path]:
    """Write the cells as CSV, Parquet, Markdown and LaTeX, and all trials as CSV and Parquet; returns the files.

    Args:
        results: All cells.
        folder: Where.
        caption: Of the LaTeX table.
    """
    written = []
    for name, frame in ((NAME, cell_frame(results)), ("trials", trial_frame(results))):
        written += [folder / f"{name}.csv", folder / f"{name}.parquet"]
        frame.to_csv(written[-2], index=False)
        frame.to_parquet(written[-1], index=False)
    for ending, text in ((".md", cell_table(results).markdown() + "\n"), (".tex", latex(results, caption))):
        written.append(folder / f"{NAME}{ending}")
        written[-1].write_text(text, encoding="utf-8")
    return written


def latex(results: Sequence[CellResult], caption: str) -> str:
    """The table of cells as a LaTeX table that needs the package booktabs alone."""
    columns, best = cell_columns(results), best_shown(results)
    score = next(index for index, column in enumerate(columns) if column.heading.startswith("test "))
    body = []
    for one in results:
        texts = [escaped(column.cell(one)) for column in columns]
        if one.cell.name in best:
            texts[score] = bold(texts[score])
        body.append(texts)
    justify = "".join("l" if column.justify == "left" else "r" for column in columns)
    said = f"{caption}. Bold: {BEST}" if best else caption
    return latex_table([column.heading for column in columns], body, justify, said)


def _mean(name: str, say: Callable[[float], str]) -> Callable[[CellResult], str]:
    return lambda one: _number(one.mean(name), say)


def _set(one: CellResult) -> str:
    values = {**one.cell.set_by_budget, **one.cell.tuned}.items()
    return ", ".join(
        f"{key.rpartition('.')[2]}={f'{value:.3g}' if isinstance(value, float) else value}" for key, value in values
    )


def _number(value: float | None, say: Callable[[float], str] = "{:.3f}".format) -> str:
    return MISSING if value is None else say(value)


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
