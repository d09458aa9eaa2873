"""A file of hidden states: whole or not there, checked when it is opened, and read by memory-mapping."""

import uuid
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from irtune.files import appearing

_MAGIC = b"irtune-states-1"
_FOOTER = len(_MAGIC) + 4
_CHUNK = 2**24


@dataclass(frozen=True)
class StateFile:
    """Hidden states of tokens, end to end, with a checksum behind them.

    Args:
        path: Where it is; its folder is made if absent.
        num_tokens: T.
        width: d, numbers of a token.
        dtype: Of the numbers.
    """

    path: Path
    num_tokens: int
    width: int
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        """The file's size."""
        return self.num_tokens * self.width * self.dtype.itemsize + _FOOTER

    def write(self, parts: Iterable[torch.Tensor]) -> None:
        """Put the file in place at once, also beside others that write it.

        Args:
            parts: Tensors ``(t, d)`` of ``dtype``; all are taken, also where the disk fails, since ranks compute them
                together.

        Raises:
            OSError: If the disk takes no more.
            ValueError: If they are other states than announced.
        """
        failed: OSError | None = None
        checksum = num_tokens = 0
        with appearing(self.path, uuid.uuid4().hex) as partial, partial.open("wb") as opened:
            for part in parts:
                if (part.shape[1], part.dtype) != (self.width, self.dtype):
                    raise ValueError(f"{self.path}: states are {part.dtype} of width {part.shape[1]}")
                content = part.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
                checksum, num_tokens = zlib.crc32(content, checksum), num_tokens + len(part)
                try:
                    opened.write(content if failed is None else b"")
                except OSError as error:
                    failed = error
            if failed is None and num_tokens != self.num_tokens:
                raise ValueError(f"{self.path}: states of {num_tokens} tokens, not {self.num_tokens}")
            if failed is None:
                opened.write(_MAGIC + checksum.to_bytes(4, "big"))
            else:
                raise failed

    def open(self, *, check: bool = True) -> torch.Tensor | None:
        """The states ``(T, d)``, mapped; None if there is no such file, or not this one whole.

        Args:
            check: Also read it through and compare its checksum.
        """
        try:
            if self.path.stat().st_size != self.num_bytes:
                return None
            content = np.memmap(self.path, np.uint8, mode="r")
        except OSError:
            return None
        states, footer = content[:-_FOOTER], content[-_FOOTER:].tobytes()
        found = 0
        for start in range(0, len(states) if check else 0, _CHUNK):
            found = zlib.crc32(states[start : start + _CHUNK].tobytes(), found)
        if footer[:-4] != _MAGIC or (check and int.from_bytes(footer[-4:], "big") != found):
            return None
        size = self.num_tokens * self.width
        return torch.from_file(str(self.path), shared=False, size=size, dtype=self.dtype).view(-1, self.width)


def bytes_in(folder: Path) -> int:
    """Bytes of the files in a folder, others' unfinished ones included."""
    sizes = 0
    for file in folder.glob("*"):
        try:
            sizes += file.stat().st_size
        except FileNotFoundError:
            continue
    return sizes
