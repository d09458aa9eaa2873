"""Settings as a tree: what stands at a dotted key, and how it gets there."""

import copy
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping as dotted key -> value; empty mappings vanish."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def section_class(annotation: Any) -> type[BaseModel] | None:
    """The class of the section that a field of this type holds, be it null by default or not; None if it holds none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Union, types.UnionType):
        return next(filter(None, map(section_class, get_args(annotation))), None)
    return None


def section_of(node: Any) -> Mapping[str, Any] | None:
    """A section as a mapping of what was said in it; None if it is no section."""
    if isinstance(node, BaseModel):
        # Whoever makes a policy by its class has named it.
        return node.model_dump(include={"name"}) | node.model_dump(mode="json", exclude_unset=True)
    return node if isinstance(node, Mapping) else None


def at(tree: Mapping[str, Any], parts: Iterable[str]) -> Any:
    """What stands at the end of a way down; None if nothing does.

    Args:
        tree: Sections may be mappings or models.
        parts: The keys on the way; none leads to the tree itself.
    """
    node: Any = tree
    for part in parts:
        node = (section_of(node) or {}).get(part)
    return node


def put(tree: dict[str, Any], parts: Sequence[str], value: Any, *, replaces: bool = True) -> Sequence[str]:
    """Set a value in place; sections on the way to it are copied, or made.

    Args:
        tree: Of settings.
        parts: The keys on the way.
        value: Is copied.
        replaces: Whether it takes the place of what stands there, and a section that of null.

    Returns:
        The way to what is no section, and so keeps the value out; empty where nothing does.
    """
    *parents, last = parts
    node = tree
    for depth, parent in enumerate(parents, start=1):
        found = node.get(parent, {})
        section = {} if found is None and replaces else section_of(found)
        if section is None:
            return parents[:depth]
        node[parent] = dict(section)
        node = node[parent]
    if replaces or last not in node:
        node[last] = copy.deepcopy(value)
    return ()
