"""A trial's records in MLflow's terms: names it accepts, texts it has room for, points."""

import posixpath
import re
from collections.abc import Mapping
from typing import Any

from mlflow.entities import Metric
from mlflow.utils.validation import MAX_ENTITY_KEY_LENGTH

POINTS_PER_CALL = 990
"""MLflow takes 1,000 things a call; as many as fit cost hardly more than one."""

_SELECTION_METRICS = ("trainable_parameters", "lowest_active")


def name(text: str) -> str:
    """The text as a name of a metric, parameter or tag: other characters become ``_``, a path becomes plain."""
    path = posixpath.normpath(re.sub(r"[^\w/.\- :]", "_", text)).lstrip("/")
    plain = f"_{path}" if path.startswith("..") else path
    return "_" if plain in ("", ".") else plain[:MAX_ENTITY_KEY_LENGTH]


def cut(text: str, length: int) -> str:
    """At most ``length`` characters, which say so where something is missing."""
    note = f" … ({len(text)} characters, cut by irtune)"
    return text if len(text) <= length else text[: length - len(note)] + note


def names_and_texts(values: Mapping[str, str], length: int) -> dict[str, str]:
    """Parameters or tags that MLflow accepts."""
    return {name(key): cut(value, length) for key, value in values.items()}


def points(record: Mapping[str, Any]) -> list[Metric]:
    """The metric points in a record; its own time makes sending one twice the same as sending it once."""
    if record["kind"] == "metrics":
        values = record["values"]
    elif record["kind"] == "selection":
        values = {f"selection/{key}": float(record[key]) for key in _SELECTION_METRICS}
        values["selection/num_active"] = float(len(record["active"]))
    else:
        return []
    return [Metric(name(key), value, record["time_ms"], record["step"]) for key, value in values.items()]
