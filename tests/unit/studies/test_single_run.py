"""A trial is found by its study and name, and its settings come back as they were."""

import pytest
from saying import refused

from irtune.cli import main
from irtune.config.load import build, explicit
from irtune.config.run_schema import RunConfig
from irtune.config.schema import ExperimentConfig
from irtune.config.sweep_schema import SweepConfig
from irtune.results.predict import find_adapter
from irtune.studies.recorded import StudyError, find_trial
from irtune.studies.resume import write_identity
from irtune.studies.single_run import config_from
from irtune.tracking.run_record import Opened, RunRecord
from irtune.training.record import RecordWriter

TREE = {
    "name": "tiny",
    "model": {"name": "tiny-random"},
    # Text that looks like numbers, and keys with dots.
    "data": {"name": "file", "path": "2024", "label_column": "7", "label_map": {"1.0": "2"}},
    "adapter": {"options": {"rank_pattern": {"layers.0.q_proj": 4}}},
    "training": {"class_weights": {"v1.2": 2.0}},
    "engine": {"deepspeed": {"a": {"b": 1}}},
}


@pytest.fixture
def sweep(tmp_path):
    """A sweep with a baseline, two trials that finished and one that did not."""
    folder = tmp_path / "storage" / "tiny-20261128-064336"
    folder.mkdir(parents=True)
    space = {"training.learning_rate": {"type": "float", "low": 1e-4, "high": 1e-3}}
    write_identity(folder, build(SweepConfig, TREE | {"space": space}, "x"), "f1ngerprint")
    scores = {"baseline": 0.4, "trial_0000": 0.5, "trial_0001": 0.9, "trial_0002": None}
    for seed, (name, score) in enumerate(scores.items()):
        place = folder / "trials" / name
        RunRecord(place).begin(Opened(f"{folder.name}/{name}", name, {}, 1_000))
        writer = RecordWriter(place)
        writer.params(build(ExperimentConfig, TREE | {"seed": seed}, "x").model_dump(mode="json"))
        if score is not None:
            writer.result({"step": 10, "final": True, "final/validation_f1_macro": score})
        writer.close()
    return folder


def test_the_best_trial_or_the_named_one(sweep):
    storage = sweep.parent
    assert find_trial("tiny", storage).name == "trial_0001"
    assert find_trial(str(sweep), storage).name == "trial_0001"
    assert find_trial("tiny:baseline", storage).name == "baseline"
    with refused(StudyError, "trial_0002", "baseline, trial_0000, trial_0001"):
        find_trial("tiny:trial_0002", storage)
    with refused(StudyError, "no study 'tinny'", "tiny-20261128-064336"):
        find_trial("tinny", storage)


def test_its_settings_come_back_as_they_were(sweep):
    config, folder = config_from("tiny", sweep.parent, {})
    # The storage is the one that the study lies in, wherever it ran.
    where = {"storage": str(sweep.parent)}
    expected = build(RunConfig, TREE | where | {"seed": 2, "name": "tiny-trial_0001"}, "x")
    assert config.model_dump() == expected.model_dump()
    assert folder == sweep / "trials" / "trial_0001"
    longer, _ = config_from("tiny:trial_0000", sweep.parent, {"training.max_steps": 7, "seed": 5, "method": "lisa"})
    assert (longer.training.max_steps, longer.seed, longer.strategy) == (7, 5, "lisa")
    assert explicit(longer)["training"]["class_weights"] == {"v1.2": 2.0}


def test_an_adapter_is_found_where_it_was_kept(sweep):
    storage = sweep.parent
    with refused(StudyError, "trial_0001", "tracking.keep_adapters=all", "irtune train --from"):
        find_adapter("tiny", storage)
    adapter = sweep / "trials" / "trial_0000" / "adapter"
    adapter.mkdir()
    (adapter / "irtune.json").write_text("{}")
    for source in ("tiny:trial_0000", f"{sweep}:trial_0000", str(adapter), str(adapter.parent)):
        assert find_adapter(source, storage) == adapter


def test_a_trial_of_an_earlier_version_is_refused(sweep):
    file = sweep / "trials" / "baseline" / "measured.jsonl"
    file.write_text(file.read_text().replace('"settings"', '"other"'))
    with refused(StudyError, "baseline", "earlier version"):
        config_from("tiny:baseline", sweep.parent, {})


def test_a_file_and_a_trial_exclude_each_other(sweep, capsys):
    assert main(["train", "some.yaml", "--from", "tiny", "--storage", str(sweep.parent)]) == 2
    assert "--from" in capsys.readouterr().err
