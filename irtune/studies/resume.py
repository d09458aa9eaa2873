"""Going on with a sweep: what a later driver needs, and why another sweep is refused."""

import re
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from irtune.config.load import ConfigError, dotted_keys, storage_path
from irtune.config.study_schema import StudyConfig
from irtune.files import once_there_is_room, read_json, write_json
from irtune.redaction import redacted
from irtune.tracking.address import ADDRESS
from irtune.tracking.heartbeat import is_live
from irtune.tracking.ownership import why_not_own

Resume = Literal["ask", "always", "never"]
"""Going on with an earlier sweep of the same name: ``ask`` does with one that did not come to its end, and asks first
if somebody sits at a terminal."""

IDENTITY = "sweep.json"
FORMAT = 2
"""Two records in a trial's folder; what was written before had several files and a folder."""

FREE_SETTINGS = {
    "name",
    "storage",
    "tune.num_trials",
    "tune.max_concurrent_trials",
    "tune.time_budget_s",
    "tune.max_failures",
    "tune.execution",
    "tune.renew_after",
    "engine.threads_per_worker",
    "tune.warm_start",
    "tune.finalists",
    "tune.finalists.top",
    "tune.finalists.seeds",
    "tracking.keep_adapters",
    "tracking.upload_adapters",
    "tracking.register_winner",
    "tracking.system_metrics",
    "ablation.seeds",
}
"""Settings that may be others in a resumed sweep: they change how many trials run, where, at once and after what, but
none of them."""

_OF_ITS_STORE = ("tracking.uri", "tracking.experiment")
"""Settings that may be others where MLflow has nothing of the study yet, as after an import."""

Kind = Literal["sweep", "ablation", "run"]
"""Of a study, as the classes of its configuration call it."""


@dataclass(frozen=True)
class Identity:
    """The identity of a study.

    Args:
        settings: By dotted key, those left out that may change.
        data_fingerprint: Of its data.
        complete: Whether it has come to its end.
        format: How its trials are kept on disk; what says none is of a version that kept them otherwise.
    """

    settings: dict[str, Any]
    data_fingerprint: str
    complete: bool
    format: int = 1

    @property
    def kind(self) -> Kind:
        """What the study is, by its settings."""
        if any(key.startswith("ablation.") for key in self.settings):
            return "ablation"
        return "sweep" if "tune.metric" in self.settings else "run"


def write_identity(folder: Path, config: StudyConfig, fingerprint: str, *, complete: bool = False) -> None:
    """Write down what a sweep is, and whether it has come to its end."""
    identity = Identity(_settings(config), fingerprint, complete, FORMAT)
    once_there_is_room(lambda: write_json(folder / IDENTITY, identity), folder / IDENTITY)


def new_folder(config: StudyConfig) -> Path:
    """Make the folder of a sweep that begins; of two that begin in one second, one is called by the next."""
    began_s = time.time()
    while True:
        folder = storage_path(config) / f"{config.name}-{time.strftime('%Y%m%d-%H%M%S', time.localtime(began_s))}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            began_s += 1
        else:
            return folder


def command_line(*more: str) -> str:
    """The command of this process without what says to begin or to go on; ``--resume`` as ``more`` goes on with it."""
    program = ["python"] * sys.argv[0].endswith(".py") + sys.argv
    return shlex.join([*(each for each in program if each not in ("--new", "--resume")), *more])


def sweep_to_resume(
    config: StudyConfig,
    fingerprint: str,
    resume: Resume,
    *,
    source: str,
    console: Console,
) -> Path | None:
    """The folder of the earlier sweep to go on with; None to begin a new one.

    Of sweeps of this name it is the newest that did not come to its end; with ``always`` one that did will do, since
    more trials may be wanted.

    Args:
        config: The sweep, with absolute paths.
        fingerprint: Of its data.
        resume: Whether to go on at all.
        source: The file it came from, for messages.
        console: Where to ask, or to say what is done.

    Raises:
        ConfigError: If ``always`` finds no sweep of this name, or one that is another sweep, or that still runs.
        ValueError: If ``always`` finds one of this name whose file is damaged; ``ask`` leaves it alone, with a note.
    """
    if resume == "never":
        return None
    earlier = studies_called(config.name, storage_path(config))
    if resume == "ask":
        earlier = [folder for folder in earlier if _may_go_on(folder, console)]
    folder = max(earlier, key=_rank, default=None)
    if resume == "always":
        return _checked(folder, config, fingerprint, source)
    if folder is None or _identity(folder).complete or is_live(folder):
        return None
    different = _differences(folder, config, fingerprint)
    if different:
        console.out(
            f"note: {folder.name} did not come to its end, but is another sweep: {'; '.join(different)}",
            highlight=False,
        )
        return None
    question = f"{folder.name} did not come to its end. Go on with it? [Y/n] "
    if console.is_terminal and console.input(question) not in ("", "y", "Y", "yes"):
        return None
    console.out(f"note: going on with {folder.name}; --new begins a new {config.kind}", highlight=False)
    return folder


