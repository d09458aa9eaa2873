"""Studies on their way to another machine: which files of one travel, what they must not tell, where they arrive."""

import io
import json
import logging
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path
from typing import BinaryIO

import numpy as np
import yaml
from pydantic import TypeAdapter, ValidationError

from irtune.data.label_names import counted
from irtune.files import appearing, open_alone
from irtune.redaction import redact, redacted
from irtune.results.archive import FORMAT, Archive, ArchiveError, Manifest, open_archive, why_unsafe, write_archive
from irtune.results.trial_frame import trial_frame
from irtune.studies.recorded import StudyError, find_study, recorded_trials
from irtune.studies.resume import FORMAT as STUDY_FORMAT
from irtune.studies.resume import IDENTITY, Identity, read_identity
from irtune.studies.trial_record import TrialRecord
from irtune.tracking.heartbeat import is_live
from irtune.tracking.ownership import leads_elsewhere
from irtune.tracking.trace import read_trace
from irtune.training.record import RecordReader

logger = logging.getLogger(__name__)

FRAME, TRACE, SETTINGS = "trials.parquet", "trace.npz", "study.yaml"
"""Files that are made of records for an archive: every trial of the study, the layer trace of each, and the study's
settings as a file to run it again."""

_OF_STUDY = (
    "sweep.json study.journal plan.json claims.json best.yaml run.yaml trials.md report.html response.png pareto.png "
    "finalists.png recommendation.py recommendation.yaml layer_card.json layer_card.png control.json control.yaml "
    "tuning/*.journal results/*.csv results/*.parquet results/*.md results/*.tex results/*.png results/*.pdf "
    f"summary/measured.jsonl summary/driver.jsonl {FRAME} {SETTINGS}"
)
_OF_TRIAL = f"measured.jsonl driver.jsonl predictions.npz layer_importance.png out_of_memory.json {TRACE}"
_OF_ADAPTER = "adapter_config.json adapter_model.safetensors irtune.json README.md predict.py"
TRAVELS = (
    *_OF_STUDY.split(),
    *(f"trials/*/{name}" for name in _OF_TRIAL.split()),
    *(f"trials/*/adapter/{name}" for name in _OF_ADAPTER.split()),
)
"""Patterns of the files that travel: whatever else lies in a study's folder is of its machine, or not irtune's."""

_TEXTS = (".json", ".jsonl", ".journal", ".yaml", ".md", ".html", ".py", ".csv", ".tex")
_LINES = (".jsonl", ".journal")
_IMAGE = re.compile(r"(data:image/png;base64,[A-Za-z0-9+/=]+)")
_NUMBERS = tuple(f'{{"kind":"{kind}",' for kind in ("metrics", "selection", "result"))
"""Lines of a record that hold numbers and names of metrics alone: most of them, and looking through them takes long."""
_SENT = '{"kind":"sent",'


@dataclass(frozen=True)
class Travelled:
    """A study that was exported or imported.

    Args:
        folder: Of the study.
        manifest: Of the archive.
        num_trials: Trials in any state.
        complete: Whether the study has come to its end.
        redacted: Files of which secrets were taken out.
    """

    folder: Path
    manifest: Manifest
    num_trials: int
    complete: bool
    redacted: tuple[str, ...] = ()

    def __str__(self) -> str:
        state = "" if self.complete else ", which has not come to its end"
        size = sum(member.size for member in self.manifest.files.values())
        return (
            f"{self.manifest.kind} {self.manifest.name}{state}: {counted(self.num_trials, 'trial')}, "
            f"{counted(len(self.manifest.files), 'file')}, {size / 2**20:.1f} MiB"
        )


def travels(path: str) -> bool:
    """Tell whether a file of a study's folder travels.

    Args:
        path: Relative to the folder, with ``/`` between its parts.
    """
    parts = path.split("/")
    # What begins with a dot is not whole yet.
    return not any(part.startswith(".") for part in parts) and any(
        len(parts) == pattern.count("/") + 1 and all(map(fnmatchcase, parts, pattern.split("/"))) for pattern in TRAVELS
    )


def export_study(name: str, out: Path, storage: Path, *, adapters: bool = True) -> Travelled:
    """Write what is known of a study into an archive.

    Checkpoints, tokens and what Ray keeps stay behind, so that trials which have not finished begin anew elsewhere.
    So do the notes on what MLflow has: another machine has an MLflow of its own. Secrets are taken out of texts.

    Args:
        name: The study's folder, its name under ``storage``, or its own name, of which it is the newest.
        out: The archive.
        storage: Where studies lie.
        adapters: Whether those that were kept travel too.

    Raises:
        ValueError: There is no such study, it is running, or the archive cannot be written.
    """
    folder = find_study(name, storage).resolve()
    identity = read_identity(folder)
    _refuse_live(folder)
    trials, changed = recorded_trials(folder), list[str]()

    def files() -> Iterator[tuple[str, BinaryIO]]:
        for path in _paths(folder):
            if adapters or "/adapter/" not in path:
                yield path, _opened(folder, path, changed)
        for trial in trials:
            trace = _trace(trial.folder)
            if trace is not None:
                yield f"trials/{trial.name}/{TRACE}", trace
        yield FRAME, _as_parquet(trials)
        settings = _settings(folder)
        if settings is not None:
            yield SETTINGS, settings
        # A driver that began meanwhile may have changed any of them.
        _refuse_live(folder)

    manifest = write_archive(
        out, lambda members: Manifest(FORMAT, version("irtune"), folder.name, identity.kind, members), files()
    )
    return Travelled(folder, manifest, len(trials), identity.complete, tuple(changed))


