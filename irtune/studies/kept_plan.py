"""What keeping the states below the lowest block takes and saves, said before anything runs."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from irtune.config.schema import ExperimentConfig
from irtune.data.dataset import Split
from irtune.training.cost import CostModel


def kept_in_words(configs: Sequence[ExperimentConfig], cost: CostModel, lengths: Mapping[Split, np.ndarray]) -> str:
    """Room, and the share of FLOPs saved, over all trials.

    Args:
        configs: The trials, or some that stand for them.
        cost: Of their model.
        lengths: Tokens ``(N,)`` of each split's examples.
    """
    length = float(lengths["train"].mean())
    each = [cost.under(config.selection.policy, length) for config in configs]
    lowest = sorted({one.reuse.block for one in each if one.reuse.block})
    if not lowest:
        return replace(cost.reuse, block=0).in_words()
    splits = [split for split in lengths if split != "train" or cost.reuse.training]
    room = len(lowest) * cost.reuse.bytes_a_token * sum(int(lengths[split].sum()) for split in splits) / 2**30
    first = configs[0]
    shape, rows = (first.training.eval_batch_size, round(length)), first.training.micro_batch_size
    evaluation = np.mean([one.keeping_flops(*shape) / _whole(one).evaluation_flops(*shape) for one in each])
    said = (
        f"what enters {_blocks(lowest)}, {room:.2g} GiB of at most {first.engine.prefix_cache_gib:g}, which saves "
        f"{evaluation:.0%} of an evaluation's FLOPs"
    )
    if not cost.reuse.training:
        return said
    steps = [_of_step(one, rows, shape[1]) / _of_step(_whole(one), rows, shape[1]) for one in each]
    return f"{said}, and up to {1 - np.mean(steps):.0%} of a step's"


def _of_step(cost: CostModel, rows: int, length: int) -> float:
    return cost.step_flops(range(cost.reuse.block, len(cost.forward)), rows, length)


def _whole(cost: CostModel) -> CostModel:
    return replace(cost, reuse=replace(cost.reuse, training=False, evaluation=False))


def _blocks(lowest: Sequence[int]) -> str:
    few = ", ".join(map(str, lowest[:4])) + (", …" if len(lowest) > 4 else "")
    return f"block {few}" if len(lowest) == 1 else f"blocks {few} (those of {len(lowest)} kinds of trial)"
