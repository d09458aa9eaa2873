"""Several studies in one report: one HTML file that needs nothing else, neither network nor server."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from irtune.analysis.report import environment
from irtune.analysis.tables import TextTable


@dataclass(frozen=True, eq=False, kw_only=True)
class JointReport:
    """The findings of one or several studies.

    Args:
        answer: In a sentence or a few.
        caveats: What to know before relying on it.
        tables: By heading.
        figure: Quality and cost, as PNG; None where nothing was measured.
        studies: What each of them is, and what it found alone, by name.
    """

    answer: str
    caveats: Sequence[str]
    tables: Mapping[str, TextTable]
    figure: bytes | None
    studies: Mapping[str, str]

    def page(self) -> str:
        """The report as HTML; everything given is escaped."""
        title = f"Report of {', '.join(self.studies)}"
        return environment().get_template("together.html").render(title=title, report=self)
