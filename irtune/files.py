"""Files that are whole or not there, whenever the process that writes them is killed."""

import json
import os
import uuid
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_Content = TypeVar("_Content")


def write_whole(file: Path, text: str, *, durable: bool = True) -> None:
    """Put a file in place of what was there; who reads it sees the old one or the new one, never a part.

    Args:
        file: Its folder is made if absent.
        text: What to write, in UTF-8.
        durable: Also survive that the machine loses power, which costs milliseconds.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.{uuid.uuid4().hex}")
    try:
        with partial.open("w", encoding="utf-8") as opened:
            opened.write(text)
            if durable:
                opened.flush()
                os.fsync(opened.fileno())
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def write_json(file: Path, content: "DataclassInstance", *, durable: bool = True) -> None:
    """Write a dataclass field by field, as ``write_whole`` writes text."""
    write_whole(file, json.dumps(asdict(content), indent=1), durable=durable)


def read_json(file: Path, kind: type[_Content]) -> _Content:
    """Read what ``write_json`` wrote; fields that ``kind`` does not know are passed over.

    Args:
        file: The file.
        kind: The dataclass that was written.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Something else is in it.
    """
    adapter: TypeAdapter[_Content] = _adapter(cast(Any, kind))
    try:
        return adapter.validate_json(file.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        reason = f"{where}: {first['msg']}" if where else first["msg"]
        raise ValueError(f"{file}: is damaged ({reason}); bring it back from a backup, or delete it") from error


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
