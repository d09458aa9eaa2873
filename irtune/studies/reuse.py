"""Trials that an earlier study under the same storage has run: their records are taken over instead."""

import contextlib
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from irtune.config.load import with_overrides
from irtune.config.schema import ExperimentConfig
from irtune.search.source import TrialSpec
from irtune.studies.provenance import code_tags, git_commit
from irtune.studies.resume import known_studies, read_identity
from irtune.studies.trial_names import config_hash
from irtune.tracking.ownership import why_not_own
from irtune.tracking.run_record import DRIVER_RECORD, Ended, RunRecord, now_ms
from irtune.training.record import result_of
from irtune.training.trial_folder import CHECKPOINTS

REUSED = "reused_from"
"""Key of a trial's group: the folder that its records were taken over from."""


def take_over(
    folder: Path, experiment: ExperimentConfig, fingerprint: str, specs: Sequence[TrialSpec]
) -> list[TrialSpec]:
    """Copy what earlier studies measured of these very trials; returns the trials, with where each is from.

    A trial is the same if all of its settings are, its data, and the code: irtune's version and commit, without changes
    that are not committed. Only finished trials in folders of this user count. One that has a folder in the study
    already is left as it is.

    Args:
        folder: Of the study.
        experiment: What the trials vary.
        fingerprint: Of its data.
        specs: Its trials.
    """
    wanted = [spec for spec in specs if not (folder / "trials" / spec.name).exists()]
    if not wanted or git_commit().endswith("-dirty"):
        return list(specs)
    known = _finished(folder, fingerprint)
    found = []
    for spec in specs:
        source = known.get(config_hash(with_overrides(experiment, spec.overrides))) if spec in wanted else None
        if source is not None:
            _copy(source, folder / "trials" / spec.name)
            spec = replace(spec, group={**spec.group, REUSED: str(source)})
        found.append(spec)
    return found


def _finished(folder: Path, fingerprint: str) -> dict[str, Path]:
    """The finished trials of other studies on the same data, by the hash of their settings."""
    trials, found = list[Path](), {}
    for study in known_studies(folder.parent):
        with contextlib.suppress(ValueError):
            if study != folder and why_not_own(study) is None and read_identity(study).data_fingerprint == fingerprint:
                trials += sorted((study / "trials").glob("*"))
    for trial in trials:
        # A damaged record is no reason to fail: its trial runs again.
        with contextlib.suppress(ValueError, OSError):
            record = RunRecord(trial)
            end, tags = record.end(), record.start().tags
            is_over = end is not None and end.status == "FINISHED" and result_of(trial) is not None
            if is_over and code_tags().items() <= tags.items():
                found[tags["irtune.config_hash"]] = trial
    return found


def _copy(source: Path, target: Path) -> None:
    """Whole or not at all: what is copied under another name becomes the trial's folder by its renaming."""
    unfinished = target.with_name(f".{target.name}")
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.copytree(source, unfinished, symlinks=True, ignore=shutil.ignore_patterns(CHECKPOINTS, DRIVER_RECORD))
    RunRecord(unfinished).finish(Ended("FINISHED", {}, None, now_ms()))
    unfinished.rename(target)
