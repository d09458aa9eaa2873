"""A named method as the plug-in takes it, with explicit arguments above its settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from irtune.importance import SIGNALS, ImportanceSignal
from irtune.layers.by_name import chosen, to_json
from irtune.methods import METHODS
from irtune.plugins import nearest
from irtune.selection import POLICIES

_ARGUMENTS = {
    "selection.reselect_every": "reselect_every",
    "selection.on_thaw": "on_thaw",
    "model.train_head": "train_head",
}
"""Dotted key of a method -> argument of ``IRTuningCallback``; options of policy and signal go by their own names."""


@dataclass(frozen=True)
class Preset:
    """Defaults for the arguments of ``IRTuningCallback``.

    Args:
        name: Of the method; empty where none was named.
        policy: Name and options of the policy.
        importance: Name and options of the signal, if it is part of the method.
        arguments: The others.
    """

    name: str = ""
    policy: Mapping[str, Any] = field(default_factory=dict)
    importance: Mapping[str, Any] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def signal(self, given: str | Mapping[str, Any] | ImportanceSignal | None) -> ImportanceSignal | None:
        """The signal that is ``given``, above that of the method; None if neither says one.

        Raises:
            ValueError: If it is unknown, or another than the method's.
        """
        if not self.importance:
            return None if given is None else chosen("importance", given, SIGNALS, ImportanceSignal)
        section = _section(given)
        own = self.importance["name"]
        if section.get("name", own) != own:
            # As in a configuration: the policy is made for the scores of this signal.
            raise ValueError(
                f"importance: {section['name']!r} contradicts the method {self.name!r}, which is {own!r}; leave it "
                f"out, or name the policy: policy={dict(self.policy)!r}"
            )
        signal: ImportanceSignal = chosen("importance", {**self.importance, **section}, SIGNALS, ImportanceSignal)
        return signal


def preset_of(policy: Any) -> Preset:
    """The preset that ``policy`` names, or one without settings.

    A name that is a method's and a policy's (``ist``) is the method's, as on the command line; the policy alone is
    ``{"name": "ist"}``.

    Raises:
        ValueError: If it is the name of neither.
    """
    if isinstance(policy, Mapping) and policy.get("name") in METHODS.keys() - POLICIES.keys():
        raise ValueError(
            f"policy: {policy['name']!r} is a method, which brings more than a policy; give its name alone, and "
            "options as further arguments"
        )
    if not isinstance(policy, str) or ":" in policy:
        return Preset()
    if policy not in METHODS:
        if policy not in POLICIES:
            known = nearest(policy, {*METHODS, *POLICIES})
            raise ValueError(f"policy: unknown name {policy!r}: {known}, or your own as package.module:Class")
        return Preset()
    settings = METHODS[policy].settings
    arguments = {
        key: value for key, value in settings.items() if not key.startswith(("selection.policy.", "importance."))
    }
    return Preset(
        policy,
        _under("selection.policy.", settings),
        _under("importance.", settings),
        {_ARGUMENTS[key]: value for key, value in arguments.items()},
    )


def _under(prefix: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key.removeprefix(prefix): value for key, value in settings.items() if key.startswith(prefix)}


def _section(given: str | Mapping[str, Any] | ImportanceSignal | None) -> dict[str, Any]:
    """Name, if one was said, and options."""
    if isinstance(given, ImportanceSignal):
        name = to_json(given, SIGNALS)["name"]
        return {**given.model_dump(mode="json", exclude_unset=True), "name": name}
    return {"name": given} if isinstance(given, str) else dict(given or {})
