"""Every setting with its type, default and meaning, as the schema says them, in tables on a terminal."""

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from irtune.config.ablation_schema import AblationConfig
from irtune.config.schema import VARIANTS
from irtune.config.sweep_schema import Dimension, SweepConfig
from irtune.config.tree import section_class

_WORDS = {
    "string": "text",
    "path": "path",
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "null": "null",
    "object": "mapping",
}
_BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
TOP = "top level"


SPACE = "space.KEY"
"""Stands for any dimension of a search space."""


def settings(section: str | None = None) -> list[Table]:
    """Tables of settings, one a section; of a section whose name chooses a variant one for each variant.

    Args:
        section: A dotted key, such as ``training``, ``selection.policy.top_k`` or ``training.learning_rate``; None:
            everything, of variants the ones that are chosen by default.

    Raises:
        ValueError: If there is no such section or setting.
    """
    sections = {**dict(_sections(AblationConfig, "")), **dict(_sections(SweepConfig, ""))}
    if section is None:
        return [_table(key, model) for key, model in sections.items()]
    sections |= {f"{key}.{name}": model for key, one in VARIANTS.items() for name, model in one.registered.items()}
    chosen = {key: model for key, model in sections.items() if key == section or key.startswith(f"{section}.")}
    if section in VARIANTS:
        # The variant chosen by default is one of them, and need not come twice.
        del chosen[section]
    if chosen:
        return [_table(key, model) for key, model in chosen.items()]
    holder, _, name = section.rpartition(".")
    if holder in sections and name in sections[holder].model_fields:
        return [_table(holder, sections[holder], only=name)]
    known = {*sections, *(_dotted(key, name) for key, model in sections.items() for name in model.model_fields)}
    meant = difflib.get_close_matches(section, sorted(known), n=1)
    guess = f"did you mean {meant[0]!r}? " if meant else ""
    raise ValueError(
        f"no section or setting is called {section!r}: {guess}sections: {', '.join(filter(None, sections))}"
    )


def _sections(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, type[BaseModel]]]:
    """The sections of the tree by dotted key, the tree itself first."""
    yield prefix, model
    if model is SweepConfig:
        yield from _sections(Dimension, SPACE)
    for name, field in model.model_fields.items():
        key = _dotted(prefix, name)
        if key in VARIANTS:
            yield key, VARIANTS[key].registered[VARIANTS[key].default]
        elif (inner := section_class(field.annotation)) is not None:
            yield from _sections(inner, key)


def setting_rows(key: str, model: type[BaseModel]) -> Iterator[tuple[str, str, str, str, str]]:
    """Name, dotted key, type, default and meaning of each setting of a section; the sections in it have their own rows.

    Args:
        key: The section's, or with a name after it that of one of its variants.
        model: What describes it.
    """
    # Of a variant the settings have the section's key, not its own name.
    section = next((one for one in VARIANTS if key.startswith(f"{one}.")), key)
    schema = model.model_json_schema()["properties"]
    for name, field in model.model_fields.items():
        full = _dotted(section, field.alias or name)
        is_section = full in VARIANTS or section_class(field.annotation) is not None
        if name == "name" and section in VARIANTS:
            variant = "" if key == section else key.removeprefix(f"{section}.")
            names = " | ".join(VARIANTS[section].registered)
            meaning = f"{names}, or your own as package.module:Attr; irtune settings {section} lists their settings"
            yield name, full, "text", variant or VARIANTS[section].default, meaning
        # Of a section that may be null being there is a setting of its own.
        elif not is_section or type(None) in get_args(field.annotation):
            yield name, full, _words(schema[field.alias or name]), _default(field), field.description or ""


def listing(
    title: str | None, columns: Sequence[str], rows: Iterable[Sequence[str | Text]], caption: str | None = None
) -> Table:
    """A table whose first column, names, is never folded."""
    table = Table(
        title=title and Text(f"\n{title}", "bold"),
        title_justify="left",
        caption=caption and Text(caption),
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for index, column in enumerate(columns):
        max_width = 28 if column in ("type", "default") else None
        table.add_column(column, no_wrap=index == 0, overflow="fold", max_width=max_width)
    for row in rows:
        # As text: brackets are no markup here.
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    return table


def _table(key: str, model: type[BaseModel], only: str | None = None) -> Table:
    rows = (cells for name, *cells in setting_rows(key, model) if only in (None, name))
    return listing(key or TOP, ("setting", "type", "default", "meaning"), rows)


def _words(schema: Mapping[str, Any]) -> str:
    """What a JSON schema allows, in words."""
    if "anyOf" in schema:
        members = dict.fromkeys(word for one in schema["anyOf"] for word in _words(one).split(" or "))
        return (", or " if any("," in word for word in members) else " or ").join(members)
    if "$ref" in schema:
        return "section"
    if choices := schema.get("enum", [schema[key] for key in ("const",) if key in schema]):
        return " | ".join(map(str, choices))
    if schema.get("type") == "array":
        return f"list of {_words(schema.get('items') or schema['prefixItems'][0])}"
    word = _WORDS.get(schema.get("format", schema.get("type", "")), "value")
    return ", ".join([word, *(f"{said} {schema[key]:g}" for key, said in _BOUNDS.items() if key in schema)])


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "the section below"
    return as_yaml(value)


def as_yaml(value: Any) -> str:
    """A value as one would write it after ``key:`` in YAML."""
    return value if isinstance(value, str) else json.dumps(value)


def _dotted(section: str, name: str) -> str:
    return f"{section}.{name}" if section else name
