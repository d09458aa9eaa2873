"""From ``data.path`` to files: one, several, a pattern, or a folder."""

import difflib
import filecmp
import glob
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

from irtune.data.dataset import DataError, of_each
from irtune.data.reading.columnar import is_saved
from irtune.data.reading.contents import kind_of
from irtune.data.reading.kinds import SUFFIXES
from irtune.data.reading.splits import split_called

# Large files are often cut into pieces, called train-00000-of-00002 and the like.
_SHARD = re.compile(r"[-_]?\d+([-_]of[-_]\d+)?$")
_OWN_ROWS = "Give each split its own rows, or leave the option out to have the split drawn."


@dataclass(frozen=True)
class Place:
    """A file, or a folder of ``save_to_disk``.

    Args:
        path: Where it lies.
        split: What the folder around it calls it, if anything.
        note: What is left out beside it.
    """

    path: Path
    split: str = ""
    note: str = ""


def find_places(paths: Path | Sequence[Path], key: str) -> list[Place]:
    """Return what ``paths`` name, in a fixed order.

    Args:
        paths: Files, folders and patterns; ``~`` is the home folder.
        key: The option that they are from, for messages.

    Raises:
        DataError: With everything that is not there.
    """
    found = of_each(lambda path: _places(path.expanduser(), key), [paths] if isinstance(paths, Path) else paths)
    return [place for places in found for place in places]


def refuse_twice(places: Mapping[str, Sequence[Place]]) -> None:
    """Refuse a file that is given twice, by whatever name, or as a copy for another option.

    Args:
        places: What each option names.

    Raises:
        DataError: With every such file.
    """
    files = [(key, place.path) for key, found in places.items() for place in found]
    mistakes = []
    for (key, path), (other_key, other) in combinations(files, 2):
        same = f"data.{other_key}: {other} {{}} {path}" + ("" if key == other_key else f" of data.{key}")
        if path.samefile(other) and key == other_key:
            mistakes.append(f"{same.format('is the same file as')}, and its rows would count twice. Name it once.")
        elif path.samefile(other):
            mistakes.append(f"{same.format('is the same file as')}. {_OWN_ROWS}")
        elif key != other_key and _same_content(path, other):
            mistakes.append(f"{same.format('holds the same as')}. {_OWN_ROWS}")
    if mistakes:
        raise DataError("\n".join(mistakes))


def _same_content(path: Path, other: Path) -> bool:
    if not (path.is_file() and other.is_file() and path.stat().st_size == other.stat().st_size > 0):
        return False
    return filecmp.cmp(path, other, shallow=False)


def _places(path: Path, key: str) -> list[Place]:
    if path.is_dir():
        return _in_folder(path, key)
    if path.is_file():
        return [Place(path)]
    if glob.has_magic(str(path)):
        found = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
        places = [Place(one) for one in found if one.is_file() or is_saved(one)]
        if not places:
            raise DataError(f"data.{key}: no file fits {path}. Correct the pattern.")
        return places
    raise DataError(_absent(path, key))


def _absent(path: Path, key: str) -> str:
    if not path.parent.is_dir():
        return f"data.{key}: no such file: {path}, nor the folder {path.parent.absolute()}. Correct the path."
    near = difflib.get_close_matches(path.name, [other.name for other in path.parent.iterdir()], n=1, cutoff=0.75)
    meant = f"; did you mean {near[0]}?" if near else "."
    return f"data.{key}: no such file: {path} (in {path.parent.absolute()}){meant} Correct the path."


def _in_folder(folder: Path, key: str) -> list[Place]:
    if is_saved(folder):
        return [Place(folder)]
    files = sorted(file for file in folder.iterdir() if kind_of(file)[0] in SUFFIXES and file.is_file())
    named = {file: name for file in files if split_called(name := _SHARD.sub("", file.name.split(".")[0]))}
    if not named:
        holds = f"files such as {files[0].name}" if files else "no table"
        raise DataError(
            f"data.{key}: {folder} is a folder that was not written by save_to_disk; it holds {holds}, and no train, "
            f"validation and test. Name files: data.{key}={folder}/*.csv, say."
        )
    for name in dict.fromkeys(named.values()):
        kinds = {kind_of(file)[0]: file.name for file, called in named.items() if called == name}
        if len(kinds) > 1:
            raise DataError(f"data.{key}: {folder} holds {' and '.join(kinds.values())}. Name the files to read.")
    others = ", ".join(file.name for file in files if file not in named)
    note = f"{folder}: left out, as its name means no split: {others}" if others else ""
    places = [Place(file, name) for file, name in named.items()]
    return [replace(places[0], note=note), *places[1:]]
