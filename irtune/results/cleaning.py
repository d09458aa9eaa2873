"""What studies no longer need, found and freed: ``irtune clean``."""

import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from irtune.analysis.tables import size
from irtune.files import bytes_under
from irtune.redaction import in_one_line
from irtune.search.source import BASELINE_TRIAL
from irtune.studies.recorded import find_study
from irtune.studies.resume import known_studies, read_identity
from irtune.tracking.heartbeat import last_sign, nobody_at_work
from irtune.tracking.ownership import why_not_own
from irtune.tracking.run_record import RunRecord
from irtune.training.record import result_of
from irtune.training.trial_folder import BEST_WEIGHTS, CHECKPOINTS

_OF_STUDY = {
    "encoded": "token ids and states of frozen blocks; made again by --resume",
    "tune_*": "Ray Tune's own files",
    "storage_check_*": "files of a check that was killed",
}
_UNFINISHED = re.compile(r"\..+\.(partial|[0-9a-f]{32})")
"""The name of what ``irtune.files`` was writing when its process was killed."""


@dataclass(frozen=True)
class Leftover:
    """Something that a study no longer needs.

    Args:
        path: A file, or a folder with all that is in it.
        what: In words.
        num_bytes: Its size.
    """

    path: Path
    what: str
    num_bytes: int


def clean(names: Sequence[str], storage: Path, console: Console, *, removes: bool) -> int:
    """Say what studies no longer need, or remove it.

    What was measured stays (records, predictions, traces, reports), as do adapters, and all of a study on which
    somebody is at work, of another user, or of another version of irtune. A study that did not come to its end can
    still be gone on with. Nothing is reached through links.

    Args:
        names: Studies by folder, or by name under ``storage``; none means all of them.
        storage: Where studies lie.
        console: Where to say it.
        removes: Whether to do it.

    Returns:
        The exit status: 1 if something could not be removed.

    Raises:
        StudyError: There is no study of a name.
    """
    folders = [find_study(name, storage) for name in names] or known_studies(storage)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("study", overflow="fold")
    table.add_column("what", overflow="fold")
    table.add_column("size", justify="right", no_wrap=True)
    total = failed = 0
    notes: list[str] = []
    for folder in folders:
        try:
            found, left = _cleaned(folder, removes)
        except (OSError, ValueError) as error:
            notes.append(f"{folder.name} is left alone: {error}")
            continue
        notes += [f"{one.path} could not be removed; look at its permissions" for one in left]
        failed += len(left)
        for what, num_bytes in _summed(folder, found):
            table.add_row(*(Text(in_one_line(cell)) for cell in (folder.name, what, size(num_bytes))))
            total += num_bytes
    if table.row_count:
        console.print(table)
    for note in notes:
        console.print(in_one_line(note), highlight=False, soft_wrap=True, markup=False)
    done = "removed" if removes else "could go; nothing was removed, --yes does it"
    console.print(f"{size(total)} {done}" if table.row_count else "nothing to remove", highlight=False, markup=False)
    return 1 if failed else 0


def _cleaned(folder: Path, removes: bool) -> tuple[list[Leftover], list[Leftover]]:
    """What goes of a study, and what could not be removed.

    Raises:
        ValueError: Nothing of it may go; the message says why.
    """
    foreign = why_not_own(folder)
    if foreign is not None:
        raise ValueError(f"it {foreign}")
    sign = last_sign(folder)
    if sign is not None and sign.is_live:
        raise ValueError(f"{sign.who} is at work on it")
    found = leftovers(folder)
    left = remove(folder, found) if removes else []
    return [one for one in found if one not in left], left


def leftovers(folder: Path) -> list[Leftover]:
    """What a study on which nobody is at work no longer needs, by path.

    Raises:
        ValueError: It is of another version of irtune.
    """
    candidates = {path: what for pattern, what in _OF_STUDY.items() for path in folder.glob(pattern)}
    candidates |= _unfinished(folder)
    complete = read_identity(folder).complete
    for trial in folder.glob("trials/*"):
        if trial.name.startswith("."):
            candidates[trial] = "a copy that was killed"
            continue
        candidates |= _unfinished(trial)
        if complete or _is_over(trial):
            candidates[trial / CHECKPOINTS] = "checkpoints of trials that are over"
            candidates[trial / BEST_WEIGHTS] = "weights of trials that are over, beside their adapters"
    return [
        Leftover(path, what, bytes_under(path)) for path, what in sorted(candidates.items()) if _is_part(folder, path)
    ]


def remove(folder: Path, found: Iterable[Leftover]) -> list[Leftover]:
    """Remove what was found while no driver can begin; returns what could not be removed.

    Raises:
        DriverAliveError: Somebody is at work on the study by now.
    """
    left = []
    for one in found:
        # One by one, since a driver that begins waits for as long as that takes.
        with nobody_at_work(folder):
            # A link may have taken its place meanwhile.
            if not _is_part(folder, one.path):
                continue
            try:
                shutil.rmtree(one.path) if one.path.is_dir() else one.path.unlink()
            except OSError:
                left.append(one)
    return left


def _is_over(trial: Path) -> bool:
    """Whether no driver would go on with a trial; one that failed goes on only if it is the baseline."""
    try:
        end = RunRecord(trial).end()
    except ValueError:
        return False
    if end is None or end.status == "KILLED":
        return result_of(trial) is not None
    return end.status == "FINISHED" or trial.name != BASELINE_TRIAL


def _unfinished(folder: Path) -> dict[Path, str]:
    found = (path for path in folder.glob(".*") if _UNFINISHED.fullmatch(path.name))
    return dict.fromkeys(found, "files that were being written when their process was killed")


def _is_part(folder: Path, path: Path) -> bool:
    """Whether a path is there, and no link is on the way from the study's folder to it."""
    return path.exists() and path.resolve() == folder.resolve() / path.relative_to(folder)


def _summed(folder: Path, found: Iterable[Leftover]) -> Iterator[tuple[str, int]]:
    """What was found and how large it is, alike things together."""
    sums: dict[str, int] = {}
    for one in found:
        where = one.path.relative_to(folder).parts[0] if one.what in _OF_STUDY.values() else ""
        what = f"{where}: {one.what}" if where else one.what
        sums[what] = sums.get(what, 0) + one.num_bytes
    yield from sums.items()
