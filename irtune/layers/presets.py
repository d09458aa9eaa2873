"""What the plug-in's arguments name: a method with explicit arguments above its settings, a policy, a signal."""

from collections.abc import Collection, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from irtune.importance import SIGNALS, ImportanceSignal
from irtune.methods import METHODS, Method
from irtune.plugins import nearest, resolve
from irtune.selection import POLICIES

POLICY, IMPORTANCE = "selection.policy.", "importance."
"""How the dotted keys of a method's policy and signal begin."""

_ARGUMENTS = {
    "selection.reselect_every": "reselect_every",
    "selection.on_thaw": "on_thaw",
    "model.train_head": "train_head",
}
"""Dotted key of a method -> argument of ``IRTuningCallback``; options of policy and signal go by their own names."""


def method_named(policy: Any) -> Method | None:
    """The method that ``policy`` names, if it names one.

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
        return None
    found = resolve(policy, {**POLICIES, **METHODS}, key="policy")
    return found if isinstance(found, Method) else None


def arguments_of(method: Method | None) -> dict[str, Any]:
    """What a method says of the arguments of ``IRTuningCallback`` beside policy and signal."""
    settings = method.settings if method else {}
    return {_ARGUMENTS[key]: settings[key] for key in settings if not key.startswith((POLICY, IMPORTANCE))}


def options_of(method: Method | None, section: str) -> dict[str, Any]:
    """Name and options of a method's ``POLICY`` or ``IMPORTANCE``; empty where it says nothing of it."""
    settings = method.settings if method else {}
    return {key.removeprefix(section): value for key, value in settings.items() if key.startswith(section)}


def signal_of(
    method: Method | None, given: str | Mapping[str, Any] | ImportanceSignal | None
) -> ImportanceSignal | None:
    """The signal that is ``given``, above that of the method; None if neither says one.

    Raises:
        ValueError: If it is unknown, or another than the method's.
    """
    own = options_of(method, IMPORTANCE)
    if method is None or not own:
        return None if given is None else chosen("importance", given, SIGNALS, ImportanceSignal)
    section = _section(given)
    if section.get("name", own["name"]) != own["name"]:
        # As in a configuration: the policy is made for the scores of this signal.
        raise ValueError(
            f"importance: {section['name']!r} contradicts the method {method.name!r}, which is {own['name']!r}; leave "
            f"it out, or name the policy: policy={options_of(method, POLICY)!r}"
        )
    signal: ImportanceSignal = chosen("importance", {**own, **section}, SIGNALS, ImportanceSignal)
    return signal


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
