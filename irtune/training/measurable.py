"""Whether a signal finds in every block what it measures."""

from irtune.config.schema import ExperimentConfig
from irtune.layers.blocks import Blocks, low_rank_pairs


def check_tensors(config: ExperimentConfig, blocks: Blocks) -> None:
    """Refuse to measure tensors that some of a model's blocks lack.

    Raises:
        ValueError: If there are none in a block.
    """
    if config.wants_scores and config.importance.needs_low_rank:
        without = [index for index, block in enumerate(blocks.per_block) if not low_rank_pairs(block)]
        if without:
            raise ValueError(
                f"importance.name: {config.importance.name} reads pairs of lora_A and lora_B, and adapter.type "
                f"{config.adapter.type!r} puts none into the linear layers of blocks {without}; set adapter.type=lora "
                "and adapter.target_modules to linear layers of every block, or importance.name=gradient_norm"
            )
    tensors = getattr(config.importance, "tensors", "all")
    if not all(map(len, blocks.sizes(tensors))):
        raise ValueError(
            f"importance.tensors: no parameter of adapter {config.adapter.type!r} is called {tensors!r} in every "
            "block; set importance.tensors=all"
        )
