"""The catalogue as tables on a terminal, and one entry of it explained."""

import shlex
from collections.abc import Iterable, Mapping
from typing import Any

import yaml
from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from irtune.config import catalogue
from irtune.config.catalogue import Entry
from irtune.config.load import apply_overrides
from irtune.config.schema import ExperimentConfig
from irtune.config.settings_view import listing, setting_rows
from irtune.importance import ImportanceSignal
from irtune.methods import METHODS, Method

INDENT = (0, 0, 0, 2)
_KINDS = {"selection.policy.name": "Policy", "importance.name": "Signal"}


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
    for found in catalogue.find(name):
        if isinstance(found, Method):
            explained += [*_explain_method(found), *_ways_to_use(found.settings, {"method": found.name}, run)]
        else:
            explained += [*_explain_entry(found), *_ways_to_use(*catalogue.example(found), run)]
    return explained


def _method_table() -> Table:
    rows = []
    for method in METHODS.values():
        settings = _assignments((key.rpartition(".")[2], value) for key, value in method.defaults.items())
        rows.append(
            (
                method.name,
                _cited(method.summary, method.source),
                "\n".join(catalogue.variants_of(method).values()),
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
    common = list(catalogue.defaults(ImportanceSignal).items()) if section == "importance" else []
    rows = [
        (
            entry.name,
            _cited(entry.summary, entry.source),
            _assignments(option for option in catalogue.defaults(entry.model).items() if option not in common),
        )
        for entry in catalogue.variants(section)
    ]
    caption = f"Options of all: {_assignments(common)}" if common else None
    return listing(f"{title}: {section}.name=NAME", ("name", what, "options and defaults"), rows, caption)


def _aggregation_table() -> Table:
    rows = [(a.name, a.key, a.summary, ", ".join(a.ranks_like)) for a in catalogue.aggregations()]
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
    for section, name in catalogue.variants_of(method).items():
        entry = catalogue.entry(section, name)
        parts += [*_described(entry), _option_table(entry, sections[section].model_dump(mode="json"))]
    return parts


def _explain_entry(entry: Entry) -> list[RenderableType]:
    users = ", ".join(method.name for method in catalogue.methods_of(entry))
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
            here = [] if values is None else [catalogue.as_yaml(values[name])]
            rows.append((key, *here, default, kind, meaning))
    if not rows:
        return _paragraph("It has no options.")
    columns = ("option", *(() if values is None else ("here",)), "default", "type", "what it is")
    return Padding(listing(None, columns, rows), INDENT)


def _ways_to_use(settings: Mapping[str, Any], overrides: Mapping[str, Any], run: str) -> list[RenderableType]:
    """Dotted settings as YAML, and the command that runs with ``overrides``."""
    arguments = [f"{key}={catalogue.as_yaml(value)}" for key, value in overrides.items()]
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
    return ", ".join(name if value is None else f"{name}={catalogue.as_yaml(value)}" for name, value in pairs)
