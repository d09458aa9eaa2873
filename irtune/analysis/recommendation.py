"""From which blocks a configuration trained to settings of PEFT's LoRA, for people without irtune."""

import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from irtune.analysis.ablation.stability import Choices, stability

LAYERS, RANKS = "layers", "ranks"
"""The two recommendations: an adapter in some blocks only, and one in every block with ranks of their own."""

_ABOUT = {
    LAYERS: "An adapter in the blocks that trained most often, and in no other.",
    RANKS: "An adapter in every block, its rank in proportion to importance: as many parameters as with one rank.",
}

_TASK = "task_type and modules_to_save are a sequence classifier's; leave them out for other tasks."


@dataclass(frozen=True)
class LoraAdapter:
    """The LoRA adapter that every block had.

    Args:
        settings: Arguments of ``peft.LoraConfig``, with ``r``, ``lora_alpha`` and ``target_modules`` among them.
        blocks: Dotted name of the model's list of blocks, such as ``model.layers``.
        head: Names of what a classifier has beside its body, which trains whole; empty leaves it to PEFT.
        trains_head: Whether it trained.

    Raises:
        ValueError: Ranks differ already, so that there is no one rank to go by.
    """

    settings: Mapping[str, Any]
    blocks: str
    head: tuple[str, ...] = ()
    trains_head: bool = True

    def __post_init__(self) -> None:
        said = [key for key in ("rank_pattern", "alpha_pattern", "layers_to_transform") if self.settings.get(key)]
        if said:
            raise ValueError(
                f"adapter.options.{said[0]}: the blocks' adapters differed in the trial, so that nothing can be said "
                "at an equal number of parameters; name a trial without it with --trial"
            )

    @property
    def rank(self) -> int:
        """The rank in every block."""
        return int(self.settings["r"])


@dataclass(frozen=True)
class Advice:
    """What to do without irtune.

    Args:
        layers: The blocks to train, in ascending order.
        ranks: The rank of every block; None where importance does not tell.
        configs: Arguments of ``peft.LoraConfig`` by ``LAYERS`` and ``RANKS``, JSON-able.
        notes: What to know about them, in sentences.
    """

    layers: tuple[int, ...]
    ranks: tuple[int, ...] | None
    configs: Mapping[str, Mapping[str, Any]]
    notes: tuple[str, ...] = field(default=())


def advise(choices: Sequence[Choices], adapter: LoraAdapter) -> Advice:
    """Recommend from what the trials of one configuration chose.

    Args:
        choices: Of each seed, at least one.
        adapter: That they trained.
    """
    layers, notes = most_trained(choices), [*_doubts(choices)]
    configs = {LAYERS: layers_config(adapter, layers)}
    if len(layers) == len(choices[0].frequency):
        notes.append("On average nearly all blocks trained, so all of them are named.")
    if not adapter.trains_head:
        notes.append("The head did not train (model.train_head=false); PEFT trains it, so freeze it after wrapping.")
    importance = mean_importance(choices)
    reason, ranks = why_no_proportion(importance), None
    if reason is None:
        ranks = proportional_ranks(importance, adapter.rank)
        configs[RANKS] = ranks_config(adapter, ranks)
    else:
        notes.append(f"No ranks by importance: {reason}.")
    return Advice(layers, ranks, configs, tuple(notes))


def _doubts(choices: Sequence[Choices]) -> list[str]:
    """What speaks against relying on the choice of blocks."""
    stable = stability(choices)
    found = stable.between_seeds if stable else None
    if found is None or found.jaccard is None or found.jaccard_of_chance is None:
        return ["This is one seed: another may name other blocks."]
    if found.jaccard > found.jaccard_of_chance or found.jaccard == 1.0:
        return []
    return [
        f"Seeds agree on blocks no more than chance does (overlap {found.jaccard:.2f}, chance "
        f"{found.jaccard_of_chance:.2f}): other seeds would name others."
    ]


