"""The tiny model, made once for all tests of this folder."""

from pathlib import Path

import pytest

from irtune.config.schema import ModelConfig
from irtune.training.pretrained import materialize


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of the model called tiny-random."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IRTUNE_HOME", str(tmp_path_factory.mktemp("home")))
        return materialize(ModelConfig(name="tiny-random"))