def import_study(file: Path, storage: Path) -> Travelled:
    """Put an exported study under a storage, under its own name; it is whole there, or nothing of it is.

    Args:
        file: The archive.
        storage: Where studies lie; made if absent.

    Raises:
        ArchiveError: The archive is not as ``export_study`` writes one, or there is no place for the study.
    """
    with open_archive(file, travels) as archive:
        manifest, identity = archive.manifest, _identity(archive, file)
        folder = storage / manifest.name
        if folder.exists() or folder.is_symlink():
            raise ArchiveError(
                f"{folder}: a study of this name lies there already; move it aside (a later archive of it holds all "
                "that an earlier one did), or import into another --storage"
            )
        archive.check()
        try:
            _check_room(storage, archive.num_bytes)
            with appearing(folder) as partial:
                # A folder without it is no study, so that nobody meets a part of one.
                archive.extract(partial, last=IDENTITY)
        except OSError as error:
            raise ArchiveError(
                f"{folder}: cannot be written ({error}); make room, or give another --storage"
            ) from error
    trials = {path.split("/")[1] for path in manifest.files if path.startswith("trials/")}
    return Travelled(folder, manifest, len(trials), identity.complete)


def _paths(folder: Path) -> list[str]:
    """The files of a study that travel, but for those that are made for it."""
    found = []
    for file in sorted(file for pattern in TRAVELS for file in folder.glob(pattern)):
        path = file.relative_to(folder).as_posix()
        if not travels(path) or path in (FRAME, SETTINGS) or file.name == TRACE:
            continue
        wrong = why_unsafe(path) or leads_elsewhere(folder, file)
        if wrong is None:
            found.append(path)
        else:
            logger.warning("%s does not travel: %s", file, wrong)
    return found


def _identity(archive: Archive, file: Path) -> Identity:
    if IDENTITY not in archive.manifest.files:
        raise ArchiveError(f"{file}: has no {IDENTITY}, so it holds no study; have it exported again")
    try:
        identity = TypeAdapter(Identity).validate_json(archive.content(IDENTITY))
    except ValidationError as error:
        raise ArchiveError(f"{file}: its {IDENTITY} is damaged; have it exported again") from error
    if identity.format != STUDY_FORMAT:
        raise ArchiveError(
            f"{file}: another version of irtune ran the study in it (its {IDENTITY} is of format {identity.format}; "
            f"this one reads {STUDY_FORMAT}); use that version"
        )
    return identity


def _refuse_live(folder: Path) -> None:
    if is_live(folder):
        raise StudyError(
            f"{folder}: is running, and its files change; wait until it has ended, or stop it, then export"
        )


def _check_room(storage: Path, num_bytes: int) -> None:
    there = next(place for place in (storage, *storage.absolute().parents) if place.is_dir())
    free = shutil.disk_usage(there).free
    if num_bytes > free:
        raise ArchiveError(
            f"{storage}: the study takes {num_bytes:,} bytes, and {free:,} are free; make room, or name another "
            "--storage"
        )


def _opened(folder: Path, path: str, changed: list[str]) -> BinaryIO:
    """A file to read: a text without its secrets, whose path is then added to ``changed``."""
    opened = open_alone(folder / path)
    if not path.endswith(_TEXTS):
        return opened
    with opened:
        text = opened.read().decode("utf-8", errors="surrogateescape")
    if path.endswith("driver.jsonl"):
        text = "".join(line for line in _lines(text) if not line.startswith(_SENT))
    public = _public(path, text)
    if public != text:
        changed.append(path)
    return io.BytesIO(public.encode("utf-8", errors="surrogateescape"))


def _lines(text: str) -> Iterator[str]:
    # Other than ``splitlines`` it splits at line feeds alone.
    yield from io.StringIO(text, newline="\n")


def _public(path: str, text: str) -> str:
    if path.endswith(_LINES):
        return "".join(line if line.startswith(_NUMBERS) else _public_json(line) for line in _lines(text))
    if path.endswith(".json"):
        return _public_json(text)
    # What is drawn in a page is no text, and may look like a token by chance.
    return "".join(part if _IMAGE.fullmatch(part) else redact(part) for part in _IMAGE.split(text))


def _public_json(text: str) -> str:
    if redact(text) == text:
        return text
    try:
        return json.dumps(redacted(json.loads(text))) + "\n" * text.endswith("\n")
    except (ValueError, RecursionError):
        return redact(text)


def _trace(folder: Path) -> BinaryIO | None:
    """The layer trace of a trial; None where it chose no blocks, or its records are damaged."""
    try:
        arrays = read_trace(folder)
    except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
        logger.warning("%s: its trace cannot be read (%s)", folder, error)
        return None
    content = io.BytesIO()
    np.savez_compressed(content, allow_pickle=False, **arrays)
    content.seek(0)
    return content if len(arrays["step"]) else None


def _settings(folder: Path) -> BinaryIO | None:
    """All settings of a study that was summed up."""
    trees = [record.get("settings") for record in RecordReader(folder / "summary") if record["kind"] == "params"]
    if not trees or not trees[-1]:
        return None
    return io.BytesIO(yaml.safe_dump(redacted(trees[-1]), sort_keys=False).encode())


def _as_parquet(trials: Sequence[TrialRecord]) -> BinaryIO:
    content = io.BytesIO()
    trial_frame(trials).to_parquet(content, index=False)
    content.seek(0)
    return content
