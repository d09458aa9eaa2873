"""The finalists of a sweep as a table and as a picture."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from irtune.analysis.over_seeds import Finalist
from irtune.analysis.palette import COLOURS
from irtune.analysis.tables import (
    COLUMNS,
    FULL_WIDTH,
    MEDIUM_WIDTH,
    MISSING,
    TEST,
    VALIDATION,
    Column,
    TableRow,
    TextTable,
    classes_note,
    of_metric,
)
from irtune.analysis.trials import metric_of

_COLOUR, _BASELINE_COLOUR = COLOURS[0], "black"


def _as_of_trials(*headings: str) -> list[Column[Finalist]]:
    """Columns of the trials' table, about the means over seeds."""
    of_trials = {column.heading: column for column in COLUMNS}
    return [
        Column(
            heading,
            f"{of_trials[heading].meaning}; mean over seeds",
            lambda one, cell=of_trials[heading].cell: cell(one.mean),  # type: ignore[misc]
            of_trials[heading].justify,
            from_width=MEDIUM_WIDTH if heading in ("blocks", VALIDATION, "time") else 0,
        )
        for heading in headings
    ]


def _test_score(one: Finalist) -> str:
    if one.mean.test_score is None:
        return MISSING
    return f"{one.mean.test_score:.3f}" + ("" if one.deviation is None else f" ± {one.deviation:.3f}")


def _difference(one: Finalist) -> float | None:
    return None if one.baseline_mean is None else _minus(one.mean.test_score, one.baseline_mean.test_score)


def _minus(ours: float | None, theirs: float | None) -> float | None:
    return None if ours is None or theirs is None else ours - theirs


_COLUMNS: tuple[Column[Finalist], ...] = (
    Column("trial", "the trial of the search that was repeated", lambda one: one.mean.trial_id, "left"),
    Column("configuration", "its settings in short", lambda one: one.mean.name, "left", True, FULL_WIDTH),
    *_as_of_trials("blocks"),
    Column(
        "seeds", "seeds that it and the baseline finished", lambda one: f"{len(one.repeats)}", from_width=MEDIUM_WIDTH
    ),
    *_as_of_trials(VALIDATION),
    Column(TEST, "{} on test, mean ± standard deviation over seeds", _test_score),
    Column(
        "vs all",
        "score on test minus that of the baseline on the same seeds, on average",
        lambda one: MISSING if (value := _difference(one)) is None else f"{value:+.3f}",
    ),
    Column(
        "95% interval",
        "of that difference, for other seeds and other test examples",
        lambda one: MISSING if one.interval is None else f"{one.interval.low:+.3f} to {one.interval.high:+.3f}",
    ),
    *_as_of_trials("time", "FLOPs", "param share"),
)


def finalist_table(finalists: Sequence[Finalist]) -> TextTable:
    """The finalists in the order given, of which the first is the best."""
    means = [one.mean for one in finalists]
    columns = tuple(of_metric(column, means) for column in _COLUMNS)
    lines = tuple(
        TableRow(tuple(column.cell(one) for column in columns), index == 0, one.mean.is_baseline)
        for index, one in enumerate(finalists)
    )
    return TextTable(columns, lines, classes_note(means))


def finalist_plot(finalists: Sequence[Finalist]) -> Figure:
    """Test score of every repeat, and its difference to the baseline on the same seed; a dot a seed, a line a mean.

    Within a finalist the dots of both panels are in the order of the seeds, from above to below.

    Args:
        finalists: In the order to show them, from above to below.
    """
    figure = Figure(figsize=(11.5, 1.6 + 0.75 * len(finalists)), layout="constrained")
    scores, differences = figure.subplots(1, 2, sharey=True)
    for row, one in enumerate(finalists):
        colour = _BASELINE_COLOUR if one.mean.is_baseline else _COLOUR
        pairs = list(zip(one.repeats, one.baseline_repeats, strict=False))
        of_seeds = [_minus(ours.test_score, theirs.test_score) for ours, theirs in pairs]
        _draw(scores, row, [repeat.test_score for repeat in one.repeats], one.mean.test_score, colour)
        _draw(differences, row, of_seeds, _difference(one), colour)
        if one.interval is not None:
            differences.plot([one.interval.low, one.interval.high], [row, row], color=colour, linewidth=2.0)
        if one.mean.is_baseline and one.mean.test_score is not None:
            scores.axvline(one.mean.test_score, color=_BASELINE_COLOUR, linewidth=1.0, linestyle=":", zorder=0)
    differences.axvline(0.0, color=_BASELINE_COLOUR, linewidth=1.0, linestyle=":", zorder=0)
    names = [f"{one.mean.trial_id}\n{one.mean.name}" for one in finalists]
    words = metric_of([one.mean for one in finalists]).words
    scores.set(xlabel=f"{words} on test (dots: seeds, line: mean)", yticks=range(len(finalists)), yticklabels=names)
    scores.set_ylim(len(finalists) - 0.5, -0.5)
    differences.set(xlabel="difference to the baseline, with its 95% interval")
    for axes in (scores, differences):
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.grid(axis="x", alpha=0.25)
        axes.set_axisbelow(True)
    return figure


def _draw(axes: Axes, row: int, values: Sequence[float | None], mean: float | None, colour: str) -> None:
    """A dot a seed, each at a height of its own so that equal values stay apart, and an upright line for the mean."""
    step = 0.4 / max(len(values) - 1, 1)
    for index, value in enumerate(values):
        if value is not None:
            axes.plot(value, row - 0.2 + index * step, "o", color=colour, markersize=5, alpha=0.55)
    if mean is not None:
        axes.plot([mean, mean], [row - 0.3, row + 0.3], color=colour, linewidth=2.0)
