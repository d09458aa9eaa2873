"""What there is to choose from, in the words of the place where it is defined: presets, docstrings, descriptions."""

import inspect
import json
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import BaseModel

from irtune.config.schema import VARIANTS, ExperimentConfig
from irtune.importance.aggregations import OVER_TIME_DESCRIPTIONS, WITHIN_BLOCK_DESCRIPTIONS, rank_alike
from irtune.methods import METHODS, Method
from irtune.plugins import nearest

EQUAL_BLOCKS = [np.array([64, 64, 128])] * 2
"""Tensor sizes of two blocks of equal shape, several tensors each."""


K = 0.33
"""The share of blocks that an example trains where neither a method nor a default says it."""


@dataclass(frozen=True)
class Entry:
    """A policy or a signal, as its class describes itself, or an aggregation.

    Args:
        name: What a configuration calls it.
        key: The setting that has this name as its value, such as ``selection.policy.name``.
        summary: One sentence.
        source: Where it comes from; empty for an aggregation.
        details: What else the docstring says, in paragraphs, deviations from the source last.
        model: Whose fields are its options; an aggregation has none.
        ranks_like: Other aggregations that rank blocks of equal shape identically.
    """

    name: str
    key: str
    summary: str
    source: str = ""
    details: tuple[str, ...] = ()
    model: type[BaseModel] = BaseModel
    ranks_like: tuple[str, ...] = ()

    @property
    def section(self) -> str:
        """Where its options are."""
        return self.key.removesuffix(".name")


def variants(section: str) -> list[Entry]:
    """Every policy (``selection.policy``) or signal (``importance``)."""
    return [entry(section, name) for name in VARIANTS[section].registered]


def entry(section: str, name: str) -> Entry:
    """What the docstring and the fields of a variant say.

    Args:
        section: ``selection.policy`` or ``importance``.
        name: One of its variants.
    """
    variant = VARIANTS[section].registered[name]
    # As Markdown prints it, not as it is written.
    paragraphs = [" ".join(part.split()).replace("``", "") for part in (inspect.getdoc(variant) or "").split("\n\n")]
    said = next((part for part in paragraphs if part.startswith("Source: ")), "")
    source, *deviations = re.split(r"\s(?=Deviations?\b[^:]*: )", said, maxsplit=1)
    summary, *details = re.split(r"(?<=\.)\s", paragraphs[0], maxsplit=1)
    return Entry(
        name=name,
        key=f"{section}.name",
        summary=summary,
        source=source.removeprefix("Source: "),
        details=(*details, *(part for part in paragraphs[1:] if part != said), *deviations),
        model=variant,
    )


def defaults(model: type[BaseModel]) -> dict[str, str | None]:
    """The default of each option of a variant as YAML; None if it has to be given."""
    fields = {name: field for name, field in model.model_fields.items() if name != "name"}
    return {name: None if field.is_required() else as_yaml(field.default) for name, field in fields.items()}


def as_yaml(value: Any) -> str:
    """A value as one would write it after ``key:`` in YAML."""
    return value if isinstance(value, str) else json.dumps(value)


def aggregations() -> list[Entry]:
    """Every way to make one score of several, within a block and over time."""
    groups = rank_alike(EQUAL_BLOCKS)
    within = [
        Entry(
            name,
            "importance.within_block",
            summary,
            ranks_like=tuple(sorted(other for group in groups if name in group for other in group if other != name)),
        )
        for name, summary in WITHIN_BLOCK_DESCRIPTIONS.items()
    ]
    return within + [Entry(name, "importance.over_time", summary) for name, summary in OVER_TIME_DESCRIPTIONS.items()]


def variants_of(method: Method) -> dict[str, str]:
    """Section -> policy and signal that a method runs with; without a signal if its policy reads none."""
    config = ExperimentConfig(method=method.name)
    chosen = {"selection.policy": config.selection.policy.name}
    return chosen | ({"importance": config.importance.name} if config.selection.policy.uses_importance else {})


def methods_of(entry: Entry) -> list[Method]:
    """The methods that run with this policy or signal; none is made of an aggregation."""
    return [method for method in METHODS.values() if variants_of(method).get(entry.section) == entry.name]


def example(entry: Entry) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings with which an entry can run, as in the first method made of it, if any, and how to say so.

    A signal is said by the name of that method, since not every policy makes sense of every signal.
    """
    user = next(iter(methods_of(entry)), None)
    settings: dict[str, Any] = {entry.key: entry.name}
    if user is None:
        settings |= {f"{entry.section}.k": K for option in defaults(entry.model).items() if option == ("k", None)}
    else:
        settings |= {key: value for key, value in user.settings.items() if key.startswith(f"{entry.section}.")}
    return settings, {"method": user.name} if user is not None and entry.section == "importance" else settings


def find(name: str) -> list[Method | Entry]:
    """What is called ``name``; the policy of a method of that name is left out, since the method explains it.

    Raises:
        ValueError: If there is nothing; the message says what is near, and lists all.
    """
    others = [*variants("selection.policy"), *variants("importance"), *aggregations()]
    method = METHODS.get(name)
    parts = variants_of(method) if method else {}
    found: list[Method | Entry] = [method] if method else []
    found += [other for other in others if other.name == name and parts.get(other.section) != name]
    if not found:
        known = {*METHODS, *(other.name for other in others)}
        raise ValueError(f"no method, policy, signal or aggregation is called {name!r}: {nearest(name, known)}")
    return found
