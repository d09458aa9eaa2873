"""The trials of a study as a table: a column for each tag, setting and metric."""

import re
from collections.abc import Sequence
from typing import Any

import pandas as pd

from irtune.redaction import redacted
from irtune.studies.trial_record import TrialRecord

_NUMBER = re.compile(r"-?\d+(\.\d+)?(e[-+]?\d+)?")


def trial_frame(trials: Sequence[TrialRecord]) -> pd.DataFrame:
    """Trials as a table without secrets, one a row; a column whose values are of several types is text.

    Columns are ``trial``, ``status``, ``error``, ``start_time_ms``, ``step`` and ``attempts``; then every tag
    (``irtune.strategy``), setting (``training.learning_rate``) and metric (``final/test_f1_macro``) of any of them.
    """
    rows = [
        {
            "trial": trial.name,
            "status": trial.status or "killed",
            "error": trial.error,
            "start_time_ms": trial.began_ms,
            "step": trial.step,
            "attempts": len(trial.attempts),
            **trial.tags,
            **{key: _number(text) for key, text in trial.texts.items()},
            **trial.latest,
        }
        for trial in trials
    ]
    frame = pd.DataFrame(redacted(rows))
    for name in frame.columns:
        kinds = {type(value) for value in frame[name].dropna()}
        if len(kinds) > 1 and not kinds <= {int, float}:
            frame[name] = frame[name].map(lambda value: value if pd.isna(value) else str(value))
    return frame


def _number(text: str) -> Any:
    """A setting as a number where its text is one."""
    if _NUMBER.fullmatch(text) is None:
        return None if text == "None" else text
    number = float(text) if set(text) & set(".e") else int(text)
    return number if abs(number) < 2**63 else text
