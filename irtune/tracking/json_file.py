"""Small JSON files that are there whole or not at all, whatever happens to the process or machine that writes them."""

import json
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from irtune.files import write_whole

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_Content = TypeVar("_Content")


def write_json(path: Path, content: "DataclassInstance", *, durable: bool = True) -> None:
    """Put a file in place of what was there; who reads it sees the old one or the new one, never a part.

    Args:
        path: The file; its folder is made if absent.
        content: What to write, field by field.
        durable: Also survive that the machine loses power, which costs milliseconds.
    """
    write_whole(path, json.dumps(asdict(content), indent=1), durable=durable)


def read_json(path: Path, kind: type[_Content]) -> _Content:
    """Read what ``write_json`` wrote; fields that ``kind`` does not know are passed over.

    Args:
        path: The file.
        kind: The dataclass that was written.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Something else is in it.
    """
    adapter: TypeAdapter[_Content] = _adapter(cast(Any, kind))
    try:
        return adapter.validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        reason = f"{where}: {first['msg']}" if where else first["msg"]
        raise ValueError(f"{path}: is damaged ({reason}); bring it back from a backup, or delete it") from error


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
