"""The trials of a sweep as a table: for the terminal, for Markdown and for the report, from one list of columns."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Literal, TypeVar

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from irtune.analysis.metrics import Mode
from irtune.analysis.trials import TrialRow, chosen, metric_of, over_classes, ranked

MISSING = "–"
MEDIUM_WIDTH, FULL_WIDTH = 100, 140

VALIDATION, TEST = "val {}", "test {}"
"""Headings of the scores, which are of the metric of the trials."""
_SPLITS = {VALIDATION: "validation", TEST: "test"}

Row = TypeVar("Row")


@dataclass(frozen=True)
class Column(Generic[Row]):
    """One column: its heading, what it says, and how a cell is worded.

    Args:
        heading: A few short words; a narrow terminal wraps them.
        meaning: One line for the legend.
        cell: From what a line is about, such as a trial, to its text.
        justify: Numbers right, words left.
        may_fold: Whether a narrow terminal may break the text over lines; never a number.
        from_width: Narrowest terminal, in characters, that shows it.
    """

    heading: str
    meaning: str
    cell: Callable[[Row], str]
    justify: Literal["left", "right"] = "right"
    may_fold: bool = False
    from_width: int = 0


def _number(attribute: str, wording: Callable[[Any], str]) -> Callable[[TrialRow], str]:
    def cell(row: TrialRow) -> str:
        value = getattr(row, attribute)
        return MISSING if value is None else wording(value)

    return cell


def _blocks(row: TrialRow) -> str:
    active = row.k if row.mean_active is None else row.mean_active
    return f"{MISSING if active is None else f'{active:.3g}'}/{row.num_blocks}"


def duration(seconds: float) -> str:
    """Seconds as the two largest units that matter: ``48s``, ``12m05s``, ``3h20m``, ``2d04h``."""
    total = round(seconds)
    for unit, name, below, below_name in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if total >= unit:
            return f"{total // unit}{name}{total % unit // below:02d}{below_name}"
    return f"{seconds:.1f}s" if seconds < 10 else f"{total}s"


def operations(flops: float) -> str:
    """FLOPs with three digits and a unit: ``842G``, ``1.32T``, ``56.1P``."""
    for power, unit in ((18, "E"), (15, "P"), (12, "T"), (9, "G"), (6, "M")):
        # 999.5 would be worded as 1000: the next unit up says it in three digits.
        if flops >= 0.9995 * 10**power:
            value = flops / 10**power
            digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
            return f"{value:.{digits}f}{unit}"
    return f"{flops:.0f}"


def size(num_bytes: float) -> str:
    """Bytes with a unit: ``512B``, ``3.4KiB``, ``12MiB``."""
    for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if num_bytes >= 1024**power:
            value = num_bytes / 1024**power
            return f"{value:.1f}{unit}" if value < 9.95 else f"{value:.0f}{unit}"
    return f"{num_bytes:.0f}B"


def worded(metric: str, value: float) -> str:
    """The value of a metric in the unit that its name tells."""
    if metric.endswith("flops"):
        return operations(value)
    if metric.endswith("_bytes"):
        return f"{value / 2**30:.2f}GiB"
    return f"{value:.3f}s" if metric.endswith("_s") else f"{value:.3f}" if abs(value) < 1000 else f"{value:.4g}"


COLUMNS: tuple[Column[TrialRow], ...] = (
    Column("trial", "name of the trial in the tracker", lambda row: row.name, "left", True, FULL_WIDTH),
    Column("strategy", "method or selection policy; all is the baseline", lambda row: row.strategy, "left", True),
    Column("blocks", "blocks training at a time, on average (effective k), of all", _blocks),
    Column(
        "new every",
        "optimizer steps between two selections",
        _number("reselect_every", lambda steps: f"{steps}" if steps else "once"),
    ),
    Column(
        "within block",
        "how a block's tensors make its score",
        _number("within_block", str),
        "left",
        True,
        MEDIUM_WIDTH,
    ),
    Column(VALIDATION, "{} on validation", _number("validation_score", "{:.3f}".format)),
    Column(TEST, "{} on test, scored once at the end", _number("test_score", "{:.3f}".format)),
    Column("train loss", "training loss at the end", _number("train_loss", "{:.3f}".format), from_width=MEDIUM_WIDTH),
    Column("time", "time spent training", _number("seconds", duration)),
    Column("FLOPs", "floating point operations; T is 10^12, P is 10^15", _number("flops", operations)),
    Column(
        "param share",
        "mean trainable parameters, as a share of those of all blocks",
        _number("trainable_share", "{:.0%}".format),
    ),
    Column(
        "lowest block",
        "mean lowest active block, where the backward pass ends",
        _number("mean_lowest_active", "{:.1f}".format),
    ),
    Column(
        "peak GiB",
        "peak device memory",
        _number("peak_memory_bytes", lambda size: f"{size / 2**30:.1f}"),
        from_width=MEDIUM_WIDTH,
    ),
    Column("seed", "seed of the run", lambda row: str(row.seed), from_width=FULL_WIDTH),
    Column(
        "status",
        "how the trial ended; infeasible: it finished, and breaks a constraint",
        lambda row: "infeasible" if row.broken else row.status,
        "left",
    ),
)
_QUALITY = 6
"""The column after which other objectives stand."""


def columns_of(rows: Sequence[TrialRow]) -> tuple[Column[TrialRow], ...]:
    """``COLUMNS``, which name the metric and what it is over, and one more for each objective that has none there."""
    metric, columns = metric_of(rows), [of_metric(column, rows) for column in COLUMNS]
    names = [name for name in next((row.objectives for row in rows), {}) if name != f"eval/{metric.name}"]
    return (*columns[:_QUALITY], *map(_objective, names), *columns[_QUALITY:])


def of_metric(column: Column[Row], rows: Sequence[TrialRow]) -> Column[Row]:
    """``column``; one of scores with their metric in its words, and with the classes that this is over."""
    split = _SPLITS.get(column.heading)
    if split is None:
        return column
    metric, classes = metric_of(rows), over_classes(rows)
    over = f", over {classes[split]}" if split in classes else ""
    return replace(
        column, heading=column.heading.format(metric.short), meaning=column.meaning.format(metric.words) + over
    )


def classes_note(rows: Sequence[TrialRow]) -> str:
    """Such as ``test F1 is over 3 of 4 classes``; empty where validation and test have all classes."""
    metric, classes = metric_of(rows), over_classes(rows)
    return ", ".join(
        f"{heading.format(metric.short)} is over {classes[split]}"
        for heading, split in _SPLITS.items()
        if split in classes
    )


def _objective(name: str) -> Column[TrialRow]:
    def cell(row: TrialRow) -> str:
        value = row.objectives.get(name, math.nan)
        return MISSING if math.isnan(value) else worded(name, value)

    kind, _, short = name.partition("/")
    heading = f"{'val ' if kind == 'eval' else ''}{short}".replace("_", " ")
    return Column(heading, f"the objective {name}, of a trial that did not finish as last measured", cell)


@dataclass(frozen=True)
class TableRow:
    """A line's cells in the order of the columns and what marks it, which may be several things or none."""

    cells: tuple[str, ...]
    is_best: bool
    is_baseline: bool
    is_on_front: bool = False

    @property
    def mark(self) -> str:
        """``*`` for the best finished trial on validation, ``+`` on the Pareto front, ``=`` for the baseline."""
        return "*" * self.is_best + "+" * self.is_on_front + "=" * self.is_baseline


