"""A refresh takes little more memory than an ordinary step, at every ZeRO stage, and learns the same."""

import importlib.util
from pathlib import Path

import pytest
import torch
from tiny_models import classifier

from irtune.config.engine_schema import EngineConfig
from irtune.config.schema import AdapterConfig, TrainingConfig
from irtune.importance import GradientNorm
from irtune.layers import LayerController, map_parameters
from irtune.layers.refresh import ProbePasses
from irtune.selection import TopK
from irtune.training.adapter import add_adapter
from irtune.training.cost import CostModel
from irtune.training.distributed import ensure_process_group, select_accelerator
from irtune.training.engine import DeepSpeedBlocks
from irtune.training.optimizer_state import gather_state

ALLOCATIONS = Path(__file__).parents[3] / "benchmarks" / "allocations.py"
NUM_BLOCKS, LENGTH = 24, 32
WIDE = {
    "vocab_size": 64,
    "pad_token_id": 0,
    "hidden_size": 32,
    "intermediate_size": 96,
    "num_hidden_layers": NUM_BLOCKS,
}
WIDE |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
IDS = torch.randint(3, 64, (8, LENGTH), generator=torch.Generator().manual_seed(0))
BATCH = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS), "labels": torch.arange(8) % 3}
MOST = 1.2


class Upper(TopK):
    """The highest k blocks, after a probe of all."""

    def select(self, context):
        return tuple(range(context.num_blocks - self.k, context.num_blocks)), {}


def trained(stage, memory, each_step, policy, num_blocks=NUM_BLOCKS, num_steps=4):
    """A run with a refresh at steps 0 and 2; returns scores, and all that the optimizer knows."""
    config = EngineConfig(zero_stage=stage)
    select_accelerator(config)
    ensure_process_group(config)
    adapter = AdapterConfig(r=4, dropout=0.1, target_modules=("q_proj", "down_proj"))
    model = add_adapter(
        classifier("llama", WIDE | {"num_hidden_layers": num_blocks}), adapter, train_head=True, seed=0
    ).train()
    training = TrainingConfig(max_steps=10, micro_batch_size=8, learning_rate=0.02)
    blocks = DeepSpeedBlocks(model, map_parameters(model), training, config)
    controller = LayerController(
        blocks, num_blocks, policy, GradientNorm(), reselect_every=2, total_steps=10, seed=0, probe_memory=memory
    )
    try:
        for step in range(num_steps):
            torch.manual_seed(step)
            controller.before_step(step, BATCH)
            each_step(lambda: blocks.train_step([BATCH]))
            controller.after_backward(step)
            blocks.optimizer_step()
        return controller.importance.scores.tolist(), gather_state(blocks)
    finally:
        blocks.destroy()


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_scores_weights_and_moments_are_equal_bit_for_bit(stage):
    runs = [trained(stage, memory, lambda step: step(), TopK(k=2), num_blocks=4) for memory in ("low", "fast")]
    (low, of_low), (fast, of_fast) = runs
    assert low == fast
    assert of_low.keys() == of_fast.keys()
    assert all(torch.equal(value, of_fast[key]) for key, value in of_low.items())


@pytest.fixture(scope="module")
def peak_bytes():
    spec = importlib.util.spec_from_file_location("allocations", ALLOCATIONS)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.peak_bytes


def test_a_refresh_takes_little_more_than_an_ordinary_step(peak_bytes):
    peaks = {}
    for memory in ("low", "fast"):
        found = peaks[memory] = []
        trained(0, memory, lambda step, found=found: found.append(peak_bytes(step)), Upper(k=NUM_BLOCKS // 3))
    for first, ordinary, refresh, _ in [peaks["low"]]:
        assert max(first, refresh) < MOST * ordinary
    # Without it both take what all blocks take.
    assert min(peaks["fast"][0], peaks["fast"][2]) > 2 * peaks["fast"][1]


def test_what_is_computed_again_counts():
    model = add_adapter(classifier("llama"), AdapterConfig(r=4, dropout=0), train_head=True, seed=0)
    cost = CostModel.of(model, recompute=False)

    def more(passes, **changes):
        chosen = cost if not changes else CostModel.of(model, **changes)
        shapes = [(4, 8), (4, 6)]
        return chosen.optimizer_step_flops(range(4), shapes, passes) - chosen.optimizer_step_flops(range(4), shapes)

    assert more(ProbePasses()) == 0
    through = [float(cost.forward[index]) + cost.attention * 8 for index in range(4)]
    shorter = [float(cost.forward[index]) + cost.attention * 6 for index in range(4)]
    assert more(ProbePasses(recomputed=(0, 2))) == pytest.approx(
        4 * 8 * (through[0] + through[2]) + 4 * 6 * (shorter[0] + shorter[2])
    )
    apart = ProbePasses(backward=1, forward=1, rows=2)
    again = ProbePasses(backward=1, forward=1, rows=2, recomputed=(1,))
    assert more(again) - more(apart) == pytest.approx(2 * 8 * through[1])
    assert more(ProbePasses(recomputed=(0, 2)), recompute=True) == 0
