"""What is said about mistakes in a configuration: dotted key, what was found, what is allowed."""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from irtune.config.ablation_schema import AblationConfig
from irtune.config.schema import VARIANTS, ExperimentConfig
from irtune.config.section import MISTAKE
from irtune.config.sweep_schema import SweepConfig
from irtune.config.tree import at, section_class, section_of
from irtune.plugins import nearest

PHRASES = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dict_type": "a section of key: value",
    "finite_number": "a finite number",
    "float_parsing": "a number",
    "float_type": "a number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "model_type": "a section of key: value",
    "none_required": "null",
    "string_type": "text",
    "tuple_type": "a list",
}
"""What pydantic asks for, in the words of someone who writes YAML; by error type."""


class ConfigError(ValueError):
    """One or more mistakes in a configuration, each with its dotted key and remedy.

    Example:
        >>> import irtune
        >>> try:
        ...     irtune.load_config(irtune.ExperimentConfig, None, {"training.max_step": 100})
        ... except irtune.ConfigError as error:
        ...     print(error.mistakes[0].split("?")[0])
        training.max_step: unknown key: did you mean 'max_steps'
    """

    def __init__(self, source: str, mistakes: Iterable[str]) -> None:
        self.source = source
        self.mistakes = tuple(mistakes)
        # As it was called, so that it can be unpickled where a worker's error arrives.
        super().__init__(source, self.mistakes)

    def __str__(self) -> str:
        return "\n".join(f"{self.source}: {mistake}" for mistake in self.mistakes)


def describe(config_type: type[BaseModel], tree: Mapping[str, Any], error: ValidationError) -> list[str]:
    """Every mistake that pydantic found in ``tree``, one line a dotted key."""
    messages: dict[tuple[str, ...], str] = {}
    in_unions: set[tuple[str, ...]] = set()
    for item in error.errors(include_url=False):
        location = _location(tree, item)
        if len(location) < len(item["loc"]):
            in_unions.add(location)
        message = _message(config_type, tree, location, item)
        messages[location] = _either(messages[location], message) if location in messages else message
    # Of a setting that may be a list or text, a mistake inside the list says more than that a list is no text.
    vague = {key for key in in_unions if any(len(key) < len(other) and other[: len(key)] == key for other in messages)}
    return [f"{'.'.join(key)}: {message}" if key else message for key, message in messages.items() if key not in vague]