@dataclass(frozen=True)
class TextTable:
    """A table as text, of trials or of finalists: what terminal, Markdown and report show.

    Args:
        columns: In order.
        lines: What stands below them.
        note: The classes that scores are over; empty where validation and test have all.
        marks: What the marks of lines mean.
    """

    columns: tuple[Column[Any], ...]
    lines: tuple[TableRow, ...]
    note: str
    marks: str = "* best on validation, = baseline"

    def rich(self, width: int = 100) -> Table:
        """The table for a terminal.

        Args:
            width: Of the terminal in characters; below 140 the less telling columns are left out, below 100 more.
        """
        shown = [index for index, column in enumerate(self.columns) if column.from_width <= width]
        table = Table(box=SIMPLE_HEAD, padding=0, caption=", ".join(filter(None, [self.marks, self.note])))
        table.add_column("", width=max([2, *(len(line.mark) for line in self.lines)]))
        for index in shown:
            column = self.columns[index]
            # Two lines each, so that headings stand on their rule and a column is no wider than what it says.
            heading = column.heading.replace(" ", "\n") if " " in column.heading else f"\n{column.heading}"
            # A fixed width is what rich never shrinks.
            longest = max(len(text) for text in [*heading.split(), *(line.cells[index] for line in self.lines)])
            width_or_free = None if column.may_fold else longest
            table.add_column(heading, justify=column.justify, overflow="fold", width=width_or_free)
        for line in self.lines:
            style = "bold green" if line.is_best else "bold" if line.is_baseline else ""
            table.add_row(line.mark, *(escape(line.cells[index]) for index in shown), style=style)
        return table

    def markdown(self) -> str:
        """The table in Markdown, with every column."""
        lines = [
            ["", *(column.heading for column in self.columns)],
            ["---", *("---:" if column.justify == "right" else ":---" for column in self.columns)],
            *([line.mark, *(cell.replace("|", "\\|") for cell in line.cells)] for line in self.lines),
        ]
        return "\n\n".join(filter(None, ["\n".join(f"| {' | '.join(line)} |" for line in lines), self.note]))


def trial_table(rows: Sequence[TrialRow], mode: Mode = "max", front: Sequence[TrialRow] = ()) -> TextTable:
    """All trials of a sweep, best validation score first; those never scored last.

    Args:
        rows: The trials.
        mode: Whether more or less of the validation score is better.
        front: The trials on the Pareto front, of a sweep that has one.
    """
    best, columns = chosen(rows, mode), columns_of(rows)
    lines = tuple(
        TableRow(tuple(column.cell(row) for column in columns), row is best, row.is_baseline, row in front)
        for row in ranked(rows, mode)
    )
    if not front:
        return TextTable(columns, lines, classes_note(rows))
    by = f"* best on validation by {next(iter(rows[0].objectives))}, + on the Pareto front, = baseline"
    return TextTable(columns, lines, classes_note(rows), by)
