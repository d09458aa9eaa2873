"""From what names a model in MLflow to the folder of its adapter: run ids, logged models, registered models."""

import re
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from irtune.redaction import public_address, redact
from irtune.tracking.address import RUN_ID, local_database
from irtune.tracking.connection import TrackingError, check_tracking, fail_fast
from irtune.tracking.logged_model import model_of
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
        return _of_model(client.get_logged_model(source.removeprefix("models:/")).artifact_location)
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
    model = model_of(client, run.info.experiment_id, run_id)
    if model is not None:
        return _of_model(model.artifact_location)
    # Where earlier versions put it.
    if client.list_artifacts(run_id, ADAPTER):
        return f"{run.info.artifact_uri}/{ADAPTER}"
    there = run.data.tags.get(FOLDER_TAG, "its trial's folder")
    raise TrackingError(
        f"{source}: the run has no model in MLflow, since its adapter was not uploaded (tracking.upload_adapters); "
        f"where it was kept, {there} has it: give that folder"
    )


def _of_model(location: str) -> str:
    return f"{location}/artifacts/{ADAPTER}"
