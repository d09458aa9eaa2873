"""Who may know whom: the rooms of irtune import one way, and light ones stay light."""

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import irtune

PACKAGE = Path(irtune.__file__).parent

FOUNDATION = {"plugins", "home", "files", "methods", "processor", "redaction"}
SCIENCE = FOUNDATION | {"importance", "selection", "layers", "data", "analysis"}
ALLOWED = {
    "plugins": set(),
    "home": set(),
    "files": set(),
    "methods": set(),
    "processor": set(),
    "redaction": set(),
    "analysis": set(),
    "importance": {"plugins"},
    "selection": {"plugins", "importance"},
    "layers": {"plugins", "methods", "importance", "selection"},
    "data": {"plugins", "files", "redaction"},
    "config": SCIENCE,
    "training": SCIENCE | {"config"},
    "tracking": SCIENCE | {"config", "training"},
    "search": SCIENCE | {"config", "training"},
    "workers": SCIENCE | {"config", "training", "tracking", "search"},
    "studies": SCIENCE | {"config", "training", "tracking", "search", "workers"},
    "results": SCIENCE | {"config", "training", "tracking", "search", "workers", "studies"},
    "cli": SCIENCE | {"config", "training", "tracking", "search", "workers", "studies", "results"},
}
"""Room -> the rooms that it may import beside itself."""

HOMES = {
    "ray": {"search", "workers", "studies"},
    "optuna": {"search", "studies", "cli"},
    "mlflow": {"tracking"},
    "deepspeed": {"training"},
    "transformers": {"training"},
    "peft": {"training"},
    "torch": {"importance", "layers", "training"},
}
"""Library -> the rooms that may import it, anywhere in their files."""

ADAPTERS = {("transformers", "layers/hf_callback.py")}
"""Library and the one file of another room that exists to work with it."""


def imports(file, module, is_package):
    """Dotted names of everything that a file imports, at any depth, for the types alone too."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = module if is_package else module.rpartition(".")[0]
            for _ in range(node.level - 1):
                above = above.rpartition(".")[0]
            source = ".".join(filter(None, (above, node.module))) if node.level else node.module
            # ``from irtune import selection`` names a room only with what is imported.
            yield from (f"{source}.{alias.name}" for alias in node.names)


def all_imports():
    """``(room, file, imported name)`` for every import of every module; the room of ``irtune/x.py`` is ``x``."""
    found = []
    for file in sorted(PACKAGE.rglob("*.py")):
        path = file.relative_to(PACKAGE)
        if path == Path("__init__.py"):
            continue
        room = path.parts[0].removesuffix(".py")
        is_package = path.name == "__init__.py"
        dotted = ".".join(["irtune", *path.with_suffix("").parts]).removesuffix(".__init__")
        found += [(room, str(path), name) for name in imports(file, dotted, is_package)]
    return found


ALL_IMPORTS = all_imports()


def room_of(name):
    """The room of an imported name; "" for what is not of irtune."""
    parts = name.split(".")
    return parts[1] if parts[0] == "irtune" and len(parts) > 1 else ""


def test_every_room_has_its_place():
    assert {room for room, _, _ in ALL_IMPORTS} <= set(ALLOWED)
    assert {room for room in ALLOWED if (PACKAGE / room).is_dir() or (PACKAGE / f"{room}.py").is_file()} == set(ALLOWED)


def test_no_two_modules_have_one_name():
    names = Counter(file.name for file in PACKAGE.rglob("*.py") if file.name != "__init__.py")
    assert [name for name, count in names.items() if count > 1] == []


def test_rooms_import_one_way():
    upwards = [
        f"{file} imports {name}"
        for room, file, name in ALL_IMPORTS
        if room_of(name) and room_of(name) not in ALLOWED[room] | {room}
    ]
    assert not upwards


def test_what_rooms_import_is_seen(tmp_path):
    edges = {(room, room_of(name)) for room, _, name in ALL_IMPORTS}
    assert {
        ("selection", "importance"),
        ("layers", "selection"),
        ("training", "config"),
        ("cli", "studies"),
        ("studies", "search"),
        ("results", "studies"),
    } <= edges
    assert len({file for _, file, _ in ALL_IMPORTS}) > 50

    file = tmp_path / "source.py"
    lines = [
        "from . import base",
        "from ..search import space",
        "import ray.tune",
        "def f():",
        "  from irtune import cli",
    ]
    file.write_text("\n".join(lines))
    assert set(imports(file, "irtune.selection.all_blocks", is_package=False)) == {
        "irtune.selection.base",
        "irtune.search.space",
        "ray.tune",
        "irtune.cli",
    }
    file.write_text("from .base import x")
    assert list(imports(file, "irtune.selection", is_package=True)) == ["irtune.selection.base.x"]


def test_libraries_are_known_in_their_rooms_only():
    strays = [
        f"{file} imports {name}"
        for room, file, name in ALL_IMPORTS
        if (library := name.split(".")[0]) in HOMES
        and room not in HOMES[library]
        and (library, Path(file).as_posix()) not in ADAPTERS
    ]
    assert not strays
    assert {name.split(".")[0] for _, _, name in ALL_IMPORTS} >= set(HOMES)


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import irtune", ["ray", "mlflow", "deepspeed", "torch", "transformers", "optuna"]),
        (
            "import irtune.results.watch, irtune.results.listing, irtune.results.cleaning",
            ["torch", "ray", "optuna", "mlflow", "transformers", "pandas", "matplotlib"],
        ),
        ("import irtune.methods", ["pydantic", "numpy", "torch", "yaml"]),
        ("import irtune.selection, irtune.importance", ["torch", "ray", "mlflow", "sklearn"]),
        ("import irtune.training.record", ["mlflow", "ray", "torch", "deepspeed", "transformers"]),
        ("import irtune.tracking.run_record, irtune.tracking.trace", ["mlflow", "ray", "torch"]),
        ("import irtune.config.load, irtune.data", ["torch", "ray", "mlflow", "transformers"]),
        ("import irtune.cli", ["torch", "ray", "mlflow", "deepspeed"]),
        ("import irtune.tracking.uploader, irtune.tracking.model_script", ["torch", "ray", "transformers", "peft"]),
        ("import irtune.layers, irtune.layers.blocks", ["torch"]),
        ("import irtune.training.pretrained, irtune.training.measurable", ["torch", "transformers", "peft"]),
        ("import irtune.results.together", ["torch", "transformers", "peft", "ray", "mlflow", "deepspeed"]),
        ("import irtune.results.travel", ["torch", "transformers", "peft", "ray", "mlflow", "deepspeed", "matplotlib"]),
        ("import irtune.studies.preflight", ["torch", "transformers", "peft", "ray", "mlflow", "deepspeed", "psutil"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_light_imports_stay_light(statement, absent):
    check = f"import sys; {statement}; print(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True, timeout=60)
    loaded = set(done.stdout.split())
    assert "irtune" in loaded
    assert not loaded & set(absent)


def test_public_names_are_there_when_they_are_used():
    assert {"ExperimentConfig", "IRTuningCallback", "SelectionPolicy", "run"} <= set(irtune.__all__)
    found = {name: getattr(irtune, name).__name__ for name in irtune.__all__}
    assert found == {name: "load" if name == "load_config" else name for name in irtune.__all__}
    with pytest.raises(AttributeError, match="module 'irtune' has no attribute 'nothing'"):
        _ = irtune.nothing
