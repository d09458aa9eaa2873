"""The settings of a named method (``irtune/methods.py``) lie under those of a configuration.

``method: lisa`` in a file, ``method=lisa`` on the command line, or ``method`` as a dimension of a search space.
"""

import copy
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from irtune.methods import METHODS, Method


def with_method(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A tree of settings with those of its method filled in where it says nothing.

    Where the tree names another variant than the method, the method's options for that section stay away.
    """
    method = method_of(tree)
    if method is None:
        return dict(tree)
    other = {
        section for section, variant in method.identity.items() if _said(tree, f"{section}.name") not in (None, variant)
    }
    return _filled(tree, {key: value for key, value in method.settings.items() if key.rpartition(".")[0] not in other})


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
            node, words = getattr(node, part), _mapping(words[part]) or {}


def _filled(tree: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of ``tree`` with dotted ``settings`` where it says nothing; what is no section is left to the schema."""
    result = dict(tree)
    for key, value in settings.items():
        *parents, last = key.split(".")
        node = result
        for parent in parents:
            section = _mapping(node.get(parent, {}))
            if section is None:
                break
            node[parent] = dict(section)
            node = node[parent]
        else:
            node.setdefault(last, copy.deepcopy(value))
    return result


def _said(tree: Mapping[str, Any], key: str) -> Any:
    node: Any = tree
    for part in key.split("."):
        node = (_mapping(node) or {}).get(part)
    return node


def _mapping(node: Any) -> Mapping[str, Any] | None:
    """A section as a mapping of what was said in it; None if it is no section."""
    if isinstance(node, BaseModel):
        # Whoever makes a policy by its class has named it.
        return node.model_dump(include={"name"}) | node.model_dump(mode="json", exclude_unset=True)
    return node if isinstance(node, Mapping) else None
