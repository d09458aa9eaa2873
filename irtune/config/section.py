"""The base of every section of a configuration, and the errors of its validators."""

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

MISTAKE = "mistake"
"""The type of our own validation errors; their message is ready to be shown."""


class Section(BaseModel):
    """Base of every part of the tree: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)


Parts = tuple[str | int, ...]
"""The steps to a setting: keys, which may have dots, and places in lists."""


def mistakes(messages: Mapping[str, str] | Mapping[Parts, str]) -> ValidationError:
    """Make the error that a validator raises about keys of its model: dotted key, or its parts -> what is wrong."""
    details = [
        InitErrorDetails(
            type=PydanticCustomError(MISTAKE, "{message}", {"message": message}),
            loc=tuple(key.split(".")) if isinstance(key, str) else key,
            input=None,
        )
        for key, message in messages.items()
    ]
    return ValidationError.from_exception_data("mistakes", details)