def most_trained(choices: Sequence[Choices]) -> tuple[int, ...]:
    """The k blocks that trained most often over all seeds, k being the rounded mean number of blocks at a step.

    Of equals it is the one with more importance, then the upper one, below which the backward pass ends sooner.

    Example:
        >>> import numpy as np
        >>> last = np.array([False, True, True])
        >>> most_trained([Choices(0, np.array([0.2, 0.8, 1.0]), np.array([1.0, 2.0, 3.0]), last)])
        (1, 2)
    """
    frequency = np.mean([one.frequency for one in choices], axis=0)
    importance = np.nan_to_num(mean_importance(choices), nan=-np.inf)
    k = max(1, int(frequency.sum() + 0.5))
    # Sums of shares that are equal on paper may differ in the last digit.
    order = np.lexsort((np.arange(len(frequency)), importance, frequency.round(9)))[::-1]
    return tuple(sorted(order[:k].tolist()))


def mean_importance(choices: Sequence[Choices]) -> NDArray[np.float64]:
    """Mean over seeds of each block's importance ``(L,)``; NaN where no seed measured it."""
    mean, _ = over_seeds([one.importance for one in choices])
    return mean


def over_seeds(values: Sequence[NDArray[np.float64]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation over seeds.

    Args:
        values: Of each seed ``(L,)``; NaN or infinite where it has none.

    Returns:
        ``(L,)`` each; the mean is NaN without a value, the deviation with less than two.
    """
    stacked = np.array(values, dtype=np.float64)
    known = np.isfinite(stacked)
    count = known.sum(axis=0)
    mean = np.where(count > 0, np.where(known, stacked, 0.0).sum(axis=0) / np.maximum(count, 1), np.nan)
    squares = (np.where(known, stacked - mean, 0.0) ** 2).sum(axis=0)
    return mean, np.where(count > 1, np.sqrt(squares / np.maximum(count - 1, 1)), np.nan)


def why_no_proportion(importance: NDArray[np.float64]) -> str | None:
    """Why no ranks can be in proportion to importance, in words; None if they can."""
    unseen = np.flatnonzero(np.isnan(importance))
    if len(unseen) == len(importance):
        return "no importance was measured; selection.measure=always measures it whatever the policy"
    if len(unseen):
        return f"importance of blocks {', '.join(map(str, unseen))} was never measured"
    if (importance < 0).any() or not importance.any():
        return "the signal's importance is negative or all zero, and has no proportion"
    return None


def proportional_ranks(importance: NDArray[np.float64], rank: int) -> tuple[int, ...]:
    """Ranks in proportion to importance whose sum is that of ``rank`` in every block; each is at least 1.

    What is left after rounding down goes to the largest remainders, the lower block first. Blocks whose share is below
    1 get 1, and the others divide the rest.

    Args:
        importance: ``(L,)``, none negative, some positive.
        rank: Of the uniform adapter.

    Source: the proportional rule is PEFT issue 2940's; the rounding is Hamilton's.

    Example:
        >>> import numpy as np
        >>> proportional_ranks(np.array([4.0, 3.0, 2.0, 1.0]), 5), proportional_ranks(np.array([97.0, 1, 1, 1]), 2)
        ((8, 6, 4, 2), (5, 1, 1, 1))
    """
    total, weight = rank * len(importance), importance / importance.max()
    at_least = np.zeros(len(weight), dtype=bool)
    while True:
        left = total - int(at_least.sum())
        quota = np.where(at_least, 1.0, left * weight / max(weight[~at_least].sum(), np.finfo(float).tiny))
        too_few = ~at_least & (quota < 1.0 - 1e-9)
        if not too_few.any():
            break
        at_least |= too_few
    ranks = np.floor(quota + 1e-9).astype(int)
    order = np.argsort(-(quota - ranks).round(9), kind="stable")
    ranks[order[: total - int(ranks.sum())]] += 1
    return tuple(ranks.tolist())


def layers_config(adapter: LoraAdapter, layers: Sequence[int]) -> dict[str, Any]:
    """Arguments of ``peft.LoraConfig`` for adapters in these blocks alone.

    Where ``target_modules`` is a pattern or ``all-linear``, with which PEFT refuses ``layers_to_transform``, the other
    blocks are excluded instead.
    """
    settings = _common(adapter)
    if isinstance(settings["target_modules"], str):
        numbers = "|".join(map(str, layers))
        return settings | {"exclude_modules": _outside(adapter, rf"(?:{numbers})")}
    return settings | {"layers_to_transform": list(layers), "layers_pattern": re.escape(adapter.blocks)}


def ranks_config(adapter: LoraAdapter, ranks: Sequence[int]) -> dict[str, Any]:
    """Arguments of ``peft.LoraConfig`` for an adapter of its own rank in each block, scaled as the uniform one was.

    PEFT matches a key with the end of a module's name.
    """
    settings = _common(adapter)
    keys = [rf"{re.escape(adapter.blocks)}\.{block}\..*" for block in range(len(ranks))]
    # PEFT scales by alpha over r, and with use_rslora by alpha over its root.
    power = 0.5 if settings.get("use_rslora") else 1.0
    alphas = [settings["lora_alpha"] * (rank / adapter.rank) ** power for rank in ranks]
    return settings | {
        "exclude_modules": _outside(adapter, r"\d+"),
        "rank_pattern": dict(zip(keys, ranks, strict=True)),
        "alpha_pattern": dict(zip(keys, map(_plain, alphas), strict=True)),
    }


def as_yaml(advice: Advice, about: str) -> str:
    """Both recommendations as YAML, to be read with ``LoraConfig(**yaml.safe_load(…)["layers"])``."""
    parts = [
        *_comments(about, *advice.notes),
        *_comments(f'Use: peft.LoraConfig(**yaml.safe_load(text)["{LAYERS}"]). {_TASK}'),
    ]
    for name, config in advice.configs.items():
        parts += ["", *_comments(_ABOUT[name])]
        parts.append(yaml.safe_dump({name: dict(config)}, sort_keys=False, width=120, allow_unicode=True).rstrip())
    return "\n".join(parts) + "\n"


def as_python(advice: Advice, about: str) -> str:
    """Both recommendations as a Python module that needs PEFT alone."""
    parts = [*_comments(about, *advice.notes), *_comments(f"Use: peft.get_peft_model(model, {LAYERS}). {_TASK}"), ""]
    parts.append("from peft import LoraConfig")
    for name, config in advice.configs.items():
        parts += ["", *_comments(_ABOUT[name]), f"{name} = LoraConfig("]
        for key, value in config.items():
            if isinstance(value, dict) and len(value) > 1:
                parts += [f"    {key}={{", *(f"        {one!r}: {of!r}," for one, of in value.items()), "    },"]
            else:
                parts.append(f"    {key}={value!r},")
        parts.append(")")
    return "\n".join(parts) + "\n"


def _common(adapter: LoraAdapter) -> dict[str, Any]:
    head = {"modules_to_save": list(adapter.head)} if adapter.head else {}
    settings = {"task_type": "SEQ_CLS", **adapter.settings, **head}
    if isinstance(settings["lora_alpha"], float):
        settings["lora_alpha"] = _plain(settings["lora_alpha"])
    return settings


def _outside(adapter: LoraAdapter, blocks: str) -> str:
    """A pattern of all modules outside the blocks with these numbers, and of what was excluded before."""
    before = adapter.settings.get("exclude_modules") or ()
    patterns = [rf"(?!{re.escape(adapter.blocks)}\.{blocks}\.).*"]
    patterns += [before] if isinstance(before, str) else [rf"(.*\.)?{re.escape(name)}" for name in before]
    return "|".join(patterns)


def _plain(number: float) -> float | int:
    return int(number) if float(number).is_integer() else round(float(number), 6)


def _comments(*sentences: str) -> list[str]:
    # Names come from records: nothing of them may begin a line of its own.
    plain = ["".join(each if each.isprintable() else " " for each in text) for text in sentences]
    return [f"# {line}" for text in plain for line in textwrap.wrap(text, 110)]
