"""From what a Trainer's runs chose to settings of PEFT's LoRA, as ``irtune recommend`` gives them of a study."""

from collections.abc import Sequence
from dataclasses import fields
from enum import Enum
from typing import Any

import numpy as np

from irtune.analysis.ablation.stability import Choices
from irtune.analysis.recommendation import Advice, LoraAdapter, advise

_SAID = ("r", "lora_alpha", "lora_dropout", "target_modules")
_OF_ONE_MODEL = {
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "peft_type",
    "peft_version",
    "revision",
    "runtime_config",
}
"""Fields of a ``LoraConfig`` that PEFT fills in."""


def recommend_lora(runs: Any, lora: Any) -> Advice:
    """Recommend which blocks get an adapter, or how large a one, from what runs of a Trainer chose.

    Args:
        runs: The ``IRTuningCallback`` of a run that is over, or several of runs that differ in their seed alone.
        lora: The ``peft.LoraConfig`` to recommend a change of, with an adapter in every block: that of the runs.

    Returns:
        The recommendation: ``peft.LoraConfig(**advice.configs["layers"])`` has an adapter in the blocks that trained
        most often, ``configs["ranks"]`` one in every block with ranks by importance; ``notes`` say what to doubt.

    Raises:
        ValueError: No run has chosen blocks, or ``lora`` treats blocks differently already.
    """
    each = runs if isinstance(runs, Sequence) else [runs]
    if not each:
        raise ValueError("runs: is empty; give the IRTuningCallback of a run that is over")
    chosen = [_choices(run) for run in each]
    names = {run.blocks_name for run in each}
    if len(names) > 1 or len({len(one.frequency) for one in chosen}) > 1:
        raise ValueError(f"runs: are of different models (blocks {', '.join(sorted(names))}); give runs of one model")
    for key in ("layers_to_transform", "rank_pattern", "alpha_pattern"):
        if getattr(lora, key):
            raise ValueError(f"lora.{key}: blocks differ already; train with one adapter in every block, and give that")
    return advise(chosen, LoraAdapter(_settings(lora), names.pop()))


def _choices(run: Any) -> Choices:
    # Before training it says so itself.
    controller, records = run.controller, run.trace.records
    if not records:
        raise ValueError("runs: no blocks were chosen; give the IRTuningCallback of rank 0, after training")
    steps, trace = np.array([record.step for record in records]), run.trace
    return Choices.of(controller.seed, steps, trace.active(), trace.scores(), controller.rule.total_steps)


def _settings(lora: Any) -> dict[str, Any]:
    """Arguments of ``LoraConfig`` that were given, JSON-able."""
    usual = type(lora)()
    names = [one.name for one in fields(lora) if one.name not in _OF_ONE_MODEL]
    given = [name for name in names if name in _SAID or getattr(lora, name) != getattr(usual, name)]
    # A task that is not said is not a classifier's.
    return {name: _plain(getattr(lora, name)) for name in dict.fromkeys([*_SAID, "task_type", *given])}


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    return sorted(value) if isinstance(value, set) else value
