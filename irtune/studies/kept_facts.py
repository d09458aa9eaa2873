"""What models and texts were found to be, kept in irtune's home, since asking again imports torch and transformers.

A fact is kept under everything that it depends on: the checkpoint's files, irtune's own, the versions of the libraries
that answered, and what was asked. Mistakes are never kept.
"""

import contextlib
import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import irtune
from irtune.config.schema import AdapterConfig
from irtune.files import read_alone, write_whole
from irtune.home import home
from irtune.layers import Blocks

LIBRARIES = ("torch", "transformers", "peft", "tokenizers")
MOST_FACTS = 1000
"""The oldest beyond these are deleted."""


@dataclass(frozen=True)
class ShapeAlone:
    """A parameter of which nothing is known but its shape."""

    shape: tuple[int, ...]

    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def blocks_of(checkpoint: Path, adapter: AdapterConfig) -> Blocks | None:
    """What trains in each block of a model with an adapter; parameters are ``ShapeAlone``.

    Returns:
        None where the tuner looks at weights as it is made, which shapes have not.

    Raises:
        ValueError: If the adapter cannot be put on the model.
    """
    tree = kept(lambda: _shapes(checkpoint, adapter), checkpoint, "blocks", adapter.model_dump_json())
    if tree is None:
        return None
    return Blocks(tree["name"], tuple(map(_named, tree["per_block"])), _named(tree["shared"]))


def kept(ask: Callable[[], Any], checkpoint: Path, *asked: str) -> Any:
    """Return the answer of ``ask``, JSON, or what it was before.

    Args:
        ask: Finds out.
        checkpoint: The model's folder.
        asked: What else the answer depends on.

    Raises:
        ValueError: As ``ask`` does.
    """
    key = json.dumps([_files(checkpoint), _here(), asked])
    folder = home() / "facts"
    file = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
    with contextlib.suppress(OSError, ValueError):
        return json.loads(read_alone(file))
    answer = ask()
    # A home that cannot be written to costs time only.
    with contextlib.suppress(OSError):
        write_whole(file, json.dumps(answer), durable=False)
        by_age = sorted(folder.glob("*.json"), key=lambda other: other.stat().st_mtime)
        for old in by_age[:-MOST_FACTS]:
            old.unlink(missing_ok=True)
    return answer


def _shapes(checkpoint: Path, adapter: AdapterConfig) -> Any:
    from irtune.layers import map_parameters
    from irtune.training.model import shapes_only

    try:
        blocks = map_parameters(shapes_only(checkpoint, adapter))
    except RuntimeError:
        return None
    per_block = [[(name, list(p.shape)) for name, p in block] for block in blocks.per_block]
    return {"name": blocks.name, "per_block": per_block, "shared": [(n, list(p.shape)) for n, p in blocks.shared]}


def _named(tree: Any) -> tuple[tuple[str, Any], ...]:
    return tuple((name, ShapeAlone(tuple(shape))) for name, shape in tree)


def _files(folder: Path) -> list[tuple[str, int, int]]:
    """Every file under a folder, with what changes when it does."""
    found = [(path, path.stat()) for path in sorted(folder.rglob("*")) if path.is_file()]
    return [(str(path), stat.st_size, stat.st_mtime_ns) for path, stat in found]


@cache
def _here() -> list[Any]:
    """What answers: irtune as it is now, and its libraries."""
    own = [each for each in _files(Path(irtune.__file__).parent) if each[0].endswith(".py")]
    versions = []
    for library in LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):
            versions.append((library, version(library)))
    return [hashlib.sha256(json.dumps(own).encode()).hexdigest(), versions]
