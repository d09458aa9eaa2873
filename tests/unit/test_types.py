"""What a type checker knows of irtune's public names, which are loaded late."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import irtune

OPEN = ["torch", "numpy", "transformers", "pydantic", "matplotlib", "yaml", "ray", "deepspeed", "peft", "datasets"]
OPEN += ["pandas", "scipy", "sklearn", "optuna", "mlflow", "rich"]
"""Libraries whose types are not looked at here, for the sake of time."""

MISTAKES = """
callback = irtune.IRTuningCallback("lisa", k=4)
reveal_type(callback.release())
irtune.IRTuningCallback("lisa", reselect_every="often")
irtune.IRTuningCallbak("lisa")
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What mypy says of a script of a user, by line."""
    folder = tmp_path_factory.mktemp("types")
    names = [f"reveal_type(irtune.{name})" for name in irtune.__all__]
    (folder / "script.py").write_text("\n".join(["import irtune", *names]) + MISTAKES)
    skipped = f"[mypy-{','.join(f'{name}.*' for name in OPEN)}]\nfollow_imports = skip\n"
    settings = f"[mypy]\nstrict = True\nfollow_imports = silent\nignore_missing_imports = True\n{skipped}"
    (folder / "mypy.ini").write_text(settings)
    command = [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "script.py"]
    environment = os.environ | {"MYPYPATH": str(Path(irtune.__file__).parents[1]), "PYTHONPATH": ""}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 1, done.stdout + done.stderr
    lines = (folder / "script.py").read_text().splitlines()
    found = re.findall(r"^script\.py:(\d+): \w+: (.*)$", done.stdout, flags=re.MULTILINE)
    return {lines[int(number) - 1]: message for number, message in found}


def test_every_public_name_has_a_type(said):
    for name in irtune.__all__:
        revealed = said[f"reveal_type(irtune.{name})"]
        assert revealed.startswith(('Revealed type is "def ', 'Revealed type is "Overload(def ')), revealed
    assert "-> irtune.layers.hf_callback.IRTuningCallback" in said["reveal_type(irtune.IRTuningCallback)"]
    assert "reselect_every: int | None =" in said["reveal_type(irtune.IRTuningCallback)"]


def test_mistakes_are_found_before_they_run(said):
    assert said["reveal_type(callback.release())"] == 'Revealed type is "None"'
    assert '"reselect_every"' in said['irtune.IRTuningCallback("lisa", reselect_every="often")']
    assert 'no attribute "IRTuningCallbak"' in said['irtune.IRTuningCallbak("lisa")']


def test_what_type_checkers_read_is_what_runs():
    tree = ast.parse(Path(irtune.__file__).read_text(encoding="utf-8"))
    read = {
        alias.asname or alias.name: (node.module, alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module.startswith("irtune.")
        for alias in node.names
    }
    homes = {name: home.partition(":") for name, home in irtune._HOMES.items()}
    assert len(homes) == len(read)
    assert read == {there or name: (home, there or name) for name, (home, _, there) in homes.items()}
