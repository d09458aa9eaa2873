"""From what names a model in MLflow to the folder of its adapter: run ids, logged models, registered models."""

import re
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from irtune.redaction import public_address, redact
from irtune.tracking.address import RUN_ID, local_database
from irtune.tracking.connection import TrackingError, check_tracking, fail_fast
from irtune.tracking.logged_model import FILES_TAG, has_files, model_of
from irtune.tracking.run_record import FOLDER_TAG
from irtune.training.record import ADAPTER

_TIMEOUT_S = 300
_REGISTERED = re.compile(r"models:/([^/@]+)(?:@([^/@]+)|/(\d+))")
_LOGGED = re.compile(r"models:/m-[0-9a-f]{32}")


def fetch_adapter(source: str, uri: str, target: Path) -> Path:
    """Copy the adapter of a model in MLflow, and nothing else of it: no code that lies there is run.

    Args:
        source: ``ID`` or ``runs:/ID`` of a run, ``models:/NAME@ALIAS``, ``models:/NAME/VERSION`` or ``models:/m-ID``.
        uri: The store's address.
        target: A folder to copy into.

    Returns:
        The adapter's folder.

    Raises:
        TrackingError: There is no such run or model, it has no adapter, or MLflow cannot be reached.
    """
    database = local_database(uri)
    if database is not None and not database.is_file():
        raise TrackingError(
            f"{source}: no MLflow database lies at {database}; set MLFLOW_TRACKING_URI to the store that has the "
            "model, or --storage to where its study lies"
        )
    check_tracking(uri)
    with fail_fast(_TIMEOUT_S):
        try:
            place = _place(MlflowClient(uri), source)
            return Path(mlflow.artifacts.download_artifacts(place, dst_path=str(target), tracking_uri=uri))
        except (MlflowException, OSError) as error:
            told = redact(" ".join(str(error).split()))[:300]
            raise TrackingError(f"{source}: cannot be had from {public_address(uri)}: {told}") from error


def _place(client: MlflowClient, source: str) -> str:
    """Where an adapter lies."""
    if _LOGGED.fullmatch(source):
        model = client.get_logged_model(source.removeprefix("models:/"))
        if not has_files(model):
            raise TrackingError(f"{source}: the model has no files in MLflow: {model.tags[FILES_TAG]}")
        return _of_model(model.artifact_location)
    if (named := _REGISTERED.fullmatch(source)) is not None:
        name, alias, number = named.groups()
        version = number or client.get_model_version_by_alias(name, alias).version
        return _of_model(client.get_model_version_download_uri(name, str(version)))
    run_id = source.removeprefix("runs:/").partition("/")[0]
    if source.startswith("models:/") or not RUN_ID.fullmatch(run_id):
        raise TrackingError(
            f"{source}: names no model; give a run's id, models:/NAME@champion, models:/NAME/VERSION or models:/m-ID"
        )
    run = client.get_run(run_id)
    found = model_of(client, run.info.experiment_id, run_id)
    if found is not None and has_files(found):
        return _of_model(found.artifact_location)
    # Where one lies that no model can be made of. Asked by its run, MLflow would look through all models.
    place = f"{run.info.artifact_uri}/{ADAPTER}"
    if mlflow.artifacts.list_artifacts(place, tracking_uri=client.tracking_uri):
        return place
    there = run.data.tags.get(FOLDER_TAG, "its trial's folder")
    raise TrackingError(
        f"{source}: the run's adapter was not uploaded to MLflow (tracking.upload_adapters); "
        f"where it was kept, {there} has it: give that folder"
    )


def _of_model(location: str) -> str:
    return f"{location}/artifacts/{ADAPTER}"
