"""What results come from: versions, machine and commit."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("irtune", "torch", "transformers", "peft", "deepspeed", "ray", "optuna", "mlflow")


def git_commit() -> str:
    """The commit of the working directory, or of the checkout that irtune lies in; ``unknown`` outside of one."""
    for folder in (Path.cwd(), Path(__file__).parent):
        try:
            found = subprocess.run(
                ["git", "describe", "--always", "--dirty", "--abbrev=12"],
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=10,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            continue
        return found.stdout.strip()
    return "unknown"


def code_tags() -> dict[str, str]:
    """The tags of a run that say which code made it."""
    return {"irtune.git_commit": git_commit(), "irtune.version": version("irtune")}


def environment() -> dict[str, str]:
    """Versions and machine, by name."""
    return {name: version(name) for name in PACKAGES} | {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        "git commit": git_commit(),
    }
