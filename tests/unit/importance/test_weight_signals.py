"""Signals that read the pretrained matrices."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from saying import refused

from irtune.importance import OutlierRatio, RelativeGradientNorm, SignalToNoise, WeightNorm
from irtune.importance.matrices import frobenius_norm, pieces, singular_values
from irtune.importance.signal_contract import FakeBlocks
from irtune.importance.signal_to_noise import signal_to_noise

ANY_SIGNAL = [WeightNorm(), OutlierRatio(), SignalToNoise(), RelativeGradientNorm()]
over_signals = pytest.mark.parametrize("signal", ANY_SIGNAL, ids=lambda signal: signal.name)


def blocks_of(*weights, norms=None):
    """Blocks with these matrices by name; the norms are those of one lora_B each."""
    norms = [{"q_proj.lora_A.weight": 0.0, "q_proj.lora_B.weight": norm} for norm in norms or [1.0] * len(weights)]
    named = [{name: torch.as_tensor(matrix) for name, matrix in block.items()} for block in weights]
    return FakeBlocks(norms, named, np.ones(len(weights)))


def with_singular_values(values, num_rows=4, num_columns=4):
    """A matrix with these singular values and no zeros, by two rotations."""
    generator = torch.Generator().manual_seed(0)
    sides = [
        torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64)).Q for n in (num_rows, num_columns)
    ]
    return sides[0][:, : len(values)] @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ sides[1][: len(values)]


# [[3, 4]] has norm 5, [[0, 12]] has norm 12: both together 13.
TWO_MATRICES = {"self_attn.o_proj.weight": [[3.0, 4.0]], "mlp.up_proj.weight": [[0.0, 12.0]]}
ONE_OF_ZEROS = {"self_attn.o_proj.weight": [[0.0, 0.0]], "mlp.up_proj.weight": [[1.0, 0.0]]}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [13, 1]),
        ({"within_block": "sum"}, [17, 1]),
        ({"within_block": "max"}, [12, 1]),
        # 13 / sqrt(4 elements), 1 / sqrt(4)
        ({"within_block": "rms"}, [6.5, 0.5]),
        ({"modules": "o_proj"}, [5, 0]),
        ({"modules": "mlp"}, [12, 1]),
        ({"modules": "mlp.up_proj"}, [12, 1]),
        # Halfway between 1 and 13.
        ({"within_block": "l2_clipped", "clip_quantile": 0.5}, [7, 1]),
    ],
)
def test_weight_norm_by_hand(options, expected):
    np.testing.assert_allclose(WeightNorm(**options).measure(blocks_of(TWO_MATRICES, ONE_OF_ZEROS)), expected)


def test_relative_gradient_norm_by_hand():
    blocks = blocks_of(TWO_MATRICES, ONE_OF_ZEROS, norms=[26.0, 3.0])
    # 26 / 13 and 3 / 1; by up_proj alone 26 / 12.
    np.testing.assert_allclose(RelativeGradientNorm().measure(blocks), [2, 3])
    np.testing.assert_allclose(RelativeGradientNorm(modules="up_proj").measure(blocks), [26 / 12, 3])


def test_relative_gradient_norm_counts_the_tensors_that_it_is_told():
    norms = [{f"{m}.{side}.weight": norm for m in "qv" for side, norm in (("lora_A", 3.0), ("lora_B", 4.0))}]
    blocks = FakeBlocks(norms, [{"w": torch.tensor([[2.0]])}], np.ones(1))
    # Two tensors of norm 4 are sqrt(32) together, all four sqrt(2 * 9 + 2 * 16) = sqrt(50).
    np.testing.assert_allclose(RelativeGradientNorm(tensors="lora_B").measure(blocks), [np.sqrt(32) / 2])
    np.testing.assert_allclose(RelativeGradientNorm(tensors="all").measure(blocks), [np.sqrt(50) / 2])


def test_nothing_is_relative_to_weights_of_zero():
    with refused(ValueError, "[1] … zero", "gradient_norm"):
        RelativeGradientNorm(modules="o_proj").measure(blocks_of(TWO_MATRICES, ONE_OF_ZEROS))


def test_outlier_ratio_by_hand():
    # Magnitudes of the first block: 1 seven times and 13, so a mean of 20 / 8 = 2.5 over both matrices; 13 is above
    # 5 * 2.5 = 12.5. In the second block 12 makes the mean 19 / 8 = 2.375, five times that is 11.875. 11 makes 11.25.
    few = [{"q": [[1.0, -1.0], [1.0, 1.0]], "v": [[-1.0, 1.0], [1.0, -outlier]]} for outlier in (13.0, 12.0, 11.0)]
    assert OutlierRatio().measure(blocks_of(*few)).tolist() == [1 / 8, 1 / 8, 0]
    # Of v alone (mean 4 in the first block) nothing is above 5 * 4, but 13 is above 3 * 4.
    assert OutlierRatio(modules="v").measure(blocks_of(*few)).tolist() == [0, 0, 0]
    assert OutlierRatio(modules="v", multiple=3).measure(blocks_of(*few)).tolist() == [1 / 4, 1 / 4, 1 / 4]


def test_weights_of_zero_have_no_outliers():
    assert OutlierRatio(modules="o_proj").measure(blocks_of(ONE_OF_ZEROS)).tolist() == [0]


@pytest.mark.parametrize(
    ("values", "aspect", "expected"),
    [
        # Quartiles at positions .75 and 2.25: 1.75 and 4.75. Threshold 3 / 1.349 * 2 = 4.45: signal 10, noise 6.
        ([1, 2, 3, 10], 1, 10 / 6),
        # Quartiles 38.25 and 70: 31.75 / 1.349 = 23.5. Square, the threshold is 47.1: signal 160, noise 73. Four times
        # as long as wide it is 1.5 * 23.5 = 35.3: signal 200, noise 33.
        ([33, 40, 60, 100], 1, 160 / 73),
        ([33, 40, 60, 100], 1 / 4, 200 / 33),
        # No spread, threshold 0: all is signal, and the smallest value stands in for the noise.
        ([2, 2, 2, 2], 1, 4),
        # Rank 1: quartiles 0 and 2, threshold 2.97. The noise of 0 counts as a millionth of the largest value.
        ([0, 0, 0, 8], 1, 1e6),
        ([0, 0, 0, 0], 1, 0),
        ([5], 1 / 4, 1),
    ],
)
def test_signal_to_noise_by_hand(values, aspect, expected):
    assert signal_to_noise(np.array(values, dtype=float), aspect) == pytest.approx(expected)


def test_the_signal_to_noise_of_blocks_by_hand():
    square, long, flat = (
        with_singular_values([3, 4, 6, 10]),
        with_singular_values([3, 4, 6, 10], num_columns=16),
        with_singular_values([2, 2, 2, 2]),
    )
    blocks = blocks_of({"q": square, "k": long}, {"q": flat, "k": flat})
    # Divided by the largest values 10 and 2: 1.6 / 7, 2 / 3, and 4 / 2 for what has no noise.
    expected = [(1.6 / 7 + 2 / 3) / 2, 2]
    np.testing.assert_allclose(SignalToNoise().measure(blocks), expected)
    np.testing.assert_allclose(SignalToNoise(within_block="max").measure(blocks), [2 / 3, 2])
    np.testing.assert_allclose(SignalToNoise(modules="q").measure(blocks), [1.6 / 7, 2])
    absolute = SignalToNoise(relative_to_largest=False)
    np.testing.assert_allclose(absolute.measure(blocks), [(16 / 7 + 20 / 3) / 2, 4])


def test_signal_to_noise_of_weights_of_zero():
    assert SignalToNoise(modules="o_proj").measure(blocks_of(ONE_OF_ZEROS)).tolist() == [0]


@pytest.mark.parametrize("shape", [(40, 40), (24, 60), (60, 24), (1, 7), (7, 1)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_matrices_of_any_shape_and_precision(monkeypatch, shape, dtype):
    matrix = torch.randn(*shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    whole = matrix.double()
    for at_once in (2**22, 100):
        monkeypatch.setattr("irtune.importance.matrices.ELEMENTS_AT_ONCE", at_once)
        read = list(pieces(matrix))
        assert all(piece.dtype == torch.float64 and piece.numel() <= max(at_once, min(shape)) for piece in read)
        assert sum(piece.numel() for piece in read) == matrix.numel()
        assert frobenius_norm(matrix) == pytest.approx(float(torch.linalg.norm(whole)))
        expected = torch.linalg.svdvals(whole).flip(0).numpy()
        np.testing.assert_allclose(singular_values(matrix), expected, rtol=1e-6, atol=1e-7 * expected[-1])


def test_a_matrix_of_rank_one_has_one_singular_value():
    column, row = (torch.randn(40, generator=torch.Generator().manual_seed(seed)).double() for seed in (0, 1))
    values = singular_values(torch.outer(column, row))
    assert values[-1] == pytest.approx(float(column.norm() * row.norm()))
    assert (values[:-1] < 1e-6 * values[-1]).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@over_signals
def test_matrices_on_a_gpu(signal):
    blocks = FakeBlocks.ordinary(3, dtype="bfloat16")
    moved = [{name: matrix.cuda() for name, matrix in block.items()} for block in blocks.weights]
    on_gpu = signal.measure(FakeBlocks(blocks.norms, moved, blocks.cosines))
    np.testing.assert_allclose(on_gpu, signal.measure(blocks), rtol=1e-6)


@over_signals
def test_matrices_that_require_gradients_can_be_read(signal):
    weights = {"q": torch.eye(3).mul_(torch.tensor([1.0, 2.0, 3.0])).requires_grad_()}
    blocks = FakeBlocks([{"q.lora_A": 0.0, "q.lora_B": 1.0}], [weights], np.ones(1))
    blocks.weight_matrices = lambda block: iter(weights.items())
    assert np.isfinite(signal.measure(blocks)).all()


def test_modules_match_whole_parts_of_names():
    with refused(ValueError, "importance.modules: … block 0 … 'o_pro' … 'o_proj'?", "available: all, mlp"):
        WeightNorm(modules="o_pro").measure(blocks_of(TWO_MATRICES))


@pytest.mark.parametrize("modules", ["o_proj", "up_proj", "absent"])
def test_every_matrix_is_read_to_the_end_on_every_rank(modules):
    """Where matrices are gathered from all ranks, whoever stops early leaves the others waiting."""
    asked = []

    class Watched(FakeBlocks):
        def weight_matrices(self, block):
            for name, matrix in super().weight_matrices(block):
                yield name, matrix
                asked.append(name)

    plain = blocks_of(TWO_MATRICES)
    blocks = Watched(plain.norms, plain.weights, plain.cosines)
    if modules == "absent":
        with pytest.raises(ValueError, match="no matrix of block 0 is called"):
            WeightNorm(modules=modules).measure(blocks)
    else:
        WeightNorm(modules=modules).measure(blocks)
    assert asked == list(TWO_MATRICES)


@pytest.mark.parametrize(
    ("signal", "options"),
    [
        (WeightNorm, {"modules": ""}),
        (WeightNorm, {"within_block": "l2_clipped", "clip_quantile": 1}),
        (OutlierRatio, {"multiple": 0}),
        (SignalToNoise, {"clip_quantile": 0}),
        (RelativeGradientNorm, {"tensors": "lora_A"}),
    ],
)
def test_options_are_checked(signal, options):
    with pytest.raises(ValidationError):
        signal(**options)


def test_reading_weights_takes_no_pass():
    assert {signal.name: signal.source for signal in ANY_SIGNAL} == {
        "weight_norm": "weights",
        "outlier_ratio": "weights",
        "signal_to_noise": "weights",
        "relative_gradient_norm": "gradients",
    }


seeds, powers = st.integers(0, 2**32 - 1), st.integers(-6, 6)


def scaled(seed, power):
    blocks = FakeBlocks.ordinary(4, seed=seed)
    weights = [{name: matrix * 2.0**power for name, matrix in block.items()} for block in blocks.weights]
    return blocks, FakeBlocks(blocks.norms, weights, blocks.cosines)


@pytest.mark.parametrize(
    ("signal", "exponent"),
    [
        (WeightNorm(), 1),
        (WeightNorm(within_block="max_clipped"), 1),
        (RelativeGradientNorm(), -1),
        (OutlierRatio(multiple=3), 0),
        (SignalToNoise(), -1),
        (SignalToNoise(relative_to_largest=False), 0),
    ],
    ids=lambda value: str(value),
)
@settings(max_examples=15, deadline=None)
@given(seed=seeds, power=powers)
def test_what_a_factor_on_the_weights_does(signal, exponent, seed, power):
    before, after = scaled(seed, power)
    np.testing.assert_allclose(signal.measure(after), signal.measure(before) * 2.0 ** (exponent * power), rtol=1e-6)


@over_signals
@settings(max_examples=10, deadline=None)
@given(seed=seeds)
def test_signs_transposition_and_order_of_rows_do_not_matter(signal, seed):
    blocks = FakeBlocks.ordinary(3, seed=seed)
    generator = torch.Generator().manual_seed(seed % 2**31)
    changed = [
        {name: -matrix[torch.randperm(len(matrix), generator=generator)].T for name, matrix in block.items()}
        for block in blocks.weights
    ]
    after = signal.measure(FakeBlocks(blocks.norms, changed, blocks.cosines))
    np.testing.assert_allclose(after, signal.measure(blocks), rtol=1e-6)


@settings(max_examples=15, deadline=None)
@given(seed=seeds, power=powers)
def test_a_factor_on_the_loss_is_a_factor_on_relative_gradient_norms(seed, power):
    blocks = FakeBlocks.ordinary(4, seed=seed)
    louder = [{name: norm * 2.0**power for name, norm in block.items()} for block in blocks.norms]
    after = RelativeGradientNorm().measure(FakeBlocks(louder, blocks.weights, blocks.cosines))
    np.testing.assert_allclose(after, RelativeGradientNorm().measure(blocks) * 2.0**power)


def test_a_matrix_of_noise_has_less_signal_than_one_with_structure():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(64, 64, generator=generator)
    structure = torch.randn(64, 2, generator=generator) @ torch.randn(2, 64, generator=generator)
    blocks = blocks_of({"q": noise}, {"q": noise + 5 * structure})
    scores = SignalToNoise(relative_to_largest=False).measure(blocks)
    assert scores[1] > 2 * scores[0]
