"""Which trial's model a study that has ended asks MLflow to register, and under what name."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from saying import refused

from irtune.config.load import ConfigError, build
from irtune.config.schema import ExperimentConfig
from irtune.config.sweep_schema import SweepConfig
from irtune.studies.resume import write_identity
from irtune.studies.winner import register_winner
from irtune.tracking.mlflow_tracker import MlflowTracker
from irtune.tracking.run_record import Ended, Opened, RunRecord
from irtune.tracking.uploader import Uploader
from irtune.training.record import RecordWriter

SPACE = {"training.learning_rate": {"type": "float", "low": 1e-4, "high": 1e-3}}
TREE = {"name": "tiny", "model": {"name": "tiny-random"}, "data": {"name": "synthetic"}}


def ended(folder: Path, **tracking: Any) -> Any:
    """A sweep of two trials, the second of which is the better one."""
    config = build(SweepConfig, TREE | {"space": SPACE, "tracking": tracking}, "x")
    folder.mkdir()
    write_identity(folder, config, "f1ngerprint")
    for name, score in {"trial_0000": 0.4, "trial_0001": 0.6}.items():
        place = folder / "trials" / name
        (place / "adapter").mkdir(parents=True)
        record = RunRecord(place)
        record.begin(Opened(f"{folder.name}/{name}", name, {}, 1_000))
        record.finish(Ended("FINISHED", {}, None, 2_000))
        writer = RecordWriter(place)
        writer.params(build(ExperimentConfig, TREE, "x").model_dump(mode="json"))
        writer.result({"step": 10, "final/validation_f1_macro": score})
        writer.close()
    return SimpleNamespace(config=config, folder=folder)


@pytest.fixture
def uploader() -> Uploader:
    return Uploader(MlflowTracker("http://127.0.0.1:9", "irtune", may_be_away=True))


def asked(study: Any) -> dict[str, list[str]]:
    return {
        folder.name: [artifact["register"] for artifact in RunRecord(folder).artifacts()]
        for folder in sorted(study.folder.glob("trials/*"))
    }


@pytest.mark.parametrize(("wanted", "name"), [(True, "tiny"), ("essay classes", "essay classes")])
def test_the_best_trial_is_registered_once(tmp_path: Path, uploader: Uploader, wanted: Any, name: str) -> None:
    study = ended(tmp_path / "tiny-1", register_winner=wanted)
    for _ in range(2):
        assert register_winner(study, uploader) == f"models:/{name}@champion: trial_0001"
    assert asked(study) == {"trial_0000": [], "trial_0001": [name]}
    # MLflow is away, and hears of it at the next chance.
    assert not RunRecord(study.folder / "trials" / "trial_0001").is_sent()


def test_without_being_asked_nothing_is_registered(tmp_path: Path, uploader: Uploader) -> None:
    study = ended(tmp_path / "tiny-1")
    assert register_winner(study, uploader) is None
    assert asked(study) == {"trial_0000": [], "trial_0001": []}


def test_what_cannot_be_registered_costs_no_study(
    tmp_path: Path, uploader: Uploader, caplog: pytest.LogCaptureFixture
) -> None:
    study = ended(tmp_path / "tiny-1", register_winner=True)
    (study.folder / "trials" / "trial_0001" / "adapter").rmdir()
    assert register_winner(study, uploader) is None
    assert "not registered" in caplog.text


@pytest.mark.parametrize(
    ("tracking", "parts"),
    [
        ({"register_winner": "a/b"}, ()),
        ({"register_winner": True, "upload_adapters": "none"}, ("tracking.upload_adapters=best",)),
    ],
)
def test_what_no_registry_takes_is_refused(tracking: dict[str, Any], parts: tuple[str, ...]) -> None:
    with refused(ConfigError, "tracking.register_winner", *parts):
        build(SweepConfig, TREE | {"space": SPACE, "tracking": tracking}, "x")
