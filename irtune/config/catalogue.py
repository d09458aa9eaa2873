"""What there is to choose from, in the words of the place where it is defined: as tables, and one entry explained."""

import inspect
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml
from pydantic import BaseModel
from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from irtune.config.load import apply_overrides
from irtune.config.schema import VARIANTS, ExperimentConfig
from irtune.config.settings_view import as_yaml, listing, setting_rows
from irtune.importance import ImportanceSignal
from irtune.importance.aggregations import OVER_TIME_DESCRIPTIONS, WITHIN_BLOCK_DESCRIPTIONS, rank_alike
from irtune.methods import METHODS, Method
from irtune.plugins import nearest

EQUAL_BLOCKS = [np.array([64, 64, 128])] * 2
"""Tensor sizes of two blocks of equal shape, several tensors each."""


K = 0.33
"""The share of blocks that an example trains where neither a method nor a default says it."""

INDENT = (0, 0, 0, 2)
_KINDS = {"selection.policy.name": "Policy", "importance.name": "Signal"}


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


def overview() -> list[RenderableType]:
    """Tables of all methods, policies, signals and aggregations."""
    return [
        _method_table(),
        _variant_table("selection.policy", "Policies", "what it does"),
        _variant_table("importance", "Signals", "what it measures"),
        _aggregation_table(),
    ]


def explain(name: str, run: str) -> list[RenderableType]:
    """All about a method, policy, signal or aggregation; what is a str is there to be copied, and not to be folded.

    Args:
        name: Any of their names.
        run: A command that runs something, to which settings can be appended.

    Raises:
        ValueError: If nothing is called so.
    """
    explained: list[RenderableType] = []
    for found in find(name):
        if isinstance(found, Method):
            explained += [*_explain_method(found), *_ways_to_use(found.settings, {"method": found.name}, run)]
        else:
            explained += [*_explain_entry(found), *_ways_to_use(*example(found), run)]
    return explained


def _method_table() -> Table:
    rows = []
    for method in METHODS.values():
        settings = _assignments((key.rpartition(".")[2], value) for key, value in method.defaults.items())
        rows.append(
            (
                method.name,
                _cited(method.summary, method.source),
                "\n".join(variants_of(method).values()),
                settings,
            )
        )
    return listing(
        "Methods: method=NAME",
        ("name", "what it trains", "policy and signal", "settings"),
        rows,
        caption="Settings given explicitly lie above those of the method. irtune methods NAME explains any name.",
    )


def _variant_table(section: str, title: str, what: str) -> Table:
    common = list(defaults(ImportanceSignal).items()) if section == "importance" else []
    rows = [
        (
            entry.name,
            _cited(entry.summary, entry.source),
            _assignments(option for option in defaults(entry.model).items() if option not in common),
        )
        for entry in variants(section)
    ]
    caption = f"Options of all: {_assignments(common)}" if common else None
    return listing(f"{title}: {section}.name=NAME", ("name", what, "options and defaults"), rows, caption)


def _aggregation_table() -> Table:
    rows = [(a.name, a.key, a.summary, ", ".join(a.ranks_like)) for a in aggregations()]
    columns = ("name", "setting", "what it is", "ranks blocks of equal shape like")
    return listing("Aggregations: importance.within_block=NAME and importance.over_time=NAME", columns, rows)


def _explain_method(method: Method) -> list[RenderableType]:
    config = ExperimentConfig(method=method.name)
    sections = {"selection.policy": config.selection.policy, "importance": config.importance}
    parts: list[RenderableType] = [
        _heading(f"Method {method.name}", f"method={method.name}"),
        _paragraph(method.summary),
        _paragraph(f"Source: {method.source}"),
    ]
    for section, name in variants_of(method).items():
        entry = entry_of(section, name)
        parts += [*_described(entry), _option_table(entry, sections[section].model_dump(mode="json"))]
    return parts


def _explain_entry(entry: Entry) -> list[RenderableType]:
    users = ", ".join(method.name for method in methods_of(entry))
    used = [_paragraph(f"Methods made of it: {users}")] if users else []
    options = [_option_table(entry)] if entry.key in _KINDS else []
    return [*_described(entry), *options, *used]


def _described(entry: Entry) -> list[RenderableType]:
    source = [f"Source: {entry.source}"] if entry.source else []
    paragraphs = [entry.summary, *source, *entry.details]
    paragraphs += [f"Ranks blocks of equal shape like {', '.join(entry.ranks_like)}"] if entry.ranks_like else []
    heading = _heading(f"{_KINDS.get(entry.key, 'Aggregation')} {entry.name}", f"{entry.key}={entry.name}")
    return [heading, *map(_paragraph, paragraphs)]


def _option_table(entry: Entry, values: Mapping[str, Any] | None = None) -> RenderableType:
    """The options of a policy or signal, with the values that a method gives them where there is one."""
    rows = []
    # Its own before those that it has in common with others.
    for name, key, kind, default, meaning in sorted(
        setting_rows(entry.section, entry.model), key=lambda row: row[0] in ImportanceSignal.model_fields
    ):
        if name != "name":
            here = [] if values is None else [as_yaml(values[name])]
            rows.append((key, *here, default, kind, meaning))
    if not rows:
        return _paragraph("It has no options.")
    columns = ("option", *(() if values is None else ("here",)), "default", "type", "what it is")
    return Padding(listing(None, columns, rows), INDENT)


def _ways_to_use(settings: Mapping[str, Any], overrides: Mapping[str, Any], run: str) -> list[RenderableType]:
    """Dotted settings as YAML, and the command that runs with ``overrides``."""
    arguments = [f"{key}={as_yaml(value)}" for key, value in overrides.items()]
    return [
        _heading("Settings", ""),
        yaml.safe_dump(apply_overrides({}, settings), sort_keys=False).rstrip(),
        _heading("Run it", ""),
        f"{run} {shlex.join(arguments)}",
    ]


def _heading(title: str, setting: str) -> Padding:
    return Padding(Text.assemble((title, "bold"), f"  {setting}" if setting else ""), (1, 0, 0, 0))


def _paragraph(text: str) -> Padding:
    return Padding(Text(text), INDENT)


def _cited(summary: str, source: str) -> Text:
    return Text.assemble(summary, ("\n" + source, "dim"))


def _assignments(pairs: Iterable[tuple[str, Any]]) -> str:
    """Options with their values, as ``k, window=[0.35, 0.65]``; without one where there is no default."""
    return ", ".join(name if value is None else f"{name}={as_yaml(value)}" for name, value in pairs)


def variants(section: str) -> list[Entry]:
    """Every policy (``selection.policy``) or signal (``importance``)."""
    return [entry_of(section, name) for name in VARIANTS[section].registered]


def entry_of(section: str, name: str) -> Entry:
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
