"""Files that are whole or not there, whenever the process that writes them is killed or the disk is full."""

import errno
import json
import logging
import math
import os
import shutil
import stat
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

if TYPE_CHECKING:
    import numpy as np
    from _typeshed import DataclassInstance

_Content = TypeVar("_Content")

ROOM_S = 300.0
"""How long to wait for room on a full disk: less than other ranks wait for one that does."""

_TELL_EVERY_S = 60.0
_CHUNK = 2**16
MOST_BYTES = 64 * 2**20
"""Of a small file of JSON."""

_adapter = cache(TypeAdapter)

logger = logging.getLogger(__name__)


@contextmanager
def appearing(target: Path, mark: str = "partial") -> Iterator[Path]:
    """A path at which to write a file or fill a folder, which takes the place of ``target`` once that went well.

    Nobody sees a part of it. What a killed process left at that path is deleted first, so one at a time may write.

    Args:
        target: A file may be there before, a folder may not. The folder that it lies in is made if absent.
        mark: Ends the path; those who write at the same time have one each.
    """
    partial = target.with_name(f".{target.name}.{mark}")
    _delete(partial)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
        partial.replace(target)
    finally:
        _delete(partial)


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_whole(file: Path, text: str, *, durable: bool = True) -> None:
    """Put a text file in place of what was there, also beside others that write it.

    Args:
        file: Its folder is made if absent.
        text: What to write, in UTF-8.
        durable: Also survive that the machine loses power, which costs milliseconds.
    """
    with appearing(file, uuid.uuid4().hex) as partial, partial.open("w", encoding="utf-8") as opened:
        opened.write(text)
        if durable:
            opened.flush()
            os.fsync(opened.fileno())


def write_arrays(file: Path, arrays: "Mapping[str, np.ndarray]") -> None:
    """Put a compressed ``.npz`` file in place of what was there, whole or not at all, to open without pickle."""
    import numpy as np

    with appearing(file) as partial, partial.open("wb") as opened:
        np.savez_compressed(opened, allow_pickle=False, **arrays)


def bytes_under(path: Path) -> int:
    """The size of a file, or of all files in a folder and those below it; links are not followed."""
    total = 0
    for folder, _, names in os.walk(path) if path.is_dir() else [(str(path.parent), [], [path.name])]:
        for name in names:
            # It may go meanwhile.
            with suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_size
    return total


def make_durable(path: Path) -> None:
    """Return once a file, or the names in a folder, would survive that the machine loses power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
        return adapter.validate_json(read_alone(file))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        reason = f"{where}: {first['msg']}" if where else first["msg"]
        raise ValueError(f"{file}: is damaged ({reason}); bring it back from a backup, or delete it") from error


def open_alone(file: Path, mode: Literal["rb", "a+b"] = "rb") -> BinaryIO:
    """Open, without waiting, a file that has no other name: no link, no hard link, no pipe.

    Args:
        file: The file.
        mode: As for ``open``; ``a+b`` makes it if absent, and is unbuffered.

    Raises:
        FileNotFoundError: There is none to read.
        ValueError: It is something else.
    """
    return open(file, mode, buffering=-1 if mode == "rb" else 0, opener=_alone)


def open_lines(file: Path) -> BinaryIO:
    """Open a file of lines to append to, as ``open_alone`` does; a last line that a killed writer left torn is cut off.

    Args:
        file: The file; made if absent, and its folder too.

    Raises:
        ValueError: It is a link, has a second name, or is none.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    opened = open_alone(file, "a+b")
    size = end = opened.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - _CHUNK)
        opened.seek(start)
        line_end = opened.read(end - start).rfind(b"\n")
        if line_end >= 0:
            end = start + line_end + 1
            break
        end = start
    if end < size:
        opened.truncate(end)
    return opened


def _alone(path: str, flags: int) -> int:
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise ValueError(f"{path}: is no file but a link, a device or a folder; take it away") from error
        raise
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode) and found.st_nlink <= 1:
        return descriptor
    os.close(descriptor)
    what = "also has another name (a hard link)" if stat.S_ISREG(found.st_mode) else "is no file but a pipe or a folder"
    raise ValueError(f"{path}: {what}; take it away, or put a copy in its place")


def read_alone(file: Path) -> bytes:
    """All of a small file, as ``open_alone`` opens it.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is something else, or too large to be one of irtune's.
    """
    with open_alone(file) as opened:
        content = opened.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"{file}: is larger than {MOST_BYTES:,} bytes, and so none of irtune's; take it away")
    return content


def once_there_is_room(write: Callable[[], _Content], what: object, limit_s: float = ROOM_S) -> _Content:
    """Write; while the disk is full, try again, so that somebody can make room before trials are lost.

    Args:
        write: Does it; done again from the start after it failed half-way.
        what: Is written, for the message.
        limit_s: How long to try.

    Returns:
        What ``write`` returns.

    Raises:
        Exception: What ``write`` raises, if it is anything else, or there is still no room.
    """
    deadline_s, told_s = time.monotonic() + limit_s, -math.inf
    while True:
        try:
            return write()
        except Exception as error:
            now_s = time.monotonic()
            if not _is_full(error) or now_s > deadline_s:
                raise
            if now_s - told_s > _TELL_EVERY_S:
                told_s = now_s
                logger.warning("%s: no room left on the disk; waiting for at most %.0f s", what, deadline_s - now_s)
        time.sleep(0.5)


def _is_full(error: Exception) -> bool:
    full = (errno.ENOSPC, errno.EDQUOT)
    # What is written in Rust has errors of its own, with the number in their text.
    return getattr(error, "errno", None) in full or any(f"(os error {number})" in str(error) for number in full)
