"""Whose a sweep's folder is: on a storage that several people share, what a folder's files say is its owner's word."""

import os
import stat
from pathlib import Path


def why_not_own(folder: Path) -> str | None:
    """Why a folder is not certainly this user's own, in words; None if it is.

    It is if it is a folder itself and no link to one, belongs to the user of this process, and not everybody may write
    into it.
    """
    try:
        found = folder.lstat()
    except OSError as error:
        return f"cannot be looked at ({error.strerror})"
    if stat.S_ISLNK(found.st_mode):
        return f"is a link to {os.readlink(folder)}"
    if not stat.S_ISDIR(found.st_mode):
        return "is no folder"
    if found.st_uid != os.geteuid():
        return f"belongs to another user (uid {found.st_uid}; this is {os.geteuid()})"
    if found.st_mode & stat.S_IWOTH:
        return "can be written by everybody on this machine"
    return None


def is_own_file(file: Path) -> bool:
    """Whether a path is a file itself, and of the user of this process."""
    try:
        found = file.lstat()
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()


def leads_elsewhere(folder: Path, file: Path) -> str | None:
    """Why a file below a folder is not taken for a part of it, in words; None if it is.

    It is if there is no link on the way, it is a regular file without another name, and all of it belongs to the owner
    of the folder.

    Args:
        folder: As it is, or behind links.
        file: A path that begins with ``folder``.
    """
    owner, path = folder.stat().st_uid, folder
    for part in file.relative_to(folder).parts:
        path = path / part
        found = path.lstat()
        if not (stat.S_ISREG(found.st_mode) if path == file else stat.S_ISDIR(found.st_mode)):
            return f"{path} is {'a link' if stat.S_ISLNK(found.st_mode) else 'of another kind than it should be'}"
        if path == file and found.st_nlink > 1:
            return f"{path} also has another name (a hard link)"
        if found.st_uid != owner:
            return f"{path} belongs to another user (uid {found.st_uid}) than {folder} (uid {owner})"
    return None
