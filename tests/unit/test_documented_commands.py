"""The sweeps of README and docs/ can be read: every command loads, and its space fits its method and policy."""

import re
import shlex
from pathlib import Path

import pytest

from irtune.cli.to_look import RUN
from irtune.config.load import load, parse_overrides
from irtune.config.sweep_schema import SweepConfig
from irtune.methods import METHODS
from irtune.search.space_checks import check_space

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands() -> list[str]:
    """Every command that starts a sweep, in one line."""
    found = []
    for document in DOCUMENTS:
        for block in re.findall(r"```bash\n(.*?)```", document.read_text(encoding="utf-8"), flags=re.DOTALL):
            lines = re.sub(r"\\\n", " ", block).splitlines()
            found += [line for line in lines if re.search(r"(irtune sweep|jobs/sweep\.py) \S*search_spaces", line)]
    return found


def read(command: str) -> SweepConfig:
    words = shlex.split(command, comments=True)
    after = words[next(i for i, word in enumerate(words) if word.startswith("search_spaces/")) :]
    return load(SweepConfig, ROOT / after[0], parse_overrides(word for word in after[1:] if "=" in word))


@pytest.mark.parametrize("command", commands())
def test_a_documented_sweep_is_sound(command: str) -> None:
    assert check_space(read(command)) == []


def test_they_are_found() -> None:
    assert len(commands()) >= 4
    assert read(next(one for one in commands() if "Qwen3" in one)).tune.num_trials == 40


@pytest.mark.parametrize("method", METHODS)
def test_the_command_that_compares_a_method_is_sound(method: str) -> None:
    assert check_space(read(f"{RUN} method={method}")) == []
