import json

import numpy as np
import pytest
from pydantic import ValidationError
from saying import refused

from irtune.config.load import ConfigError, build
from irtune.config.schema import ExperimentConfig
from irtune.importance import CosineSimilarity, GradientNorm, Importance, ImportanceSignal
from irtune.importance.signal_contract import FakeBlocks


def four_blocks():
    """Blocks with two modules each: norms of 1, 2, 3, 4 for their lora_B, and always 10 and 0 for their lora_A."""
    norms = [
        {"q.lora_A.weight": 10.0, "q.lora_B.weight": norm, "v.lora_A.weight": 0.0, "v.lora_B.weight": norm}
        for norm in (1.0, 2.0, 3.0, 4.0)
    ]
    return FakeBlocks(norms, [{}] * 4, np.array([0.9, 0.5, -0.1, 1.0]))


def test_unseen_blocks_have_no_score_and_no_age():
    unseen = Importance.unseen(2)
    assert np.isnan(unseen.scores).all()
    assert unseen.measured_at.tolist() == [-1, -1]
    assert unseen.num_probes.tolist() == [0, 0]


def test_json_is_strict_and_comes_back():
    importance = Importance(np.array([1.5, np.nan, np.inf, -np.inf]), np.array([3, -1, 4, 4]), np.array([1, 0, 2, 2]))
    back = Importance.from_json(json.loads(json.dumps(importance.to_json(), allow_nan=False)))
    np.testing.assert_array_equal(back.scores, importance.scores)
    np.testing.assert_array_equal(back.measured_at, importance.measured_at)
    np.testing.assert_array_equal(back.num_probes, importance.num_probes)


def test_gradient_norm_counts_lora_b_unless_told_otherwise():
    assert GradientNorm(within_block="sum").measure(four_blocks()).tolist() == [2, 4, 6, 8]
    assert GradientNorm(within_block="sum", tensors="all").measure(four_blocks()).tolist() == [12, 14, 16, 18]
    assert GradientNorm(within_block="max", tensors="all").measure(four_blocks()).tolist() == [10, 10, 10, 10]
    # One norm a pair: that of q stands at hypot(10, norm), that of v at norm.
    largest = GradientNorm(within_block="max", tensors="effective_update").measure(four_blocks())
    np.testing.assert_allclose(largest, np.sqrt([101, 104, 109, 116]))


def test_gradient_norm_clips_where_it_is_told():
    # The median of 1, 2, 3, 4 is 2.5.
    signal = GradientNorm(within_block="max_clipped", clip_quantile=0.5)
    assert signal.measure(four_blocks()).tolist() == [1, 2, 2.5, 2.5]


def test_local_norms_are_recorded_from_the_start():
    signal = GradientNorm(gradient="local", within_block="sum")
    blocks = four_blocks()
    signal.prepare(blocks)
    # The fake's local norms are half as large again.
    assert signal.measure(blocks).tolist() == [3, 6, 9, 12]
    GradientNorm().prepare(spared := four_blocks())
    assert not spared.records_local_norms


def test_the_score_of_the_authors_code_by_hand():
    blocks = FakeBlocks(
        [{"lora_A": 4.0, "lora_B": 16.0}, {"lora_A": np.nan, "lora_B": 0.0}, {"lora_A": np.inf, "lora_B": 1000.0}],
        [{}] * 3,
        np.ones(3),
    )
    signal = GradientNorm(tensors="all", within_block="root_of_roots", frozen_blocks="stale", nonfinite_norm=1000)
    # sqrt(sqrt(4) + sqrt(16)) = sqrt(6); what is not finite counts as 1000: sqrt(sqrt(1000)), sqrt(2 * sqrt(1000)).
    expected = [6**0.5, 1000**0.25, (2 * 1000**0.5) ** 0.5]
    np.testing.assert_allclose(signal.measure(blocks), expected)
    assert signal.stale
    assert not GradientNorm().stale


def test_norms_that_are_not_finite_are_an_overflow_unless_told_otherwise():
    blocks = FakeBlocks([{"lora_B": np.nan}, {"lora_B": np.inf}, {"lora_B": 2.0}], [{}] * 3, np.ones(3))
    np.testing.assert_array_equal(GradientNorm().measure(blocks), [np.nan, np.inf, 2])
    assert GradientNorm(nonfinite_norm=7).measure(blocks).tolist() == [7, 7, 2]
    assert np.isnan(blocks.norms[0]["lora_B"])


@pytest.mark.parametrize(
    ("options", "mistake"),
    [
        ({"probe_fraction": 0.5}, "probe_fraction: 0.5 … frozen_blocks: stale"),
        ({"within_block": "sum_clipped"}, "use sum … frozen_blocks: probe"),
    ],
)
def test_stale_scores_refuse_what_needs_a_probe(options, mistake):
    GradientNorm(**options)
    with refused(ConfigError, mistake):
        build(ExperimentConfig, {"importance": {"name": "gradient_norm", "frozen_blocks": "stale", **options}}, "x")


def test_cosine_similarity_is_low_where_a_block_changes_much():
    blocks = four_blocks()
    scores = CosineSimilarity().measure(blocks)
    assert scores.tolist() == [0.9, 0.5, -0.1, 1.0]
    assert int(np.argmin(scores)) == 2
    assert CosineSimilarity.source == "forward"


def test_update_folds_over_time_per_block():
    signal = GradientNorm(over_time="mean")
    importance = signal.update(Importance.unseen(3), np.array([2.0, 4.0, np.nan]), step=0)
    importance = signal.update(importance, np.array([4.0, np.nan, 6.0]), step=20)
    assert importance.scores.tolist() == [3, 4, 6]
    assert importance.measured_at.tolist() == [20, 0, 20]
    assert importance.num_probes.tolist() == [2, 1, 1]


def test_update_with_ema_by_hand():
    signal = GradientNorm(over_time="ema", ema_decay=0.75)
    importance = signal.update(Importance.unseen(1), np.array([8.0]), step=0)
    importance = signal.update(importance, np.array([4.0]), step=1)
    assert importance.scores.tolist() == [7]


def test_a_signal_without_a_measurement_says_so():
    with pytest.raises(TypeError, match="'mine' does not say how it measures"):
        ImportanceSignal(name="mine").measure(four_blocks())


@pytest.mark.parametrize(
    "options",
    [
        {"ema_decay": 1},
        {"over_time": "median"},
        {"within_block": "l1"},
        {"tensor": "all"},
        {"tensors": "lora_A"},
        {"gradient": "global"},
        {"frozen_blocks": "skip"},
        {"nonfinite_norm": float("inf")},
        {"nonfinite_norm": -1},
        {"clip_quantile": 1},
        {"probe_fraction": 0},
    ],
)
def test_options_are_checked(options):
    with pytest.raises(ValidationError):
        GradientNorm(**options)
