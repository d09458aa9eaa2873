"""A trial as a model of MLflow's own: what is logged, its links to run and data, its adapter, and the registry."""

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus, Metric
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, Schema
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

from irtune.tracking.address import quoted
from irtune.tracking.contained import files_inside
from irtune.tracking.run_record import KEY_TAG
from irtune.training.adapter_notes import AdapterNotes
from irtune.training.record import ADAPTER

logger = logging.getLogger(__name__)

CHAMPION = "champion"
"""The alias of the version that is registered last."""

FILES_TAG = "irtune.files"
"""Of a model: ``adapter`` where its files are in MLflow, otherwise why not. Models of earlier versions lack it."""

_SCRIPT = Path(__file__).with_name("model_script.py")


@dataclass(frozen=True)
class Origin:
    """The run that a model comes from, as MLflow has it.

    Args:
        experiment_id: MLflow's id of the experiment.
        run_id: MLflow's id of the run.
        tags: Of the run, for the model to be found by.
        params: Of the run.
        metrics: Its final scores and costs, which the model gets too.
        data: Name and digest of its data; None where the run has no such input.
    """

    experiment_id: str
    run_id: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Sequence[Metric]
    data: tuple[str, str] | None


def log_model(client: MlflowClient, origin: Origin, *, is_new: bool = False) -> LoggedModel:
    """Log a run as a model without files; where that was done before, nothing is, and what was begun is ended.

    Args:
        client: Of the store that has the run.
        origin: The run.
        is_new: The run has no model for certain, and none is searched for, which takes as long as there are models.

    Returns:
        The model, to be found by its scores; ``add_files`` makes it one to be loaded.

    Raises:
        MlflowException: MLflow cannot be reached, or what else its client raises.
    """
    model = None if is_new else model_of(client, origin.experiment_id, origin.run_id)
    if model is None:
        model = client.create_logged_model(
            origin.experiment_id,
            ADAPTER,
            origin.run_id,
            tags={**origin.tags, FILES_TAG: _why_no_files(origin)},
            params=dict(origin.params),
            model_type="text-classification",
        )
    if model.status == LoggedModelStatus.READY:
        return model
    if FILES_TAG not in model.tags:
        # An earlier version began it, and may not have sent all of its files.
        client.set_logged_model_tags(model.model_id, {FILES_TAG: _why_no_files(origin)})
    _link(client, origin, model.model_id, is_new=is_new)
    return client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)


def add_files(client: MlflowClient, model: LoggedModel, folder: Path, path: str) -> None:
    """Give a model its adapter, so that it can be loaded; one that has its files is left as it is.

    The base model is not copied: the adapter's ``irtune.json`` says where it is.

    Args:
        client: Of the store that has the model.
        model: As ``log_model`` returned it.
        folder: The run's folder.
        path: Of the adapter in it.

    Raises:
        AdapterFolderError: It is no adapter that irtune can load again.
        MlflowException: MLflow cannot be reached, or what else its client raises.
    """
    if has_files(model):
        return
    with TemporaryDirectory(prefix="irtune-model-") as temporary:
        adapter, target = Path(temporary) / ADAPTER, Path(temporary) / "model"
        _copy(folder, path, adapter)
        _write(adapter, AdapterNotes.read(adapter), model, target)
        client.log_model_artifacts(model.model_id, str(target))
    client.set_logged_model_tags(model.model_id, {FILES_TAG: ADAPTER})


def has_files(model: LoggedModel) -> bool:
    """Whether a model that is ready can be loaded."""
    return bool(model.tags.get(FILES_TAG, ADAPTER) == ADAPTER)


def model_of(client: MlflowClient, experiment_id: str, run_id: str) -> LoggedModel | None:
    """The model of a run, ready or not, with files or without; None where there is none."""
    wanted = f"source_run_id = '{run_id}' AND name = '{ADAPTER}'"
    return next(iter(client.search_logged_models([experiment_id], wanted, max_results=1)), None)


def register(client: MlflowClient, model: LoggedModel, name: str) -> None:
    """Make a model the newest version of a registered one, and its champion; repeated, it stays the same version.

    A champion that is newer stays.
    """
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    versions = client.search_model_versions(f"name = {quoted(name)}")
    own = next((each for each in versions if each.run_id == model.source_run_id), None)
    if own is None:
        # By its place: from a model's id a client without server would look in another store than ours.
        own = client.create_model_version(
            name, model.artifact_location, model.source_run_id, model_id=model.model_id, await_creation_for=0
        )
    # What MLflow's server notes of its own accord, and its user interface shows.
    known = json.loads(client.get_logged_model(model.model_id).tags.get(MLFLOW_MODEL_VERSIONS, "[]"))
    if all((each["name"], int(each["version"])) != (name, int(own.version)) for each in known):
        noted = json.dumps([*known, {"name": name, "version": int(own.version)}])
        client.set_logged_model_tags(model.model_id, {MLFLOW_MODEL_VERSIONS: noted})
    champion = client.get_registered_model(name).aliases.get(CHAMPION)
    if champion is None or int(champion) < int(own.version):
        client.set_registered_model_alias(name, CHAMPION, str(own.version))


def _why_no_files(origin: Origin) -> str:
    trial = origin.tags[KEY_TAG].replace("/", ":", 1)
    return (
        "none: the adapter was not uploaded (with tracking.upload_adapters=all every one is); if it was kept, "
        f"`irtune predict {trial}` finds it, otherwise `irtune train --from {trial}` makes it again"
    )


def _copy(folder: Path, path: str, target: Path) -> None:
    """What lies in the adapter's folder, and nothing that a link leads to."""
    refused: list[str] = []
    for where, file in files_inside(folder, path, refused):
        (target / where).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target / where / file.name)
    if refused:
        logger.warning("of the adapter %s is left out: %s", path, "; ".join(refused))


def _link(client: MlflowClient, origin: Origin, model_id: str, *, is_new: bool) -> None:
    """Make the model an output of its run, and the run's scores on its data those of the model."""
    outputs = None if is_new else client.get_run(origin.run_id).outputs
    if outputs is None or all(output.model_id != model_id for output in outputs.model_outputs):
        client.log_outputs(origin.run_id, [LoggedModelOutput(model_id, step=0)])
    name, digest = origin.data or (None, None)
    of_model = [
        Metric(point.key, point.value, point.timestamp, point.step, model_id, name, digest, origin.run_id)
        for point in origin.metrics
    ]
    if of_model:
        client.log_batch(origin.run_id, of_model)


def _write(adapter: Path, notes: AdapterNotes, model: LoggedModel, target: Path) -> None:
    """Write MLflow's folder of the model: the adapter, the script that loads it, signature and example."""
    inputs = Schema([ColSpec("string", column) for column in notes.columns])
    outputs = Schema([ColSpec("string", "label"), *(ColSpec("double", f"probability/{one}") for one in notes.labels)])
    mlflow.pyfunc.save_model(
        target,
        python_model=str(_SCRIPT),
        artifacts={ADAPTER: str(adapter)},
        signature=ModelSignature(inputs, outputs),
        input_example=pd.DataFrame({column: [f"the {column} of an example"] for column in notes.columns}),
        model_config={"device": "auto"},
        # As installed, without a look at what the model imports.
        pip_requirements=[f"{package}=={version(package)}" for package in ("irtune", "mlflow")],
        mlflow_model=Model(
            artifact_path=model.artifact_location,
            run_id=model.source_run_id,
            model_uuid=model.model_id,
            model_id=model.model_id,
        ),
    )
