"""The one place that knows what a secret looks like, and takes it out of whatever is about to be written or shown."""

import os
import re
import traceback
from collections.abc import Mapping
from typing import Any

BLOT = "***"
SHORTEST_SECRET = 8
"""A value of the environment that is shorter is not looked for in texts, since it may be a word of them."""

_NAMES = (
    r"passwords?|passwd|passphrase|pwd|(?:[a-z0-9]+[-_])*(?:token|secrets?|credentials?)|"
    r"(?:[a-z0-9]+[-_])*(?:api|access|secret|private|account|subscription)[-_]?key|apikey|authorization|"
    r"(?:x-amz-)?signature|sig|sas|sessionid"
)
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")
_LOGIN = re.compile(r"(?<!\bsqlite://)(?<!\bfile://)(?<=://)(?=[^\s/?#]*@|[^\s/?#@:]*:(?!\d*(?:[/?#\s]|$)))\S*@")
"""Of an address, with whatever its password holds: an at sign before the path, or what is no port after a colon.

The path of a file on this machine has no login, whatever it looks like.
"""
_PATTERNS = (
    (_LOGIN, f"{BLOT}@"),
    (re.compile(rf"(?i)(?<![a-z0-9])((?:[a-z0-9]+_)*(?:{_NAMES})(?:=|%3D)['\"]?)[^&\s'\";,)}}\]#]+"), rf"\1{BLOT}"),
    (re.compile(r"(?i)([?&#;]key=)[^&\s'\"#]+"), rf"\1{BLOT}"),
    (re.compile(rf"(?i)(--?(?:[a-z]+-)*(?:{_NAMES})\s+)(?!-)\S+"), rf"\1{BLOT}"),
    (re.compile(rf"(?i)(['\"](?:[a-z0-9]+_)*(?:{_NAMES})['\"]\s*:\s*['\"])[^'\"]+"), rf"\1{BLOT}"),
    (re.compile(r"(?i)(authorization['\"]?\s*[:=]\s*['\"]?(?:(?:basic|bearer|token)\s+)?)[^\s'\",]+"), rf"\1{BLOT}"),
    (re.compile(r"(\b[Bb]earer\s+)[\w.~+/=-]{8,}"), rf"\1{BLOT}"),
    # Forms in which those who issue tokens make them.
    (re.compile(r"\b(?:hf_|gh[oprsu]_|github_pat_|glpat-|sk-|xox[abprs]-|dapi|AKIA|ASIA)[\w-]{16,}"), BLOT),
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"), BLOT),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL), BLOT),
)
_COLOURS = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
_SECRET_KEY = re.compile(rf"(?i)(?:\w+_)?(?:{_NAMES})")
_SECRET_VARIABLE = re.compile(
    r"(?i)(?:\w+_)?(?:TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|API_?KEY|ACCESS_KEY|SECRET_KEY|PRIVATE_KEY|CREDENTIALS?)"
)


def redact(text: str) -> str:
    """Blot logins, passwords and tokens out of a text: by their form, and by value those of the environment."""
    for secret in _of_environment():
        text = text.replace(secret, BLOT)
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def in_one_line(text: str) -> str:
    """A text of others in one line, to be shown: without secrets, and without what a terminal takes for a command."""
    return "".join(each if each.isprintable() else " " for each in redact(_COLOURS.sub("", text)))


def public_address(address: str) -> str:
    """An address without its login and without the secrets in its query and fragment; it leads to the same place."""
    rest, _, fragment = _LOGIN.sub("", address).partition("#")
    path, _, query = rest.partition("?")
    query, fragment = _public_fields(query), _public_fields(fragment)
    return redact(path + (f"?{query}" if query else "") + (f"#{fragment}" if fragment else ""))


def redacted(value: Any, key: str = "") -> Any:
    """A JSON-able tree without secrets: those by the name of their key, and those in its texts.

    Args:
        value: A text, a number, or a list or mapping of such.
        key: The dotted key under which the value stands.
    """
    if isinstance(value, Mapping):
        return {name: redacted(inner, str(name)) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(inner, key) for inner in value]
    # A number with a fraction is no secret, but the weight of a class, which may be called anything.
    if value is None or isinstance(value, bool | float):
        return value
    if _SECRET_KEY.fullmatch(key.rpartition(".")[2]):
        return BLOT
    if not isinstance(value, str):
        return value
    return public_address(value) if _ADDRESS.fullmatch(value) else redact(value)


def raised_publicly(error: Exception) -> Exception:
    """The error to raise in place of one in whose message is a secret; the same one where there is none."""
    seen: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in seen:
        seen.append(link)
        link = link.__cause__ or link.__context__
    if all(redact(str(each)) == str(each) for each in seen):
        return error
    return RuntimeError(redact("".join(traceback.format_exception(error))))


def _public_fields(text: str) -> str:
    return "&".join(field for field in text.split("&") if not _is_secret(field))


def _is_secret(field: str) -> bool:
    name = field.partition("=")[0]
    return name.lower() in ("key", "x-amz-credential") or _SECRET_KEY.fullmatch(name) is not None


def _of_environment() -> list[str]:
    """The secrets that this process was given by variables, the longest first."""
    # Other threads set and delete variables meanwhile: a name that was there a moment ago may be gone.
    found = (os.environ.get(name, "") for name in list(os.environ) if _SECRET_VARIABLE.fullmatch(name))
    return sorted({value for value in found if len(value) >= SHORTEST_SECRET}, key=len, reverse=True)
