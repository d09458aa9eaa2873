"""The layer card: its numbers, what is null in it, and its picture."""

import io
import json
from dataclasses import asdict

import numpy as np
import pytest
from matplotlib.image import imread
from pydantic import TypeAdapter

from irtune.analysis.ablation.stability import Choices
from irtune.analysis.layer_card import SCHEMA_VERSION, BlockCosts, LayerCard, Origin, Spread, card_of, card_plot
from irtune.analysis.recommendation import LoraAdapter, advise

ADAPTER = LoraAdapter({"r": 4, "lora_alpha": 8.0, "target_modules": ["q_proj"]}, "model.layers")
ORIGIN = Origin(
    model="tiny-random",
    corpus="synthetic",
    data_fingerprint="0123",
    study="s-20261127-230158",
    configuration="few",
    strategy="top_k",
    adapter="lora",
    signal="gradient_norm",
    seeds=(0, 1),
    steps=9,
    metric="eval/f1_macro",
    score=Spread(0.5, 0.1),
    command="irtune recommend s",
    irtune_version="0.1.0",
    git_commit="abc",
)
SEEDS = [
    Choices(0, np.array([1.0, 0.2, 0.0]), np.array([3.0, 2.0, 1.0]), np.array([True, False, False])),
    Choices(1, np.array([0.8, 0.0, 0.2]), np.array([5.0, 2.0, 3.0]), np.array([True, False, True])),
]
UNSEEN = [Choices(0, np.array([0.0, 1.0]), np.array([np.nan, np.nan]), np.array([False, True]))]


def card(seeds=SEEDS, costs=None):
    return card_of(seeds, advise(seeds, ADAPTER), ORIGIN, "model.layers", costs)


def test_a_card_by_hand():
    found = card(costs=BlockCosts(np.array([0.5, 0.3, 0.2]), np.array([1.0, 0.7, 0.5])))
    assert (found.schema_version, found.num_blocks, found.blocks_name) == (SCHEMA_VERSION, 3, "model.layers")
    first, second, third = found.blocks
    assert first.importance == {"gradient_norm": Spread(4.0, pytest.approx(np.sqrt(2)))}
    assert second.importance == {"gradient_norm": Spread(2.0, 0.0)}
    assert first.selection_frequency == Spread(pytest.approx(0.9), pytest.approx(0.1 * np.sqrt(2)))
    assert [block.is_recommended for block in found.blocks] == [True, False, False]
    # Of twelve 4 to 2 to 2.
    assert [block.rank for block in found.blocks] == [6, 3, 3]
    assert (third.forward_share, third.train_share, third.activation_energy) == (0.2, 0.5, None)
    # Of three pairs two are ordered alike.
    assert found.stability.kendall_tau == pytest.approx(1 / 3)
    assert found.stability.jaccard == 0.5
    # Of one block and of two among three: 1/2 with chance 2/3.
    assert found.stability.jaccard_of_chance == pytest.approx(1 / 3)


def test_other_signals_stand_beside_the_one_that_chose():
    other = [Choices(0, np.ones(3), np.array([7.0, np.nan, 9.0]), np.ones(3, bool))]
    found = card_of(SEEDS, advise(SEEDS, ADAPTER), ORIGIN, "model.layers", None, {"activation_energy": other})
    assert [block.activation_energy for block in found.blocks] == [7.0, None, 9.0]
    assert list(found.blocks[0].importance) == ["gradient_norm", "activation_energy"]
    assert list(found.blocks[1].importance) == ["gradient_norm"]
    # Importance by both, and the share of steps.
    assert len(card_plot(found).axes) == 3


def test_what_is_not_known_is_null():
    found = card(UNSEEN)
    block = found.blocks[1]
    assert block.importance == {}
    assert (block.rank, block.forward_share, block.train_share) == (None, None, None)
    assert block.selection_frequency == Spread(1.0, None)
    assert (found.stability.kendall_tau, found.stability.jaccard) == (None, None)


@pytest.mark.parametrize("seeds", [SEEDS, UNSEEN], ids=["two", "one"])
def test_the_document_is_strict_json_that_reads_back(seeds):
    text = json.dumps(asdict(card(seeds)), allow_nan=False)
    assert TypeAdapter(LayerCard).validate_json(text) == card(seeds)


@pytest.mark.parametrize(("seeds", "num_panels"), [(SEEDS, 2), (UNSEEN, 1)], ids=["two", "one"])
def test_the_picture_is_900_pixels_wide_and_draws_what_is_known(seeds, num_panels):
    figure = card_plot(card(seeds))
    assert len(figure.axes) == num_panels
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=120)
    drawn.seek(0)
    assert imread(drawn).shape[1] == 900
    heights = [bar.get_height() for bar in figure.axes[-1].patches]
    assert heights == pytest.approx([block.selection_frequency.mean for block in card(seeds).blocks])
