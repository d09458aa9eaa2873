"""Table of what cells cost: time, memory, parameters, and what choosing blocks adds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from irtune.analysis.ablation.cell_results import CellResult
from irtune.analysis.tables import FULL_WIDTH, MISSING, Column, TableRow, TextTable, duration, operations


@dataclass(frozen=True)
class Cost:
    """A cost of a trial.

    Args:
        name: Of the field of a ``TrialRow``.
        heading: A few short words.
        meaning: One line for the legend.
        say: From the mean over seeds to its text.
        from_width: Narrowest terminal whose table of cells shows it; None: it stands in the table of costs alone.
    """

    name: str
    heading: str
    meaning: str
    say: Callable[[float], str]
    from_width: int | None = None

    def text(self, one: CellResult) -> str:
        """The mean over the seeds of a cell."""
        value = one.mean(self.name)
        return MISSING if value is None else self.say(value)

    def column(self, from_width: int = 0) -> Column[CellResult]:
        """As a column."""
        return Column(self.heading, self.meaning, self.text, from_width=from_width)


def _step(seconds: float) -> str:
    return f"{1000 * seconds:.3g}ms" if seconds < 1 else f"{seconds:.3g}s"


def _added(share: float) -> str:
    # Without a sign where it would say nothing.
    return text if (text := f"{share:+.1%}").strip("+-") != "0.0%" else "0.0%"


COSTS = (
    Cost("mean_active", "blocks", "blocks training at a time, mean over steps and seeds", "{:.3g}".format, 0),
    Cost(
        "mean_lowest_active",
        "lowest block",
        "mean lowest active block, where the backward pass ends",
        "{:.1f}".format,
        FULL_WIDTH,
    ),
    Cost(
        "trainable_share",
        "param share",
        "mean trainable parameters, as a share of those of all blocks",
        "{:.0%}".format,
        FULL_WIDTH,
    ),
    Cost("flops", "FLOPs", "of training; T is 10^12, P is 10^15", operations, 0),
    Cost("seconds", "time", "spent training", duration, 0),
    Cost("step_s", "step time", "mean of all optimizer steps", _step),
    Cost("tokens_per_s", "tokens/s", "tokens trained on in a second", "{:.0f}".format),
    Cost("peak_memory_bytes", "peak GiB", "peak memory", lambda size: f"{size / 2**30:.1f}", FULL_WIDTH),
    Cost(
        "refresh_flops_share",
        "refresh FLOPs",
        "FLOPs that measuring blocks adds, over those of training without it",
        _added,
    ),
    Cost(
        "refresh_time_share",
        "refresh time",
        "likewise time, against steps that don't measure; unknown where every step does. A first step that measures "
        "also has its start in it",
        _added,
    ),
)
"""All costs, as the mean over seeds."""


def cost_columns() -> tuple[Column[CellResult], ...]:
    """The columns of the table of costs."""
    name = Column[CellResult]("cell", "configuration, and data where there are several", _name, "left", True)
    return (name, *(cost.column() for cost in COSTS))


def cost_table(results: Sequence[CellResult]) -> TextTable:
    """The costs of cells as text, in the order of ``results``."""
    columns = cost_columns()
    lines = (TableRow(tuple(column.cell(one) for column in columns), False, one.cell.is_baseline) for one in results)
    return TextTable(columns, tuple(lines), "", "= baseline")


def _name(one: CellResult) -> str:
    return one.cell.name
