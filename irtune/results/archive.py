"""A zip archive of files with a manifest: it appears whole, and is checked whole before anything of it is used."""

import hashlib
import json
import re
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from pydantic import TypeAdapter, ValidationError

from irtune.files import MOST_BYTES, appearing
from irtune.studies.resume import Kind

MANIFEST = "manifest.json"
FORMAT = 1
"""Of archives. It grows when what an earlier irtune would make of one is wrong."""

MOST_RATIO = 200
"""How many times its packed size a file may have; records have 20, a bomb 1000."""

_FREE_BYTES = 2**20
"""A file of no more than this may have any ratio."""

_CHUNK = 2**20
_PACKED = (".safetensors", ".npz", ".png", ".parquet", ".pdf")
"""Endings of files that are compressed already, or hardly can be."""

_DEVICE = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    OverflowError,
    OSError,
)
"""What reading a damaged archive raises."""


class ArchiveError(ValueError):
    """An archive cannot be written or taken; the message says why, and what to do."""


@dataclass(frozen=True)
class Member:
    """A file in an archive: its size in bytes and its SHA-256."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What an archive is.

    Args:
        format: Of the archive; this irtune reads up to ``FORMAT``.
        irtune: The version that wrote it.
        name: The study's.
        kind: What the study is.
        files: By path in the study's folder.
    """

    format: int
    irtune: str
    name: str
    kind: Kind
    files: dict[str, Member]


def write_archive(
    out: Path, about: Callable[[dict[str, Member]], Manifest], files: Iterable[tuple[str, BinaryIO]]
) -> Manifest:
    """Write an archive, which is there once it is whole. Equal files make equal archives.

    Args:
        out: Where; nothing may lie there.
        about: From the files to the manifest.
        files: By path, each read before the next one is asked for.

    Raises:
        ArchiveError: Something is there, or it cannot be written.
    """
    _refuse_taken(out)
    try:
        with appearing(out) as partial, zipfile.ZipFile(partial, "x") as archive:
            written = {path: _add(archive, path, content) for path, content in files}
            manifest = about(written)
            archive.writestr(_info(MANIFEST), json.dumps(asdict(manifest), indent=1))
            _refuse_taken(out)
    except OSError as error:
        raise ArchiveError(f"{out}: cannot be written ({error}); name another place, or make room there") from error
    return manifest


def _refuse_taken(out: Path) -> None:
    if out.exists() or out.is_symlink():
        raise ArchiveError(f"{out}: is there already; delete it, or name another file")


def _add(archive: zipfile.ZipFile, path: str, content: BinaryIO) -> Member:
    digest, size = hashlib.sha256(), 0
    with content, archive.open(_info(path), "w", force_zip64=True) as target:
        while chunk := content.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
            target.write(chunk)
    return Member(size, digest.hexdigest())


def _info(path: str) -> zipfile.ZipInfo:
    # Without the time and the rights of whoever wrote it.
    info = zipfile.ZipInfo(path)
    info.external_attr = (stat.S_IFREG | 0o644) << 16
    info.compress_type = zipfile.ZIP_STORED if path.endswith(_PACKED) else zipfile.ZIP_DEFLATED
    return info


