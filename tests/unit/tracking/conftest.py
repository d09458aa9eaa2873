"""One real MLflow store in SQLite for all tests of this folder: making it takes seconds."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from irtune.tracking.address import resolve_tracking_uri
from irtune.tracking.mlflow_tracker import MlflowTracker


@pytest.fixture(scope="session")
def store_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    # A space, because users' folders have them.
    return resolve_tracking_uri(None, tmp_path_factory.mktemp("my storage"))


@pytest.fixture(autouse=True)
def _no_tracking_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="session")
def tracker(store_uri: str) -> MlflowTracker:
    return MlflowTracker(store_uri, "irtune")


_numbers = itertools.count()


@pytest.fixture
def new_key() -> Callable[[], str]:
    return lambda: f"sweep/trial_{next(_numbers):04d}"


@pytest.fixture
def trial_folder(tmp_path: Path) -> Path:
    return tmp_path / "trial"
