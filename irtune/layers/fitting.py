"""A policy and a signal for the blocks that a model turns out to have."""

import logging

from irtune.importance import GradientNorm, ImportanceSignal
from irtune.layers.blocks import Blocks
from irtune.selection import SelectionPolicy

logger = logging.getLogger(__name__)


def policy_among(policy: SelectionPolicy, found: Blocks) -> SelectionPolicy:
    """``policy`` for the blocks that are trainable.

    Raises:
        ValueError: If it cannot choose among those.
    """
    if not found.left_out:
        return policy
    where = f"of the {found.num_in_model} blocks {list(found.indices)} are trainable, and the policy chooses among them"
    logger.warning("IRTuningCallback: %s", where)
    try:
        policy = policy.among(found.indices)
        policy.check(len(found))
    except ValueError as error:
        raise ValueError(f"{error}; {where}") from error
    return policy


def leaves_tensors_open(signal: ImportanceSignal | None) -> bool:
    """Return whether the signal reads some kind of tensors, and nobody has said which."""
    return signal is not None and "tensors" in set(type(signal).model_fields) - signal.model_fields_set


def signal_for(found: Blocks, signal: ImportanceSignal | None, finds_tensors: bool) -> ImportanceSignal:
    """``signal``, or the norm of gradients, reading tensors that every block has.

    Args:
        found: The blocks.
        signal: What was asked for, if anything.
        finds_tensors: Whether it reads all of a block's tensors where its own are missing, as LoRA's without LoRA.

    Raises:
        ValueError: If a block has no such tensors.
    """
    finds_tensors |= signal is None
    signal = signal or GradientNorm()
    tensors = str(getattr(signal, "tensors", "all"))
    if all(map(len, found.sizes(tensors))):
        return signal
    if finds_tensors:
        return signal.model_copy(update={"tensors": "all"})
    raise ValueError(
        f"importance.tensors: not every block has a trainable {tensors}; give "
        f'importance={{"name": "{signal.name}", "tensors": "all"}}'
    )