class Archive:
    """An archive of which names, manifest and declared sizes are checked, and contents by ``check`` and ``extract``.

    Args:
        file: Its file, for messages.
        opened: The same, opened.
        is_wanted: Tells of a path whether such a file belongs into an archive.

    Raises:
        ArchiveError: If anything is wrong with it.
    """

    def __init__(self, file: Path, opened: zipfile.ZipFile, is_wanted: Callable[[str], bool]) -> None:
        self._file, self._opened = file, opened
        members = self._members()
        self.manifest = self._manifest(members.pop(MANIFEST, None))
        wrong = why_unsafe(self.manifest.name)
        if wrong is not None or "/" in self.manifest.name or self.manifest.name.startswith("."):
            raise self._refused(f"its manifest names the study {self.manifest.name!r}, which is no name of a folder")
        for path, info in members.items():
            self._check_member(path, info)
            if not is_wanted(path):
                raise self._refused(f"{path!r} is none of the files that irtune export writes")
        absent = self.manifest.files.keys() - members.keys()
        if absent:
            raise self._refused(f"{min(absent)!r} is in its manifest and not in it")

    @property
    def num_bytes(self) -> int:
        """What its files take on a disk."""
        return sum(member.size for member in self.manifest.files.values())

    def check(self) -> None:
        """Read all files, and compare them with the manifest; nothing is written.

        Raises:
            ArchiveError: One has another size or content.
        """
        for path in self.manifest.files:
            for _ in self._chunks(path):
                pass

    def content(self, path: str) -> bytes:
        """All of a small file.

        Raises:
            ArchiveError: It is too large, or not what the manifest says.
        """
        if self.manifest.files[path].size > MOST_BYTES:
            raise self._refused(f"{path!r} has more bytes than any that irtune writes")
        return b"".join(self._chunks(path))

    def extract(self, folder: Path, last: str) -> None:
        """Write all files below a folder that is made, comparing them once more.

        Args:
            folder: Where.
            last: The path of the file that is written after all others.

        Raises:
            ArchiveError: A file is not as the manifest says.
            OSError: There is no room, or no right to write.
        """
        folder.mkdir(mode=0o755)
        for path in sorted(self.manifest.files, key=lambda path: path == last):
            target = folder.joinpath(*path.split("/"))
            target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            with target.open("xb") as written:
                for chunk in self._chunks(path):
                    written.write(chunk)

    def _members(self) -> dict[str, zipfile.ZipInfo]:
        """Every entry by its path, none of which leads out of the folder, or twice to one place."""
        found: dict[str, zipfile.ZipInfo] = {}
        places: set[str] = set()
        for info in self._opened.infolist():
            # What stands behind a zero is cut off from the name that is shown.
            path = info.orig_filename
            kind = stat.S_IFMT(info.external_attr >> 16)
            wrong = why_unsafe(path)
            if wrong is None and kind not in (0, stat.S_IFREG):
                wrong = "is a link" if kind == stat.S_IFLNK else "is no file"
            if wrong is not None:
                raise self._refused(f"{path!r} {wrong}")
            # What some file systems do not tell apart.
            place = unicodedata.normalize("NFC", path).casefold()
            if place in places:
                raise self._refused(f"{path!r} is in it twice")
            places.add(place)
            found[path] = info
        for place in places:
            above = place.rpartition("/")[0]
            while above:
                if above in places:
                    raise self._refused(f"{above!r} is both a file and a folder in it")
                above = above.rpartition("/")[0]
        return found

    def _manifest(self, info: zipfile.ZipInfo | None) -> Manifest:
        if info is None:
            raise self._refused(f"has no {MANIFEST}, so irtune export did not write it")
        if info.file_size > MOST_BYTES:
            raise self._refused(f"its {MANIFEST} has {info.file_size:,} bytes, more than any has")
        self._check_packing(MANIFEST, info)
        try:
            tree = json.loads(b"".join(self._read(MANIFEST)))
            # First of all, since in a later format anything else may be otherwise.
            number = tree["format"] if isinstance(tree, dict) else None
            if not isinstance(number, int) or isinstance(number, bool) or number < 1:
                raise self._refused(f"its {MANIFEST} says no format")
            if number > FORMAT:
                raise self._refused(
                    f"a newer irtune ({tree.get('irtune')!r}) wrote it, in format {number}; this "
                    f"one reads up to {FORMAT}; update irtune",
                    remedy="",
                )
            return TypeAdapter(Manifest).validate_python(tree, strict=False)
        except (ValidationError, json.JSONDecodeError, UnicodeDecodeError, KeyError, RecursionError) as error:
            raise self._refused(f"its {MANIFEST} is damaged") from error

    def _check_member(self, path: str, info: zipfile.ZipInfo) -> None:
        self._check_packing(path, info)
        declared = self.manifest.files.get(path)
        if declared is None:
            raise self._refused(f"{path!r} is not in its manifest")
        if info.file_size != declared.size:
            raise self._refused(f"{path!r} has {info.file_size:,} bytes, and {declared.size:,} in its manifest")

    def _check_packing(self, path: str, info: zipfile.ZipInfo) -> None:
        if info.flag_bits & 0x1:
            raise self._refused(f"{path!r} is encrypted")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise self._refused(f"{path!r} is packed in a way that irtune export does not use")
        if info.file_size > _FREE_BYTES and info.file_size > MOST_RATIO * info.compress_size:
            raise self._refused(f"{path!r} would unpack to {info.file_size:,} bytes from {info.compress_size:,}")

    def _chunks(self, path: str) -> Iterator[bytes]:
        """The content of a file, which turns out at its end to be what the manifest says."""
        declared, digest, size = self.manifest.files[path], hashlib.sha256(), 0
        for chunk in self._read(path):
            digest.update(chunk)
            size += len(chunk)
            yield chunk
        if size != declared.size or digest.hexdigest() != declared.sha256:
            raise self._refused(f"{path!r} is not what its manifest says (another size or SHA-256)")

    def _read(self, path: str) -> Iterator[bytes]:
        try:
            with self._opened.open(path) as member:
                while chunk := member.read(_CHUNK):
                    yield chunk
        except _DAMAGE as error:
            raise self._refused(f"{path!r} is damaged ({error})") from error

    def _refused(self, why: str, remedy: str = "; fetch it, or have it exported, again") -> ArchiveError:
        return ArchiveError(f"{self._file}: {why}{remedy}")


@contextmanager
def open_archive(file: Path, is_wanted: Callable[[str], bool]) -> Iterator[Archive]:
    """An archive inside the context, checked but for the contents of its files.

    Args:
        file: The archive.
        is_wanted: Tells of a path whether such a file belongs into an archive.

    Raises:
        ArchiveError: It is none, or anything is wrong with it.
    """
    if not file.is_file():
        raise ArchiveError(f"{file}: {'is no file' if file.exists() else 'there is no such file'}; give an archive")
    try:
        opened = zipfile.ZipFile(file)
    except PermissionError as error:
        raise ArchiveError(f"{file}: cannot be read ({error.strerror})") from error
    except _DAMAGE as error:
        raise ArchiveError(f"{file}: is no zip archive, or not all of one ({error}); fetch it again") from error
    with opened:
        yield Archive(file, opened, is_wanted)


def why_unsafe(path: str) -> str | None:
    """Why a path in an archive may lead out of the folder, or to what is no file, in words; None if it cannot."""
    parts = path.split("/")
    if path.startswith("/") or re.match(r"[A-Za-z]:", path) or "\\" in path:
        return "is no relative path with / between its parts"
    if ".." in parts:
        return "leads out of the study's folder"
    if any(part in ("", ".") for part in parts):
        return "is no path of a file"
    if any(unicodedata.category(letter).startswith("C") for letter in path):
        return "has a character that cannot be shown"
    if any(_DEVICE.fullmatch(part) or part.endswith((" ", ".")) or len(part.encode()) > 255 for part in parts):
        return "is no name of a file on every system"
    return None
