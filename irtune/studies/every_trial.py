"""Every trial of a study, in whatever state, from its records alone: as a table, and as the analysis reads it."""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from irtune.analysis.trials import Status
from irtune.redaction import redacted
from irtune.tracking.ownership import why_not_own
from irtune.tracking.run_record import Ended, RunRecord
from irtune.training.record import RecordReader

logger = logging.getLogger(__name__)

_NUMBER = re.compile(r"-?\d+(\.\d+)?(e[-+]?\d+)?")


@dataclass(frozen=True)
class AnyTrial:
    """A trial of which its driver's record is there.

    Args:
        name: Its folder's.
        title: What people see.
        folder: Where it lies.
        status: How it ended; ``killed`` too where its driver died, or has not heard of the end.
        error: Why it failed.
        start_time_ms: When it began for the first time, since the epoch.
        step: The last optimizer step that it measured something at.
        attempts: How often training was begun.
        tags: What the driver and the trial noted of it.
        settings: As a tree; empty where it failed before it knew them.
        texts: Settings by dotted key, as text.
        measured: The last value of each metric.
    """

    name: str
    title: str
    folder: Path
    status: Status
    error: str | None
    start_time_ms: int
    step: int = 0
    attempts: int = 0
    tags: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    measured: Mapping[str, float] = field(default_factory=dict)


def every_trial(folder: Path) -> list[AnyTrial]:
    """The trials of a study, those that tune a cell included, by name.

    One whose driver's record is damaged is warned of, and passed over.
    """
    found = []
    for place in sorted((folder / "trials").glob("*")):
        # One whose name begins with a dot is not whole yet.
        if place.name.startswith(".") or why_not_own(place) is not None:
            continue
        try:
            found.append(_read(place))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            logger.warning("%s is passed over: %s", place, error)
    return found


def trial_frame(trials: Sequence[AnyTrial]) -> pd.DataFrame:
    """Trials as a table without secrets, one a row; a column whose values are of several types is text.

    Columns are ``trial``, ``status``, ``error``, ``start_time_ms``, ``step`` and ``attempts``; then every tag
    (``irtune.strategy``), setting (``training.learning_rate``) and metric (``final/test_f1_macro``) of any of them.
    """
    rows = [
        {
            "trial": trial.name,
            "status": trial.status,
            "error": trial.error,
            "start_time_ms": trial.start_time_ms,
            "step": trial.step,
            "attempts": trial.attempts,
            **trial.tags,
            **{key: _number(text) for key, text in trial.texts.items()},
            **trial.measured,
        }
        for trial in trials
    ]
    frame = pd.DataFrame(redacted(rows))
    for name in frame.columns:
        kinds = {type(value) for value in frame[name].dropna()}
        if len(kinds) > 1 and not kinds <= {int, float}:
            frame[name] = frame[name].map(lambda value: value if pd.isna(value) else str(value))
    return frame


def _read(folder: Path) -> AnyTrial:
    run = RunRecord(folder)
    opened, end = run.start(), run.end()
    tags, tree, texts, measured = dict(opened.tags), dict[str, Any](), dict[str, str](), dict[str, float]()
    step, has_result, attempts = 0, False, set[int]()
    for record in _newest(RecordReader(folder)):
        if record["kind"] == "metrics":
            measured |= record["values"]
            step = max(step, record["step"])
            attempts |= {record["attempt"]} if "train/loss" in record["values"] else set()
        elif record["kind"] == "params":
            tree, texts = record.get("settings", {}), record["values"]
        elif record["kind"] == "tags":
            tags |= record["values"]
        elif record["kind"] == "result":
            has_result = True
            # Its evaluation is that of the best weights.
            measured = {key: value for key, value in record["values"].items() if "/" in key} | measured
    tags |= {} if end is None else end.tags
    return AnyTrial(
        name=folder.name,
        title=opened.name,
        folder=folder,
        status=_status(end, tags, has_result=has_result),
        error=None if end is None else end.error_text,
        start_time_ms=opened.start_time_ms,
        step=step,
        attempts=len(attempts),
        tags=tags,
        settings=tree,
        texts=texts,
        measured=measured,
    )


def _newest(records: Iterable[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    """Records without those that a worker of an earlier attempt, cut off but alive, wrote on."""
    attempt = 0
    for record in records:
        if record["attempt"] >= attempt:
            attempt = record["attempt"]
            yield record


def _status(end: Ended | None, tags: Mapping[str, str], *, has_result: bool) -> Status:
    if end is not None and end.status == "FAILED":
        return "failed"
    if tags.get("irtune.pruned") == "true":
        return "pruned"
    return "finished" if has_result else "killed"


def _number(text: str) -> Any:
    """A setting as a number where its text is one."""
    if _NUMBER.fullmatch(text) is None:
        return None if text == "None" else text
    number = float(text) if set(text) & set(".e") else int(text)
    return number if abs(number) < 2**63 else text
