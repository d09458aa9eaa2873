"""The origin of results: versions, machine and commit."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from irtune.redaction import public_address, redact

if TYPE_CHECKING:
    from irtune.config.study_schema import StudyConfig
    from irtune.studies.plan import Compared
    from irtune.studies.preflight import Study

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


def origin_of(study: "Study[StudyConfig]", file: str, compared: "Compared") -> dict[str, str]:
    """Return the origin of a study's results, by name: versions and machine, data and model, predictions.

    Args:
        study: Which.
        file: A name for its file.
        compared: What was predicted of it beside what it took.
    """
    return environment() | {
        "data fingerprint": study.ready.fingerprint(),
        "model": redact(study.config.model.name),
        file: redact(study.source),
        "MLflow": public_address(study.ready.tracking_uri),
        **{f"predicted: {name}": f"{predicted}, actually {took}" for name, predicted, took, _ in compared[0]},
    }
