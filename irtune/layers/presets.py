"""What the plug-in's arguments name: a method with explicit arguments above its settings, a policy, a signal."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ValidationError

from irtune.importance import SIGNALS, ImportanceSignal
from irtune.methods import METHODS
from irtune.plugins import nearest, resolve
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
    if resolve(policy, {**POLICIES, **METHODS}, key="policy") is not METHODS.get(policy):
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


def chosen(
    key: str,
    given: Any,
    registered: Mapping[str, type[Any]],
    base: type[Any],
    options: Mapping[str, Any] | None = None,
    others: Collection[str] = (),
) -> Any:
    """The policy or signal that ``given`` and ``options`` mean.

    Args:
        key: What it is called in messages.
        given: An object, a name, or a mapping of ``name`` and options.
        registered: Name -> class; ``package.module:Class`` need not be there.
        base: Of all such classes.
        options: Further options.
        others: What else could have been given beside the options, which a misspelt one may have meant.

    Raises:
        ValueError: If there is no such thing or it does not take these options.
    """
    options = options or {}
    if isinstance(given, base):
        if options:
            raise ValueError(f"{key}: {sorted(options)} are options of {type(given).__name__} and go into the object")
        return given
    section = {"name": given} if isinstance(given, str) else dict(given) if isinstance(given, Mapping) else {}
    name = section.pop("name", None)
    if not isinstance(name, str):
        raise ValueError(f"{key}: {given!r} gives no name; available: {', '.join(sorted(registered))}")
    section |= options
    variant: type[BaseModel] = resolve(name, registered, base, key=key)
    known = set(variant.model_fields) - {"name"}
    for option in section:
        if option not in known:
            raise ValueError(f"{key}: {name} has no option {option!r}: {nearest(option, known | set(others))}")
    if variant.model_fields["name"].is_required():
        section["name"] = name
    try:
        return variant(**section)
    except ValidationError as error:
        raise ValueError("; ".join(_explained(key, mistake) for mistake in error.errors())) from error


def to_json(variant: BaseModel, registered: Mapping[str, type[Any]]) -> dict[str, Any]:
    """Name and options from which ``chosen`` makes the same object."""
    cls = type(variant)
    names = [name for name, known in registered.items() if known is cls]
    options = variant.model_dump(mode="json", exclude={"name"})
    return {"name": names[0] if names else f"{cls.__module__}:{cls.__qualname__}", **options}


def _under(prefix: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key.removeprefix(prefix): value for key, value in settings.items() if key.startswith(prefix)}


def _section(given: str | Mapping[str, Any] | ImportanceSignal | None) -> dict[str, Any]:
    """Name, if one was said, and options."""
    if isinstance(given, ImportanceSignal):
        name = to_json(given, SIGNALS)["name"]
        return {**given.model_dump(mode="json", exclude_unset=True), "name": name}
    return {"name": given} if isinstance(given, str) else dict(given or {})


def _explained(key: str, mistake: Any) -> str:
    where = ".".join([key, *map(str, mistake["loc"])])
    if mistake["type"] == "missing":
        return f"{where}: has to be given"
    return f"{where}: {str(mistake['msg']).removeprefix('Value error, ')}"
