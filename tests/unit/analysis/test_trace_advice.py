"""What a Trainer's runs chose becomes settings that PEFT takes."""

from types import SimpleNamespace

import numpy as np
import pytest
from peft import LoraConfig
from saying import refused, says

from irtune import MemoryTrace, recommend_lora
from irtune.importance import Importance
from irtune.layers import SelectionRecord

LORA = LoraConfig(task_type="SEQ_CLS", r=4, lora_alpha=8, target_modules=["v_proj", "q_proj"], use_rslora=True)


def run(*choices, seed=0, total_steps=10, scores=(1.0, 2.0, 3.0, 6.0)):
    """A callback as training leaves it that chose blocks at each of some steps."""
    trace = MemoryTrace()
    for step, active in choices:
        importance = Importance(np.array(scores), np.full(len(scores), step), np.ones(len(scores)))
        trace.write(SelectionRecord(step, active, importance, 10))
    controller = SimpleNamespace(seed=seed, rule=SimpleNamespace(total_steps=total_steps))
    return SimpleNamespace(trace=trace, controller=controller, blocks_name="model.layers")


def test_the_blocks_that_trained_most_of_the_steps():
    # Block 0 trained at 2 of 10 steps, block 2 at 8.
    advice = recommend_lora(run((0, (0, 3)), (2, (2, 3))), LORA)
    assert advice.layers == (2, 3)
    assert advice.ranks == (1, 3, 4, 8)
    assert LoraConfig(**advice.configs["ranks"]).rank_pattern
    assert advice.configs["layers"] == {
        "task_type": "SEQ_CLS",
        "r": 4,
        "lora_alpha": 8,
        "lora_dropout": 0.0,
        "target_modules": ["q_proj", "v_proj"],
        "use_rslora": True,
        "layers_to_transform": [2, 3],
        "layers_pattern": r"model\.layers",
    }
    assert LoraConfig(**advice.configs["layers"]).layers_to_transform == [2, 3]
    assert says(" ".join(advice.notes), "one seed")


def test_several_seeds_count_together_and_no_task_stays_none():
    runs = [run((0, (0, 3)), seed=0), run((0, (2, 3)), seed=1), run((0, (2, 3)), seed=2)]
    advice = recommend_lora(runs, LoraConfig(r=2, target_modules="all-linear"))
    assert advice.layers == (2, 3)
    assert advice.configs["layers"]["task_type"] is None
    assert "one seed" not in " ".join(advice.notes)


@pytest.mark.parametrize(
    ("runs", "lora", "facts"),
    [
        ([], LORA, ("runs: is empty", "IRTuningCallback")),
        (run(), LORA, ("no blocks were chosen", "rank 0")),
        ([run((0, (0,))), run((0, (0,)), scores=(1.0, 2.0))], LORA, ("different models",)),
        (run((0, (0,))), LoraConfig(layers_to_transform=[1]), ("lora.layers_to_transform: … in every block",)),
    ],
)
def test_what_says_nothing_is_refused(runs, lora, facts):
    with refused(ValueError, *facts):
        recommend_lora(runs, lora)
