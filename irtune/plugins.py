"""From a name to the thing it names: a registered variant, or anything importable as ``package.module:Attr``."""

import difflib
import importlib
from collections.abc import Iterable, Mapping
from typing import Any, get_args


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error message about an unknown name: the nearest known one, then all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}available: {', '.join(known)}"


def resolve(name: str, registered: Mapping[str, Any], base: type[Any] | None = None, *, key: str = "") -> Any:
    """The registered thing called ``name``, or the attribute that ``package.module:Attr`` points to.

    Args:
        name: Of either.
        registered: Name -> thing.
        base: The class that it has to be made of, where it has to be a class.
        key: What the name is of, with which a message begins.

    Raises:
        ValueError: If the name is neither registered nor importable, or of another kind; the message lists what is
            available, or says what importing it raised.
    """
    if name in registered:
        return registered[name]
    about = f"{key}: " if key else ""
    if ":" not in name:
        known = nearest(name, registered)
        raise ValueError(f"{about}unknown name {name!r}: {known}, or your own as package.module:Attr")
    module_name, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    # Importing runs code of the user's, which may raise anything.
    except Exception as error:
        raise ValueError(f"{about}cannot import {name!r}: {type(error).__name__}: {error}") from error
    if base is not None and not (isinstance(found, type) and issubclass(found, base)):
        raise ValueError(f"{about}{name!r} is not a subclass of {base.__name__}")
    return found


def one_of(key: str, value: Any, allowed: Any) -> None:
    """Refuse a value that is none of the literals ``allowed``.

    Raises:
        ValueError: If it is not.
    """
    if value not in get_args(allowed):
        raise ValueError(f"{key}: unknown value {value!r}: {nearest(str(value), get_args(allowed))}")
