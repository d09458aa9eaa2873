"""The studies of a storage, a line each: ``irtune list``."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from irtune.analysis.tables import MEDIUM_WIDTH, MISSING, size, worded
from irtune.files import bytes_under
from irtune.redaction import in_one_line
from irtune.results.followed import FollowedStudy, Look
from irtune.studies.recorded import StudyError
from irtune.studies.resume import IDENTITY, known_studies

_HEADINGS = ("study", "kind", "state", "trials", "best", "by trial", "size", "last written")
_FOLDED, _WIDE = ("study", "best", "by trial"), ("kind", "by trial")
"""Columns that a narrow terminal breaks over lines, and those that it leaves out."""


@dataclass(frozen=True)
class Listed:
    """A study in a list.

    Args:
        name: Its folder's.
        num_bytes: On disk.
        written_s: When the last of its records was written, since the epoch.
        study: What it is; None where that cannot be read.
        look: At it; None likewise.
        unreadable: Why not.
    """

    name: str
    num_bytes: int
    written_s: float
    study: FollowedStudy | None = None
    look: Look | None = None
    unreadable: str | None = None

    def cells(self) -> tuple[str, ...]:
        """Return what stands in a table's row."""
        if self.study is None or self.look is None:
            kind, state, trials, best, whose = MISSING, "unreadable", MISSING, MISSING, MISSING
        else:
            tally, (metric, _) = self.look.tally, self.study.aim.first_objective
            kind, state, trials = self.study.kind, self.look.state, f"{tally.over}/{self.look.num_trials}"
            value, whose = tally.best or (None, MISSING)
            best = MISSING if value is None else f"{metric} {worded(metric, value)}"
        when = datetime.fromtimestamp(self.written_s).strftime("%Y-%m-%d %H:%M")
        return self.name, kind, state, trials, best, whose, size(self.num_bytes), when


def show_studies(storage: Path, console: Console) -> None:
    """Show the studies of a storage, those written last at the end; of what finished, the best is named.

    Raises:
        StudyError: There are none.
    """
    found = sorted(map(_listed, known_studies(storage)), key=lambda one: one.written_s)
    if not found:
        raise StudyError(f"no study lies under {storage}; give the folder that storage= said when they were begun")
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    shown = [heading for heading in _HEADINGS if console.width >= MEDIUM_WIDTH or heading not in _WIDE]
    for heading in shown:
        justify: JustifyMethod = "right" if heading in ("trials", "size") else "left"
        table.add_column(heading, justify=justify, overflow="fold", no_wrap=heading not in _FOLDED)
    for one in found:
        cells = dict(zip(_HEADINGS, one.cells(), strict=True))
        table.add_row(*(Text(in_one_line(cells[heading])) for heading in shown))
    console.print(table)
    for one in found:
        if one.unreadable is not None:
            console.print(in_one_line(one.unreadable), highlight=False, soft_wrap=True, markup=False)


def _listed(folder: Path) -> Listed:
    num_bytes, written_s = bytes_under(folder), _last_written_s([folder / IDENTITY, *folder.glob("trials/*/*.jsonl")])
    try:
        study = FollowedStudy(folder, reads_all=False)
        return Listed(folder.name, num_bytes, written_s, study, study.look())
    except (OSError, ValueError) as error:
        return Listed(folder.name, num_bytes, written_s, unreadable=f"{error}")


def _last_written_s(files: Iterable[Path]) -> float:
    found = 0.0
    for file in files:
        try:
            found = max(found, file.lstat().st_mtime)
        except OSError:
            continue
    return found
