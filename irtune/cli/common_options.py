"""Options that several commands have."""

import argparse
from pathlib import Path

from irtune.config.schema import ExperimentConfig

STORAGE = str(ExperimentConfig.model_fields["storage"].default)
"""The folder of studies unless told otherwise."""


def add_overrides(command: argparse.ArgumentParser) -> None:
    """Let a command take settings by dotted key."""
    command.add_argument(
        "overrides", nargs="*", metavar="dotted.key=value", help="settings that replace those of the file"
    )


def add_ways_to_run(command: argparse.ArgumentParser) -> None:
    """Let a command go on with a study, begin one, or only plan it."""
    resume = command.add_mutually_exclusive_group()
    resume.add_argument(
        "--resume", action="store_const", const="always", default="ask", help="go on with the last one of this name"
    )
    resume.add_argument("--new", dest="resume", action="store_const", const="never", help="begin a new one")
    command.add_argument(
        "--plan", action="store_true", help="say what would be done, how long and where, and do nothing"
    )


def add_storage(command: argparse.ArgumentParser, of: str = "studies") -> None:
    """Let a command say where studies lie."""
    command.add_argument("--storage", type=Path, help=f"where {of} lie (default: {STORAGE})")


def storage_of(options: argparse.Namespace) -> Path:
    """The folder of studies."""
    storage: Path = (options.storage or Path(STORAGE)).expanduser().resolve()
    return storage


def is_override(argument: str) -> bool:
    """Tell a setting from a file."""
    return "=" in argument and not Path(argument).exists()
