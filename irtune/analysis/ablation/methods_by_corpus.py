"""Methods against corpora: the mean of every cell on every data set, and what seeds show of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from irtune.analysis.ablation.best import BEST, best_shown
from irtune.analysis.ablation.cell_results import CellResult
from irtune.analysis.ablation.latex import bold, escaped, latex_table
from irtune.analysis.tables import MISSING
from irtune.analysis.trials import metric_of

NAME = "methods_by_corpus"
"""Of the files, before their endings."""

_ARROWS = {"better": " ↑", "worse": " ↓"}


@dataclass(frozen=True)
class Entry:
    """One cell on one corpus.

    Args:
        text: Mean with half the width of its 95 % t interval, and an arrow where it is shown to differ from the
            baseline.
        is_best: Whether it is shown to be the best on its corpus.
        result: What it says in short; None where no such cell was run.
    """

    text: str
    is_best: bool
    result: CellResult | None


@dataclass(frozen=True)
class MethodTable:
    """A line for each method, that is a cell without its corpus, and a column for each corpus.

    Args:
        metric: What the numbers are, in words.
        corpora: The columns.
        lines: Entries in the order of the columns, by method.
        baselines: The methods that are baselines.
    """

    metric: str
    corpora: tuple[str, ...]
    lines: Mapping[str, tuple[Entry, ...]]
    baselines: frozenset[str]

    @property
    def meaning(self) -> str:
        """The meaning of its numbers and marks."""
        return (
            f"{self.metric} on test: mean over seeds ± half the width of its 95 % t interval. ↑ ↓: better, worse than "
            "the baseline on the same data by the sign-flip test over common seeds at 5 %, Holm-adjusted over all "
            f"cells of the study. Bold: {BEST}."
        )

    def markdown(self) -> str:
        """The table in Markdown, with what its marks say below it."""
        heading = f"| method | {' | '.join(map(_piped, self.corpora))} |"
        lines = [
            f"| {_piped(name)} | {' | '.join(f'**{one.text}**' if one.is_best else one.text for one in entries)} |"
            for name, entries in self.lines.items()
        ]
        return "\n".join([heading, f"| :--- |{' ---: |' * len(self.corpora)}", *lines, "", self.meaning, ""])

    def latex(self, caption: str) -> str:
        """The table as LaTeX.

        Args:
            caption: In front of what its marks say.
        """
        body = [
            [escaped(name), *(bold(escaped(one.text)) if one.is_best else escaped(one.text) for one in entries)]
            for name, entries in self.lines.items()
        ]
        headings, justify = ["method", *self.corpora], "l" + "r" * len(self.corpora)
        return latex_table(headings, body, justify, f"{caption}. {self.meaning}")

    def frame(self) -> pd.DataFrame:
        """Every number without rounding, the columns of a corpus with its name before them; NaN where unknown."""
        return pd.DataFrame(
            [
                {"method": name, "is_baseline": name in self.baselines}
                | {
                    f"{corpus}.{key}": value
                    for corpus, entry in zip(self.corpora, entries, strict=True)
                    for key, value in _numbers(entry).items()
                }
                for name, entries in self.lines.items()
            ]
        )

    def write(self, folder: Path, caption: str) -> None:
        """Write it as CSV, Markdown and LaTeX.

        Args:
            folder: Where.
            caption: Of the LaTeX table.
        """
        self.frame().to_csv(folder / f"{NAME}.csv", index=False)
        for ending, text in ((".md", self.markdown()), (".tex", self.latex(caption))):
            (folder / f"{NAME}{ending}").write_text(text, encoding="utf-8")


def methods_by_corpus(results: Sequence[CellResult]) -> MethodTable | None:
    """The table of a study; None where all of it is on one corpus.

    Args:
        results: All cells.
    """
    corpora = [corpus for corpus in dict.fromkeys(one.cell.corpus for one in results) if corpus is not None]
    if len(corpora) < 2:
        return None
    best = best_shown(results)
    entries = {
        (one.cell.configuration, one.cell.corpus): Entry(_text(one), one.cell.name in best, one) for one in results
    }
    lacking = Entry(MISSING, False, None)
    return MethodTable(
        metric=metric_of([row for one in results for row in one.rows]).words,
        corpora=tuple(corpora),
        lines={
            name: tuple(entries.get((name, corpus), lacking) for corpus in corpora)
            for name in dict.fromkeys(one.cell.configuration for one in results)
        },
        baselines=frozenset(one.cell.configuration for one in results if one.cell.is_baseline),
    )


def _text(one: CellResult) -> str:
    if one.test is None:
        return MISSING
    mean, _, high = one.test
    margin = "" if high == float("inf") else f" ± {high - mean:.3f}"
    return f"{mean:.3f}{margin}{_ARROWS.get(one.against.verdict, '') if one.against else ''}"


def _numbers(entry: Entry) -> dict[str, object]:
    one = entry.result
    against = one.against if one else None
    test = (one.test if one else None) or (None, None, None)
    return dict(zip(("mean", "low", "high"), test, strict=True)) | {
        "seeds": len(one.rows) if one else 0,
        "holm_p": against.adjusted_p if against else None,
        "verdict": against.verdict if against else None,
        "is_best": entry.is_best,
    }


def _piped(text: str) -> str:
    return text.replace("|", "\\|")
