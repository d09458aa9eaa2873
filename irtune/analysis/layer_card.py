"""The layer card: what a study learnt of a model's blocks, as one JSON document and one picture."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from irtune.analysis.ablation.stability import Choices, stability
from irtune.analysis.palette import COLOURS
from irtune.analysis.recommendation import Advice, over_seeds

SCHEMA_VERSION = 1
"""Grows when a field changes its meaning or goes; a field that is added leaves it."""

ENERGY = "activation_energy"
"""The signal whose importance is the activation energy."""

_CHOSEN, _OTHER = COLOURS[0], "#B8C4CE"


@dataclass(frozen=True)
class Spread:
    """A number over seeds.

    Args:
        mean: Over the seeds that have it; None if none has.
        sd: Standard deviation over seeds (n - 1); None below two.
    """

    mean: float | None
    sd: float | None


@dataclass(frozen=True)
class BlockCard:
    """One block.

    Args:
        index: In the model's list of blocks; 0 is next to the embeddings.
        importance: By signal, in the signal's own unit: the mean over a trial's refreshes, over seeds.
        selection_frequency: Share of optimizer steps in which the block trained, 0..1.
        forward_share: FLOPs of its linear layers over those of all blocks, in a forward pass, 0..1; None if unknown.
        train_share: FLOPs of a step that trains it alone, with the backward pass down to it, over those of a step that
            trains every block, 0..1; None if unknown. Attention's products are left out of both.
        activation_energy: The importance by the signal of that name; None if no trial measured it.
        is_recommended: Whether it is one of the blocks to train.
        rank: Of its adapter, where ranks are in proportion to importance; None where they cannot be.
    """

    index: int
    importance: Mapping[str, Spread]
    selection_frequency: Spread
    forward_share: float | None
    train_share: float | None
    activation_energy: float | None
    is_recommended: bool
    rank: int | None


@dataclass(frozen=True)
class Agreement:
    """How far seeds agree on blocks; means over pairs of seeds, None below two.

    Args:
        kendall_tau: Rank correlation (tau-b) of mean importance, -1..1; chance gives 0.
        jaccard: Overlap of the blocks that trained at the end, 0..1.
        jaccard_of_chance: What as many blocks drawn at random give.
        entropy: Of the selection frequency over blocks, over that of choosing all alike, 0..1.
    """

    kendall_tau: float | None
    jaccard: float | None
    jaccard_of_chance: float | None
    entropy: float


@dataclass(frozen=True)
class Origin:
    """Where a card comes from.

    Args:
        model: Its name or folder, with the revision after ``@`` if one was said.
        corpus: Name of the data set.
        data_fingerprint: Of its examples.
        study: Folder name of the sweep or ablation.
        configuration: The cell, or the trial that was repeated.
        strategy: Its method, or its policy.
        adapter: ``lora`` or ``dora``.
        signal: Name of the importance signal.
        seeds: Of the trials.
        steps: Optimizer steps of each.
        metric: By which it was chosen, measured on validation.
        score: That metric over seeds.
        command: That made the card.
        irtune_version: Of the irtune that made it.
        git_commit: Of the irtune that trained; ``unknown`` outside of a checkout.
    """

    model: str
    corpus: str
    data_fingerprint: str
    study: str
    configuration: str
    strategy: str
    adapter: str
    signal: str
    seeds: tuple[int, ...]
    steps: int
    metric: str
    score: Spread
    command: str
    irtune_version: str
    git_commit: str


@dataclass(frozen=True)
class LayerCard:
    """The document ``layer_card.json``. Numbers are plain JSON; what is not known is null.

    Args:
        schema_version: ``SCHEMA_VERSION`` of whoever wrote it.
        origin: Where it comes from.
        num_blocks: L.
        blocks_name: Dotted name of the model's list of blocks.
        stability: Over the seeds.
        blocks: All L of them, in the model's order.
    """

    schema_version: int
    origin: Origin
    num_blocks: int
    blocks_name: str
    stability: Agreement
    blocks: tuple[BlockCard, ...]


@dataclass(frozen=True)
class BlockCosts:
    """What blocks cost, each array ``(L,)``; see ``BlockCard``.

    Args:
        forward: Their shares of the forward pass.
        train: Of steps that train one of them, the share of what a step costs that trains all.
    """

    forward: NDArray[np.float64]
    train: NDArray[np.float64]


def card_of(
    choices: Sequence[Choices],
    advice: Advice,
    origin: Origin,
    blocks_name: str,
    costs: BlockCosts | None,
    by_signal: Mapping[str, Sequence[Choices]] = MappingProxyType({}),
) -> LayerCard:
    """Put a card together.

    Args:
        choices: What each seed chose, at least one.
        advice: What was made of them.
        origin: Where they come from.
        blocks_name: Dotted name of the model's list of blocks.
        costs: Of its blocks; None if unknown.
        by_signal: What other signals measured of the same blocks, by their names: trials of other configurations.
    """
    measured = {
        signal: spreads([one.importance for one in trials])
        for signal, trials in {origin.signal: choices, **by_signal}.items()
    }
    frequency = spreads([one.frequency for one in choices])
    agreement = stability(choices)
    assert agreement is not None
    return LayerCard(
        schema_version=SCHEMA_VERSION,
        origin=origin,
        num_blocks=len(frequency),
        blocks_name=blocks_name,
        stability=Agreement(
            agreement.between_seeds.tau,
            agreement.between_seeds.jaccard,
            agreement.between_seeds.jaccard_of_chance,
            agreement.entropy,
        ),
        blocks=tuple(
            BlockCard(
                index=index,
                importance={signal: of[index] for signal, of in measured.items() if of[index].mean is not None},
                selection_frequency=frequency[index],
                forward_share=None if costs is None else float(costs.forward[index]),
                train_share=None if costs is None else float(costs.train[index]),
                activation_energy=measured[ENERGY][index].mean if ENERGY in measured else None,
                is_recommended=index in advice.layers,
                rank=None if advice.ranks is None else advice.ranks[index],
            )
            for index in range(len(frequency))
        ),
    )


def spreads(values: Sequence[NDArray[np.float64]]) -> list[Spread]:
    """Mean and deviation of each block over seeds, NaN as None; ``values`` holds ``(L,)`` of each seed."""
    pairs = zip(*over_seeds(values), strict=True)
    return [Spread(_known(mean), _known(deviation)) for mean, deviation in pairs]


def card_plot(card: LayerCard) -> Figure:
    """Bars by block: importance of each signal, selection frequency and cost, with the deviation over seeds.

    At 120 dots an inch it is 900 pixels wide. What is not known has no bars.
    """
    signals = list(dict.fromkeys(name for block in card.blocks for name in block.importance))
    rows = [
        (f"importance\n({name.replace('_', ' ')})", [b.importance.get(name, Spread(None, None)) for b in card.blocks])
        for name in signals
    ]
    rows.append(("trained\n(share of steps)", [block.selection_frequency for block in card.blocks]))
    if any(block.train_share is not None for block in card.blocks):
        rows.append(("cost of training\nit alone (all: 1)", [Spread(block.train_share, None) for block in card.blocks]))
    figure = Figure(figsize=(7.5, 1.5 + 1.7 * len(rows)), layout="constrained")
    all_axes = figure.subplots(len(rows), 1, sharex=True, squeeze=False)[:, 0]
    colours = [_CHOSEN if block.is_recommended else _OTHER for block in card.blocks]
    for axes, (label, values) in zip(all_axes, rows, strict=True):
        _bars(axes, label, values, colours)
    all_axes[-1].set_xlabel("block (0 is next to the embeddings)")
    all_axes[-1].xaxis.set_major_locator(MaxNLocator(16, integer=True))
    all_axes[-1].set_xlim(-0.6, card.num_blocks - 0.4)
    chosen = sum(block.is_recommended for block in card.blocks)
    marks = [
        Patch(color=_CHOSEN, label=f"to train ({chosen} of {card.num_blocks})"),
        Patch(color=_OTHER, label="others"),
    ]
    figure.legend(handles=marks, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    figure.suptitle(_title(card), fontsize=10)
    return figure


def _bars(axes: Axes, label: str, values: Sequence[Spread], colours: Sequence[str]) -> None:
    known = [(index, one.mean, one.sd) for index, one in enumerate(values) if one.mean is not None]
    axes.bar([index for index, *_ in known], [mean for _, mean, _ in known], color=[colours[i] for i, *_ in known])
    spread = [each for each in known if each[2] is not None]
    if spread:
        at, means, deviations = zip(*spread, strict=True)
        axes.errorbar(at, means, yerr=deviations, fmt="none", ecolor="#333333", elinewidth=1.0, capsize=2.0)
    axes.set_ylabel(label, fontsize=9)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    # An error bar may reach below zero, which no share does.
    axes.set_ylim(bottom=min(0.0, *(mean for _, mean, _ in known)) if known else 0.0)
    axes.grid(axis="y", alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _title(card: LayerCard) -> str:
    origin, agreement = card.origin, card.stability
    seeds = f"{len(origin.seeds)} seeds (lines: standard deviation)" if len(origin.seeds) > 1 else "1 seed"
    model = origin.model.rstrip("/").rpartition("/")[2] or origin.model
    lines = [f"{model} on {origin.corpus}: {origin.configuration}, {seeds}"]
    if agreement.jaccard is not None and agreement.jaccard_of_chance is not None:
        tau = "" if agreement.kendall_tau is None else f"Kendall's tau {agreement.kendall_tau:.2f} (chance 0), "
        overlap = f"overlap {agreement.jaccard:.2f} (chance {agreement.jaccard_of_chance:.2f})"
        lines.append(f"seeds agree: {tau}{overlap}")
    # A dollar sign would begin a formula.
    return "\n".join(textwrap.fill(line, 92).replace("$", r"\$") for line in lines)


def _known(number: float) -> float | None:
    return float(number) if math.isfinite(number) else None
