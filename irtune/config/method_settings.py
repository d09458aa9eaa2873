"""The settings of a named method (``irtune/methods.py``) lie under those of a configuration.

``method: lisa`` in a file, ``method=lisa`` on the command line, or ``method`` as a dimension of a search space.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from irtune.config.tree import at, put, section_of
from irtune.methods import METHODS, Method


def with_method(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A tree of settings with those of its method filled in where it says nothing.

    Where the tree names another variant than the method, the method's options for that section stay away.
    """
    method = method_of(tree)
    if method is None:
        return dict(tree)
    said = {section: at(tree, [*section.split("."), "name"]) for section in method.identity}
    other = {section for section, variant in method.identity.items() if said[section] not in (None, variant)}
    result = dict(tree)
    for key, value in method.settings.items():
        if key.rpartition(".")[0] not in other:
            # What is no section is left to the schema.
            put(result, key.split("."), value, replaces=False)
    return result


def method_of(tree: Mapping[str, Any]) -> Method | None:
    """The preset that a tree of settings names; None also if it names an unknown one."""
    name = tree.get("method")
    return METHODS.get(name) if isinstance(name, str) else None


def forget_method(config: BaseModel, tree: Mapping[str, Any]) -> None:
    """Of the settings of a method let only those count as set (``model_fields_set``) that ``tree`` itself gives.

    So a configuration still knows what it was told, and another method can take the place of this one.

    Args:
        config: What was built from ``with_method(tree)``.
        tree: What was said.
    """
    method = method_of(tree)
    for key in method.settings if method else ():
        node, words = config, tree
        for part in key.split("."):
            if part not in words:
                node.model_fields_set.discard(part)
                break
            node, words = getattr(node, part), section_of(words[part]) or {}
