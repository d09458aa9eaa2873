"""What a sweep says of classes before it starts: weights of labels that are none, and metrics that none has."""

import pytest
from saying import says

from irtune.config.load import ConfigError, load
from irtune.config.sweep_schema import SweepConfig
from irtune.studies.preflight import prepare


@pytest.fixture
def ready(tmp_path, monkeypatch):
    """Checks a sweep over a corpus of clarity, fluency and one example of style, with settings."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    labels = [*["clarity", "fluency"] * 20, "style"]
    lines = ["before,after,label", *(f"old {i},new {i},{label}" for i, label in enumerate(labels))]
    (tmp_path / "data.csv").write_text("\n".join(lines))

    def check(**settings):
        given = {"model.name": "tiny-random", "data.name": "file", "data.path": str(tmp_path / "data.csv")}
        given |= {"space": {"training.learning_rate": {"type": "float", "low": 1e-4, "high": 1e-3}}}
        return prepare(load(SweepConfig, None, {**given, **settings}), "here", makes_store=False)

    return check


def test_weights_of_unknown_labels_are_refused_by_key(ready):
    with pytest.raises(ConfigError, match=r"training\.class_weights\.stile: .*did you mean 'style'"):
        ready(**{"training.class_weights": {"stile": 2.0}})
    searched = {"training.class_weights.stile": {"type": "float", "low": 1, "high": 3}}
    with pytest.raises(ConfigError, match=r"training\.class_weights\.stile: .*did you mean 'style'"):
        ready(space=searched)


def test_labels_without_a_weight_are_doubted(ready):
    doubts = "\n".join(ready(**{"training.class_weights": {"style": 2.0}}).doubts)
    assert says(doubts, "training.class_weights … clarity and fluency … 1.0")
    assert "class_weights" not in "".join(ready(**{"training.class_weights": "balanced"}).doubts)


def test_a_metric_of_a_class_that_validation_lacks_is_refused(ready):
    assert "style" in "".join(ready().inputs.dataset.notes)
    with pytest.raises(ConfigError, match=r"metric: f1/style is of a class that the validation"):
        ready(**{"tune.metric": "eval/f1/style"})
    ready(**{"tune.metric": "eval/f1/clarity"})
