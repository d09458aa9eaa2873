"""The bytes of a file, taken out of a compressed one, and what they are where the file's name says something else."""

import bz2
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePath

from irtune.data.dataset import DataError

COMPRESSED = (".gz", ".bz2", ".xz", ".zip", ".zst")

_SIGNATURES = (
    (b"PAR1", "Parquet", "end its name with .parquet"),
    (b"ARROW1", "an Arrow file", "end its name with .arrow"),
    (b"PK\x03\x04", "an Excel workbook or a zip archive", "end its name with .xlsx or .zip"),
    (b"\x1f\x8b", "gzip", "end its name with .gz"),
    (b"BZh", "bzip2", "end its name with .bz2"),
    (b"\xfd7zXZ", "xz", "end its name with .xz"),
    (b"\xd0\xcf\x11\xe0", "an old or a protected Excel workbook", "save it as .xlsx or .csv, without a password"),
    (b"SQLite format 3", "an SQLite database", "export the table as .csv"),
    (b"%PDF", "a PDF document", "export the table as .csv"),
    (b"<!doctype html", "a web page", "download the file itself"),
    (b"<html", "a web page", "download the file itself"),
    (b"version https://git-lfs", "a pointer of Git LFS in the place of the data", "fetch it with `git lfs pull`"),
)
"""First bytes of what is often found under a table's name, and what to do."""


def kind_of(path: PurePath) -> tuple[str, str]:
    """Suffix of the table in lower case, and of the compression around it (or an empty one)."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSED:
        return (suffixes[-2] if len(suffixes) > 1 else ""), suffixes[-1]
    return (suffixes[-1] if suffixes else ""), ""


def read_contents(path: Path) -> tuple[bytes, str]:
    """All bytes of a file's table, and the suffix that says what it is.

    Raises:
        DataError: If the file cannot be read, or cannot be decompressed.
    """
    suffix, compression = kind_of(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}. Correct its permissions or data.path.") from error
    if raw.startswith(b"version https://git-lfs"):
        refuse_other_kinds(raw, str(path))
    try:
        if compression == ".zip":
            return _only_member(path, raw, suffix)
        return _DECOMPRESS[compression](raw), suffix
    except (
        OSError,
        EOFError,
        zlib.error,
        lzma.LZMAError,
        zipfile.BadZipFile,
        ValueError,
        NotImplementedError,
    ) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{path}: cannot be decompressed as {compression}: {error}. Fetch or compress it anew."
        ) from error
    except RuntimeError as error:
        raise DataError(f"{path}: cannot be decompressed: {error}. Give it without a password.") from error


def refuse_other_kinds(raw: bytes, source: str) -> None:
    """Refuse bytes that are no text table but something well known.

    Raises:
        DataError: With what they are, and what to do.
    """
    start = raw[:64].lstrip().lower()
    for signature, what, remedy in _SIGNATURES:
        if raw.startswith(signature) or start.startswith(signature.lower()):
            raise DataError(f"{source}: holds {what}, not what its name says. To read it, {remedy}.")


def _only_member(path: Path, raw: bytes, suffix: str) -> tuple[bytes, str]:
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        names = [name for name in names if not name.startswith("__MACOSX/") and not PurePath(name).name.startswith(".")]
        if len(names) != 1:
            raise DataError(
                f"{path}: holds {len(names)} files ({', '.join(names[:5])}{', …' if len(names) > 5 else ''}), and "
                "irtune reads an archive of one. Unpack it and name the file in data.path."
            )
        return archive.read(names[0]), kind_of(PurePath(names[0]))[0] or suffix


def _zstandard(raw: bytes) -> bytes:
    import pyarrow

    with pyarrow.CompressedInputStream(pyarrow.BufferReader(raw), "zstd") as stream:
        content: bytes = stream.read()
    return content


_DECOMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.decompress,
    ".bz2": bz2.decompress,
    ".xz": lzma.decompress,
    ".zst": _zstandard,
}
