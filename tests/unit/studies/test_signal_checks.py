"""Signals that cannot work with the given settings are refused before anything starts."""

import pytest
from saying import each_says, refused

from irtune.config.ablation_schema import AblationConfig
from irtune.config.load import ConfigError, build
from irtune.config.schema import ExperimentConfig
from irtune.config.sweep_schema import SweepConfig
from irtune.search.ablation_cells import check_cells
from irtune.search.space_checks import check_space
from irtune.studies.preflight import check_inputs

TREE = {
    "model": {"name": "tiny-random"},
    "data": {"name": "synthetic", "train_size": 40, "validation_size": 10, "test_size": 10},
    "adapter": {"r": 4, "target_modules": ["q_proj", "v_proj"]},
    "selection": {"policy": {"name": "top_k", "k": 2}},
    "training": {"micro_batch_size": 8},
}
IA3 = {"type": "ia3", "options": {"feedforward_modules": []}}
CKA, RESIDUAL = {"name": "cka_distance"}, {"name": "residual_norm"}


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("IRTUNE_HOME", str(tmp_path / "home"))


@pytest.mark.parametrize(
    ("micro_batch_size", "probe_fraction", "num_workers", "found"),
    [(2, 1.0, 1, 2), (8, 0.25, 1, 2), (1, 1.0, 2, 2), (4, 0.1, 1, 1)],
)
def test_cka_of_too_few_examples_is_refused(micro_batch_size, probe_fraction, num_workers, found):
    tree = TREE | {
        "importance": CKA | {"probe_fraction": probe_fraction},
        "training": {"micro_batch_size": micro_batch_size},
        "engine": {"num_workers": num_workers},
    }
    facts = ("importance.name", "at least 3 examples", f"has {found}", "training.micro_batch_size")
    with refused(ConfigError, *facts):
        build(ExperimentConfig, tree, "x")
    build(ExperimentConfig, tree | {"training": {"micro_batch_size": 30}}, "x")
    # Where nobody looks at scores, none are measured.
    never = {"policy": {"name": "all"}}
    build(ExperimentConfig, tree | {"selection": never}, "x")
    with refused(ConfigError, *facts):
        build(ExperimentConfig, tree | {"selection": never | {"measure": "always"}}, "x")


def test_cka_of_too_few_examples_in_a_space_or_a_cell_is_traced_to_it():
    signals = {"importance.name": {"type": "categorical", "choices": ["gradient_norm", "cka_distance"]}}
    few = {"training": {"micro_batch_size": 2}}
    (mistake,) = check_space(build(SweepConfig, TREE | few | {"space": signals}, "x"))
    assert each_says([mistake], ("space.importance.name.choices", "3 examples", "training.micro_batch_size=2"))
    cells = {"full": {"selection.policy.name": "all"}, "cka": {"importance.name": "cka_distance"}}
    (mistake,) = check_cells(build(AblationConfig, TREE | few | {"ablation": {"cells": cells}}, "x"))
    assert each_says([mistake], ("ablation.cells.cka.importance.name", "3 examples", "training.micro_batch_size=2"))


REFUSED = ("residual_norm", "lora_B", "'ia3'", "blocks [0, 1, 2, 3, 4, 5]", "adapter.type=lora")


def test_residual_norm_without_lora_is_refused():
    config = build(ExperimentConfig, TREE | {"adapter": TREE["adapter"] | IA3, "importance": RESIDUAL}, "x")
    with refused(ConfigError, "importance.name", *REFUSED):
        check_inputs(config, "x")
    check_inputs(build(ExperimentConfig, TREE | {"importance": RESIDUAL}, "x"), "x")


def test_residual_norm_without_lora_in_a_space_or_a_cell_is_refused():
    signals = {"importance.name": {"type": "categorical", "choices": ["cosine_similarity", "residual_norm"]}}
    tree = TREE | {"adapter": TREE["adapter"] | IA3, "importance": {"name": "cosine_similarity"}}
    with refused(ConfigError, "space", "importance.name=residual_norm", *REFUSED):
        check_inputs(build(SweepConfig, tree | {"space": signals}, "x"), "x")
    cells = {"full": {"selection.policy.name": "all"}, "residual": {"importance.name": "residual_norm"}}
    with refused(ConfigError, "ablation.cells.residual", *REFUSED):
        check_inputs(build(AblationConfig, tree | {"ablation": {"cells": cells}}, "x"), "x")