def _checked(folder: Path | None, config: StudyConfig, fingerprint: str, source: str) -> Path:
    if folder is None:
        mistakes = [
            f"name: no {config.kind} called {config.name!r} lies under {storage_path(config)}; leave out --resume"
        ]
    elif is_live(folder):
        mistakes = [f"name: {folder.name} is running; wait for it, or stop it first"]
    else:
        mistakes = _differences(folder, config, fingerprint)
        if mistakes and _identity(folder).format != FORMAT:
            mistakes = [f"name: {folder.name}: {mistakes[0]}; go on with that version, or begin anew with --new"]
        elif mistakes:
            mistakes += [f"so {folder.name} cannot be resumed; set them back, or begin anew with --new"]
    if folder is None or mistakes:
        raise ConfigError(source, mistakes)
    return folder


def studies_called(name: str, storage: Path) -> list[Path]:
    """The folders of the studies of this name under a storage, the oldest first."""
    of_this_name = re.compile(re.escape(name) + r"-\d{8}-\d{6}")
    return [folder for folder in known_studies(storage) if of_this_name.fullmatch(folder.name)]


def known_studies(storage: Path) -> list[Path]:
    """The folders of all studies under a storage."""
    # One whose name begins with a dot is being imported.
    return sorted(file.parent for file in storage.glob(f"[!.]*/{IDENTITY}"))


def read_identity(folder: Path) -> Identity:
    """Read the identity of a study.

    Raises:
        ValueError: The file is damaged, or another version of irtune wrote it.
    """
    identity = _identity(folder)
    if identity.format != FORMAT:
        raise ValueError(f"{folder}: {_of_other_version(identity)}; use that version")
    return identity


def is_tracked(folder: Path) -> bool:
    """Tell whether a driver on this machine has said where a study's runs belong; of one just imported none has."""
    return (folder / ADDRESS).is_file()


def _may_go_on(folder: Path, console: Console) -> bool:
    """Tell whether a folder is this user's own and can be read, with a note where it is not."""
    reason = None
    if (foreign := why_not_own(folder)) is not None:
        reason = f"it {foreign}; --resume goes on with it all the same"
    else:
        try:
            _identity(folder)
        except ValueError as error:
            reason = str(error)
    if reason is not None:
        console.out(f"note: {folder.name} is left alone: {reason}", highlight=False)
    return reason is None


def _differences(folder: Path, config: StudyConfig, fingerprint: str) -> list[str]:
    """Differences of a sweep from what its first driver knew, in words."""
    identity = _identity(folder)
    if identity.format != FORMAT:
        return [_of_other_version(identity)]
    before, now = redacted(identity.settings), _settings(config)
    free = () if is_tracked(folder) else _OF_ITS_STORE
    differing = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    keys = [key for key in differing if key not in free and not _places_data(key)]
    different = [f"{key}: {_said(before, key)} before, {_said(now, key)} now" for key in keys]
    if identity.data_fingerprint != fingerprint:
        different.append(f"data: other examples than before (fingerprint {identity.data_fingerprint})")
    return different


def _places_data(key: str) -> bool:
    """Tell whether a setting says where data lies; whether it is the same data, its fingerprint says."""
    return key.startswith(("data.", "ablation.corpora.")) and key.endswith("path")


def _of_other_version(identity: Identity) -> str:
    return f"another version of irtune wrote it (format {identity.format}; this one reads {FORMAT})"


def _rank(folder: Path) -> tuple[bool, bool, str]:
    """The highest is gone on with."""
    identity = _identity(folder)
    return identity.format == FORMAT, not identity.complete, folder.name


def _identity(folder: Path) -> Identity:
    return read_json(folder / IDENTITY, Identity)


def _settings(config: StudyConfig) -> dict[str, Any]:
    settings = {key: value for key, value in dotted_keys(config).items() if key not in FREE_SETTINGS}
    return dict(redacted(settings))


def _said(settings: dict[str, Any], key: str) -> str:
    return repr(settings[key]) if key in settings else "absent"
