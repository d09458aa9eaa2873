"""The files of a run that are uploaded: what lies in its folder, and nothing that a link, ``..`` or a pipe leads to."""

import contextlib
import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class OutsideError(ValueError):
    """What is asked for does not lie in the folder, or is no file; the message says which and why."""


def check_inside(path: str) -> tuple[str, ...]:
    """The parts of a relative path that cannot leave the folder that it starts from.

    Raises:
        OutsideError: It is absolute, empty, or goes up.
    """
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or not pure.parts or "\0" in path:
        raise OutsideError(f"{path!r} does not lie in the run's folder")
    return pure.parts


def files_inside(folder: Path, path: str, refused: list[str]) -> Iterator[tuple[str, Path]]:
    """Yield every file of a file or folder within ``folder``, each with a path to read it by until the next one.

    What is read is what was looked at, even if somebody puts a link in its place meanwhile.

    Args:
        folder: The run's folder.
        path: Of a file or folder in it, relative to it.
        refused: Takes, in words, what is passed over in a folder: links, second names of files, pipes, devices.

    Yields:
        The folder of the file relative to ``path`` ("" for the file itself), and where to read it.

    Raises:
        OutsideError: ``path`` itself leads out of ``folder``, or is neither file nor folder.
        FileNotFoundError: There is nothing of that name.
    """
    *above, name = check_inside(path)
    with contextlib.ExitStack() as opened, tempfile.TemporaryDirectory(prefix="irtune-upload-") as staging:
        place = _opened(opened, os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        for part in above:
            place = _opened(opened, _open_folder(part, place, path))
        yield from _files(place, name, path, (), Path(staging), refused)


def _files(
    place: int, name: str, told: str, below: tuple[str, ...], staging: Path, refused: list[str]
) -> Iterator[tuple[str, Path]]:
    """A file, or those of a folder: ``name`` in the open folder ``place``; ``below`` is the way to it from the top."""
    if not stat.S_ISDIR(os.stat(name, dir_fd=place, follow_symlinks=False).st_mode):
        with _readable(name, place, staging, told) as file:
            yield "/".join(below[:-1]), file
        return
    with contextlib.ExitStack() as opened:
        inner = _opened(opened, _open_folder(name, place, told))
        for member in sorted(os.listdir(inner)):
            way = (*below, member)
            try:
                yield from _files(inner, member, "/".join(way), way, staging, refused)
            except OutsideError as error:
                refused.append(str(error))


@contextlib.contextmanager
def _readable(name: str, place: int, staging: Path, told: str) -> Iterator[Path]:
    """A path in ``staging`` to the very file that is looked at here."""
    _check(os.stat(name, dir_fd=place, follow_symlinks=False), told)
    try:
        file = os.open(name, _FILE, dir_fd=place)
    except OSError as error:
        raise OutsideError(f"{told} cannot be opened as a file ({error.strerror})") from error
    path = staging / name
    try:
        _check(os.fstat(file), told)
        itself = Path(f"/proc/{os.getpid()}/fd/{file}")
        if itself.exists():
            path.symlink_to(itself)
        else:
            with os.fdopen(os.dup(file), "rb") as source, path.open("xb") as copy:
                shutil.copyfileobj(source, copy)
        yield path
    finally:
        path.unlink(missing_ok=True)
        os.close(file)


def _check(found: os.stat_result, told: str) -> None:
    if stat.S_ISLNK(found.st_mode):
        raise OutsideError(f"{told} is a link")
    if not stat.S_ISREG(found.st_mode):
        raise OutsideError(f"{told} is no file")
    if found.st_nlink > 1:
        raise OutsideError(f"{told} is also known by another name (a hard link), which may lie anywhere")


def _open_folder(name: str, place: int, told: str) -> int:
    try:
        return os.open(name, _FOLDER, dir_fd=place)
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        raise OutsideError(f"{told} leads through a link or a file") from error


def _opened(stack: contextlib.ExitStack, descriptor: int) -> int:
    stack.callback(os.close, descriptor)
    return descriptor
