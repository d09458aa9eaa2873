"""What was found out of a model before is not asked again: looking at a file a second time imports no torch."""

import os
import subprocess
import sys

import pytest

from irtune.cli import main
from irtune.config.schema import AdapterConfig
from irtune.studies import kept_facts
from irtune.studies.kept_facts import blocks_of, kept

SWEEP = """
model: {name: tiny-random}
data: {name: synthetic, train_size: 40, validation_size: 10, test_size: 10}
adapter: {r: 4, target_modules: [q_proj, v_proj]}
training: {micro_batch_size: 8}
space: {selection.policy.k: {type: int, low: 1, high: %d}}
selection: {policy: {name: top_k, k: 2}}
"""
HEAVY = ("torch", "transformers", "peft", "ray", "mlflow", "deepspeed", "scipy.stats", "scipy.sparse")
SECOND = f"""
import sys
from irtune.cli import main
status = main(["validate", "sweep.yaml"])
print(*(name for name in {HEAVY} if name in sys.modules), file=sys.stderr)
sys.exit(status)
"""


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("IRTUNE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def test_validating_once_more_loads_nothing_heavy_and_finds_new_mistakes(tmp_path, capsys):
    (tmp_path / "sweep.yaml").write_text(SWEEP % 4)
    assert main(["validate", "sweep.yaml"]) == 0
    first = capsys.readouterr().out

    def again():
        command = [sys.executable, "-c", SECOND]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, env=dict(os.environ))

    second = again()
    assert second.returncode == 0, second.stderr
    assert second.stderr.split() == []
    assert [line.split() for line in second.stdout.splitlines()] == [line.split() for line in first.splitlines()]
    # Of what was kept nothing depends on the space, which is looked at as ever.
    (tmp_path / "sweep.yaml").write_text(SWEEP % 9)
    wrong = again()
    assert wrong.returncode == 2
    assert "space.selection.policy.k" in wrong.stderr
    assert "9 blocks asked for, the model has 6" in wrong.stderr


def test_kept_shapes_are_those_of_the_parameters(tmp_path):
    from irtune.config.schema import ModelConfig
    from irtune.layers import map_parameters
    from irtune.training.model import shapes_only
    from irtune.training.pretrained import materialize

    checkpoint, adapter = materialize(ModelConfig(name="tiny-random")), AdapterConfig(r=2, target_modules=["q_proj"])
    known = map_parameters(shapes_only(checkpoint, adapter))
    for _ in range(2):
        found = blocks_of(checkpoint, adapter)
        assert [[n for n, _ in block] for block in found.per_block] == [[n for n, _ in b] for b in known.per_block]
        for tensors in ("all", "lora_B", "effective_update"):
            assert [list(a) for a in found.sizes(tensors)] == [list(a) for a in known.sizes(tensors)]
    with pytest.raises(ValueError, match=r"adapter\.target_modules"):
        blocks_of(checkpoint, adapter.model_copy(update={"target_modules": ["absent"]}))


def test_a_fact_is_asked_again_when_anything_changes_that_it_depends_on(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    config = tmp_path / "model" / "config.json"
    config.write_text("{}")
    answers = iter(range(100))

    def ask(*asked):
        return kept(lambda: next(answers), tmp_path / "model", *asked)

    assert [ask("a"), ask("a"), ask("b"), ask("a")] == [0, 0, 1, 0]
    config.write_text("{ }")
    assert [ask("a"), ask("a")] == [2, 2]
    monkeypatch.setattr(kept_facts, "_here", lambda: ["another version"])
    assert [ask("a"), ask("a")] == [3, 3]


def test_mistakes_and_damage_are_not_kept(tmp_path, home, monkeypatch):
    (tmp_path / "model").mkdir()

    def wrong():
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        kept(wrong, tmp_path / "model", "a")
    assert kept(lambda: 1, tmp_path / "model", "a") == 1
    (file,) = (home / "facts").glob("*.json")
    file.write_text("{")
    assert kept(lambda: 2, tmp_path / "model", "a") == 2
    monkeypatch.setattr(kept_facts, "MOST_FACTS", 3)
    for name in "bcdef":
        kept(lambda: 3, tmp_path / "model", name)
    assert len(list((home / "facts").glob("*.json"))) == 3
