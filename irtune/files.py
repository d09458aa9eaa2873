"""Files that are whole or not there, whenever the process that writes them is killed."""

import os
import uuid
from pathlib import Path


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