def known_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every dotted key that a configuration of this type can have, over all variants."""
    for name, field in model.model_fields.items():
        key = prefix + name
        if key in VARIANTS:
            options = {option for variant in VARIANTS[key].registered.values() for option in variant.model_fields}
            yield from (f"{key}.{option}" for option in sorted(options))
        elif (section := section_class(field.annotation)) is not None:
            yield from known_keys(section, f"{key}.")
        else:
            yield key


def _location(tree: Any, item: Mapping[str, Any]) -> tuple[str, ...]:
    """Where in the tree a mistake is, without the names of union members that pydantic puts in between."""
    location: list[str] = []
    node = tree
    for depth, part in enumerate(item["loc"], start=1):
        if (isinstance(node, Mapping) and part in node) or (isinstance(node, list | tuple) and isinstance(part, int)):
            node = node[part]
            location.append(str(part))
        elif depth == len(item["loc"]) and item["type"] in ("missing", MISTAKE):
            location.append(str(part))
    return tuple(location)


def _message(
    config_type: type[BaseModel], tree: Mapping[str, Any], location: tuple[str, ...], item: Mapping[str, Any]
) -> str:
    kind, found = item["type"], item["input"]
    if kind in (MISTAKE, "value_error"):
        return str(item["msg"]).removeprefix("Value error, ")
    *parents, key = location or ("",)
    if kind == "extra_forbidden":
        return _unknown_key(config_type, tree, parents, key)
    if kind == "missing":
        model = _model_at(config_type, tree, parents)
        description = model.model_fields[key].description if model and key in model.model_fields else None
        return f"is required{f' ({description})' if description else ''}"
    shown = repr(found) if len(repr(found)) <= 100 else f"{repr(found)[:100]}…"
    message = f"must be {PHRASES[kind]}" if kind in PHRASES else _our_words(str(item["msg"]))
    if kind == "string_type" and not isinstance(found, Mapping | list | tuple | None):
        return f"{message}, not {shown}: put it in quotes"
    if kind == "model_type" and ".".join(location) in VARIANTS:
        return f"{message}, not {shown}: the choice itself is {'.'.join(location)}.name"
    return f"{message}, not {shown}"


def _either(one: str, other: str) -> str:
    """Two complaints about one value, which may be of several types, as one."""
    wanted, _, found = other.partition(", not ")
    if one.endswith(f", not {found}"):
        return f"{one.removesuffix(f', not {found}')} or {wanted.removeprefix('must be ')}, not {found}"
    return one if other in one else f"{one}; or {other}"


def _our_words(message: str) -> str:
    subject, should, rest = message.partition(" should ")
    return f"must {rest}" if should and " " not in subject else message


def _unknown_key(config_type: type[BaseModel], tree: Mapping[str, Any], parents: list[str], key: str) -> str:
    """Says which key was probably meant: one of the same section, or one of another section."""
    section = ".".join(parents)
    model = _model_at(config_type, tree, parents)
    known = [field.alias or name for name, field in model.model_fields.items()] if model else []
    if section in VARIANTS and model:
        return _no_option(section, _node(tree, parents).get("name", VARIANTS[section].default), known, key)
    kinds: dict[type[BaseModel], str] = {
        ExperimentConfig: "a single run",
        SweepConfig: "a sweep",
        AblationConfig: "an ablation",
    }
    others = [kind for kind in kinds if not parents and config_type in kinds and key in kind.model_fields]
    if others:
        return f"belongs to {kinds[others[0]]}, and this is {kinds[config_type]}"
    elsewhere = {dotted: dotted.split(".")[-1] for dotted in known_keys(ExperimentConfig)}
    # Other sections are only searched for what is clearly meant: "lr" is no "r".
    far = difflib.get_close_matches(key, elsewhere.values(), n=1, cutoff=0.8)
    close = [] if difflib.get_close_matches(key, known) else far
    meant = [dotted for dotted, last in elsewhere.items() if last in (key, *close)]
    # Options of variants that are not chosen are meant only if nothing else is.
    meant = [dotted for dotted in meant if _is_there(tree, dotted)] or meant
    if meant:
        return f"unknown key here: did you mean {' or '.join(meant)}? available: {', '.join(sorted(known))}"
    return f"unknown key: {nearest(key, known)}"


def _is_there(tree: Mapping[str, Any], dotted: str) -> bool:
    """Whether a configuration with the variants that ``tree`` chooses has a setting of this name."""
    section, _, option = dotted.rpartition(".")
    if section not in VARIANTS:
        return True
    try:
        return option in VARIANTS[section].chosen(_node(tree, section.split("."))).model_fields
    except ValueError:
        return False


def _no_option(section: str, name: str, known: list[str], key: str) -> str:
    options = [option for option in known if option != "name"]
    others = [other for other, variant in sorted(VARIANTS[section].registered.items()) if key in variant.model_fields]
    if section == "selection.policy" and key == "k":
        return (
            f"{name} decides its own number of blocks (its options: {', '.join(options) or 'none'}); "
            f"k is an option of {', '.join(others)}"
        )
    if others:
        return f"{name} has no such option (its options: {', '.join(options) or 'none'}); {', '.join(others)} has"
    return f"{name} has no such option: {nearest(key, options) if options else 'it has none'}"


def _node(tree: Mapping[str, Any], parents: Iterable[str]) -> Mapping[str, Any]:
    return section_of(at(tree, parents)) or {}


def _model_at(config_type: type[BaseModel], tree: Mapping[str, Any], parents: list[str]) -> type[BaseModel] | None:
    """The class that describes the section at ``parents``; its fields are the keys known there."""
    found: Any = config_type
    for depth, part in enumerate(parents):
        section = ".".join(parents[: depth + 1])
        if section in VARIANTS:
            found = VARIANTS[section].chosen(_node(tree, parents[: depth + 1]))
        elif get_origin(found) is dict:
            found = get_args(found)[1]
        else:
            model = section_class(found)
            field = model.model_fields.get(part) if model else None
            found = field.annotation if field else None
    return section_class(found)
