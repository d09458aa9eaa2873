"""The winner of a study that has ended, in MLflow's registry."""

import logging
from functools import partial

from irtune.config.study_schema import StudyConfig
from irtune.files import once_there_is_room
from irtune.studies.adapters import ROOM_S
from irtune.studies.preflight import Study
from irtune.studies.recorded import absent_adapter, find_trial
from irtune.tracking.run_record import RunRecord
from irtune.tracking.uploader import Uploader
from irtune.training.record import ADAPTER

logger = logging.getLogger(__name__)


def register_winner(study: Study[StudyConfig], uploader: Uploader) -> str | None:
    """Let the uploader register the model of a study's best trial, where ``tracking.register_winner`` asks for it.

    It is the trial whose adapter ``irtune predict STUDY`` takes. What was asked for before is not asked for again, so
    that a study that is resumed after its end makes no second version.

    Returns:
        What is registered, in words; None where nothing is.
    """
    wanted = study.config.tracking.register_winner
    if not wanted:
        return None
    name = study.config.name if wanted is True else wanted
    try:
        trial = find_trial(str(study.folder), study.folder.parent)
        adapter, record = trial.folder / ADAPTER, RunRecord(trial.folder)
        if not adapter.is_dir():
            raise FileNotFoundError(absent_adapter(trial.folder))
        if all(artifact.get("register") != name for artifact in record.artifacts()):
            once_there_is_room(partial(record.add_artifact, adapter, ADAPTER, name), trial.folder, ROOM_S)
            uploader.resend(record)
    except (OSError, ValueError) as error:
        logger.warning("%s: its winner is not registered: %s", study.folder, error)
        return None
    return f"models:/{name}@champion: {trial.name}"
