"""A study on the screen while it runs, from its files alone: ``irtune watch``."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, OverflowMethod, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from irtune.analysis.sparkline import block_row, limits, sparkline
from irtune.analysis.tables import MEDIUM_WIDTH, MISSING, duration, worded
from irtune.redaction import in_one_line
from irtune.results.followed import FollowedStudy, Look
from irtune.studies.progress import LINE_EVERY_S, SILENCE_S
from irtune.studies.trial_record import TrialRecord
from irtune.workers.error_text import last_line

LOOK_EVERY_S = 2.0
CTRL_C = 130
"""The exit status of what Ctrl-C ended, in every shell."""

MOST_ROWS, MOST_FAULTS = 40, 4
_BESIDE_ROWS = 9 + MOST_FAULTS
_STATES = {"pruned": "stopped early", None: "running"}

Show = Callable[[Look], None]


def watch(folder: Path, console: Console, *, once: bool = False) -> int:
    """Show a study until nobody is at work on it any more; one on which nobody is, once.

    On a terminal the picture is drawn anew in place, elsewhere a table is printed after a change, every 20 s at most.

    Args:
        folder: Of the study.
        console: Where to show it.
        once: Show it as it is now, with all of its trials, and return.

    Returns:
        The exit status: 0 for a study that came to its end, and with ``once``; 1 where it was stopped or killed; 130
        after Ctrl-C.

    Raises:
        ValueError: It cannot be read as a study, or is gone.
    """
    try:
        study = FollowedStudy(folder)
        look = study.look()
        if once:
            console.print(picture(study, look, console), crop=False)
            return 0
        with _on_terminal(study, console) if console.is_terminal else _in_tables(study, console) as show:
            show(look)
            while look.is_running:
                time.sleep(LOOK_EVERY_S)
                # A network file system that stumbles is looked at again.
                with suppress(OSError):
                    look = study.look()
                if not folder.is_dir():
                    raise ValueError(f"{folder}: is gone; it was renamed or deleted while it was watched")
                show(look)
    except KeyboardInterrupt:
        return CTRL_C
    return 0 if look.state == "finished" else 1


@contextmanager
def _on_terminal(study: FollowedStudy, console: Console) -> Iterator[Show]:
    with Live(console=console, auto_refresh=False) as live:
        yield lambda look: live.update(picture(study, look, console, console.height - _BESIDE_ROWS), refresh=True)


@contextmanager
def _in_tables(study: FollowedStudy, console: Console) -> Iterator[Show]:
    shown: object = None
    shown_at = 0.0

    def show(look: Look) -> None:
        nonlocal shown, shown_at
        now = time.monotonic()
        if shown is None or not look.is_running or (_progress(look) != shown and now - shown_at >= LINE_EVERY_S):
            shown, shown_at = _progress(look), now
            console.print(f"{datetime.now():%Y-%m-%d %H:%M:%S}")
            console.print(picture(study, look, console, MOST_ROWS), crop=False)

    yield show


def _progress(look: Look) -> object:
    return [(trial.name, trial.status, trial.step, trial.active, trial.damage) for trial in look.trials]


def picture(study: FollowedStudy, look: Look, console: Console, most: int | None = None) -> Group:
    """What there is to see of a study: its state, its trials as a table, and what went wrong.

    Args:
        study: The study.
        look: At it.
        console: Where it is to be shown; how wide that is, and whether it is more than ASCII.
        most: Trials to show at most, of which those that run come first, then those that began last; None shows all.
    """
    shown = _chosen(look.trials, most)
    lines = [_head(study, look), _summary(study, look), *_doubts(look)]
    hidden = len(look.trials) - len(shown)
    parts: list[RenderableType] = [Text(line, overflow="fold") for line in lines]
    if shown:
        parts.append(_table(study, look, shown, console))
    parts += [Text(f"… and {hidden} more trials")] * bool(hidden)
    # A terminal is not to scroll, and what is printed is to be whole, a line each.
    overflow: OverflowMethod = "ellipsis" if console.is_terminal else "ignore"
    return Group(*parts, *(Text(line, overflow=overflow, no_wrap=True) for line in _faults(look)))


def _chosen(trials: Sequence[TrialRecord], most: int | None) -> Sequence[TrialRecord]:
    if most is None or len(trials) <= most:
        return trials
    by_interest = sorted(trials, key=lambda trial: (trial.status is None and not trial.was_killed, trial.began_ms))
    wanted = {trial.name for trial in by_interest[-max(most, 1) :]}
    return [trial for trial in trials if trial.name in wanted]


def _head(study: FollowedStudy, look: Look) -> str:
    who = f": {look.sign.who}" if look.is_running and look.sign else ""
    return in_one_line(f"{study.folder.resolve().name}, {study.kind}, {look.state}{who}")


def _summary(study: FollowedStudy, look: Look) -> str:
    outlook, tally = look.outlook, look.tally
    parts = tally.in_words(look.num_trials, outlook.total_steps if outlook else None)
    if outlook and outlook.left_s is not None:
        parts.append(f"{duration(outlook.left_s)} left")
    return in_one_line(", ".join(parts) + tally.best_in_words(study.aim))


def _doubts(look: Look) -> list[str]:
    """What is wrong with the study as a whole, in sentences."""
    silent_s = look.sign.age_s if look.sign else 0.0
    if look.state == "dead":
        return [
            f"Its driver, {in_one_line(look.sign.who if look.sign else '')}, was killed: no sign of life for "
            f"{duration(silent_s)}. The command that began it goes on with it, with --resume."
        ]
    if look.state == "stopped":
        return ["It was ended before its end. The command that began it goes on with it, with --resume."]
    outlook, doubts = look.outlook, []
    if look.is_running and silent_s > SILENCE_S:
        doubts.append(f"Its driver is there, but gave no sign of life for {duration(silent_s)}.")
    if outlook and outlook.silent_s > SILENCE_S:
        doubts.append(f"No step for {duration(outlook.silent_s)}.")
    return doubts


def _table(study: FollowedStudy, look: Look, trials: Sequence[TrialRecord], console: Console) -> Table:
    wide, is_ascii = console.width >= MEDIUM_WIDTH, console.options.ascii_only
    width = 20 if wide else 10
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("trial", overflow="fold")
    if wide:
        table.add_column("what it is", overflow="ellipsis", no_wrap=True, max_width=console.width // 3)
    table.add_column("state", no_wrap=True)
    table.add_column("step", justify="right", no_wrap=True)
    table.add_column(study.metric, no_wrap=True)
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("blocks, 0 first", no_wrap=True)
    within = limits(_values(trial) for trial in look.trials)
    for trial in trials:
        score = trial.score(study.metric)
        cells = [
            trial.name,
            *[trial.title] * wide,
            _state(trial, look),
            f"{trial.step}" + (f"/{trial.max_steps}" if trial.max_steps else ""),
            sparkline(_values(trial), within, width, plain=is_ascii),
            MISSING if score is None else worded(study.metric, score),
            block_row(set(trial.active), trial.num_blocks, 2 * width, plain=is_ascii),
        ]
        table.add_row(*(Text(in_one_line(cell)) for cell in cells))
    return table


def _values(trial: TrialRecord) -> list[float]:
    return [trial.curve[step] for step in sorted(trial.curve)]


def _state(trial: TrialRecord, look: Look) -> str:
    if trial.damage is not None:
        return "unreadable"
    if trial.status is None and (trial.was_killed or not look.is_running):
        return "killed"
    return _STATES.get(trial.status) or f"{trial.status}"


def _faults(look: Look) -> list[str]:
    """Trials that failed or cannot be read, and why, a line each; of many the last ones."""
    faults = [
        f"{trial.name} cannot be read: {trial.damage}"
        if trial.damage is not None
        else f"{trial.name} failed: {last_line(trial.error or '')}"
        for trial in look.trials
        if trial.damage is not None or trial.status == "failed"
    ]
    more = len(faults) - MOST_FAULTS
    return [*map(in_one_line, faults[-MOST_FAULTS:])] + [f"… and {more} others went wrong before"] * (more > 0)
