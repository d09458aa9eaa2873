"""Signals that read what passes through blocks, held against other formulas and against cases by hand."""

import numpy as np
import pytest
from saying import refused

from irtune.importance import ActivationEnergy, CkaDistance, ResidualNorm
from irtune.importance.cka_distance import linear_cka
from irtune.importance.residual_norm import projected_norm
from irtune.importance.signal_contract import FakeBlocks


def fake(num_blocks=1, **passing):
    return FakeBlocks([{}] * num_blocks, [{}] * num_blocks, np.ones(num_blocks), **passing)


def draws(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        # With one feature it is the squared correlation: here of (1, -1, 0) with (1, 0, -1), (1, 1, -2), and itself.
        ([1, -1, 0], [1, 0, -1], 0.25),
        ([1, -1, 0], [1, 1, -2], 0),
        ([1, -1, 0], [13, 7, 10], 1),
    ],
)
def test_cka_by_hand(before, after, expected):
    assert linear_cka(np.array(before)[:, None], np.array(after)[:, None]) == pytest.approx(expected, abs=1e-15)


def test_cka_by_features_is_the_same():
    before, after = draws(9, 4), draws(9, 6, seed=1) + 5
    x, y = before - before.mean(0), after - after.mean(0)
    expected = np.linalg.norm(y.T @ x) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))
    assert linear_cka(before, after) == pytest.approx(expected, rel=1e-12)


def test_cka_sees_neither_rotation_nor_scale_nor_shift():
    before, after = draws(9, 4), draws(9, 4, seed=1)
    rotation = np.linalg.qr(draws(4, 4, seed=2))[0]
    assert linear_cka(before, 3 * before @ rotation - 7) == pytest.approx(1, rel=1e-12)
    assert linear_cka(before @ rotation, after) == pytest.approx(linear_cka(before, after), rel=1e-12)
    assert linear_cka(after, before) == pytest.approx(linear_cka(before, after), rel=1e-12)


def test_a_block_that_changes_how_examples_are_alike_scores_high():
    states = [(draws(8, 4), 2 * draws(8, 4)), (draws(8, 4), draws(8, 4) + draws(8, 4, seed=1))]
    scores = CkaDistance().measure(fake(2, states=states))
    assert scores[0] == pytest.approx(0, abs=1e-12)
    assert 0.2 < scores[1] < 1


def test_examples_that_are_equal_on_entering_say_nothing_of_the_first_block():
    equal = np.tile(draws(1, 4), (5, 1))
    for entering in (equal, np.zeros((5, 4)), (equal * 0.1).astype(np.float32)):
        assert CkaDistance().measure(fake(states=[(entering, draws(5, 4))])).tolist() == [1]


def test_two_examples_are_too_few_to_compare():
    with refused(ValueError, "cka_distance … 3 examples … 2", "training.micro_batch_size", "importance.probe_fraction"):
        CkaDistance().measure(fake(states=[(draws(2, 4), draws(2, 4))]))


def test_the_token_is_the_one_that_is_asked_for():
    asked = []

    class Watched(FakeBlocks):
        def token_states(self, token):
            asked.append(token)
            return super().token_states(token)

    for signal in (CkaDistance(), CkaDistance(token="first")):
        signal.measure(Watched([{}], [{}], np.ones(1), states=[(draws(4, 2), draws(4, 2))]))
    assert asked == ["last", "first"]


def test_activation_energy_is_the_mean_over_a_blocks_layers():
    energies = [np.array([1.0, 3.0]), np.array([8.0])]
    assert ActivationEnergy().measure(fake(2, energies=energies)).tolist() == [2, 8]


def test_a_block_through_whose_adapted_layers_nothing_passes_is_named():
    with refused(ValueError, "importance.name", "activation_energy", "blocks [1]", "adapter.target_modules"):
        ActivationEnergy().measure(fake(2, energies=[np.array([1.0]), np.array([])]))


def test_a_projected_norm_by_hand():
    # G = ((3, 0), (0, 4)) over features of mean square 1 and 4: 9 / 1 + 16 / 4.
    assert projected_norm(np.diag([9.0, 16.0]), np.diag([1.0, 4.0]), 1e-15) == pytest.approx(13**0.5)
    # Damped by the whole mean, 2.5: 9 / 3.5 + 16 / 6.5.
    assert projected_norm(np.diag([9.0, 16.0]), np.diag([1.0, 4.0]), 1.0) == pytest.approx((9 / 3.5 + 16 / 6.5) ** 0.5)
    assert projected_norm(np.zeros((2, 2)), np.zeros((2, 2)), 1e-4) == 0


def test_it_is_what_a_linear_map_of_the_features_takes_off_a_squared_loss():
    features, residual = draws(50, 3) * [1, 10, 0.1], draws(50, 4, seed=1)
    residual += features @ draws(3, 4, seed=2)
    gradient, moments = residual.T @ features / 50, features.T @ features / 50
    left = residual - features @ np.linalg.lstsq(features, residual, rcond=None)[0]
    explained = (np.sum(residual**2) - np.sum(left**2)) / 50
    assert projected_norm(gradient.T @ gradient, moments, 1e-15) ** 2 == pytest.approx(explained, rel=1e-9)


def test_layers_add_up_as_squares():
    moments = [[(np.diag([9.0, 0.0]), np.eye(2)), (np.diag([16.0, 0.0]), np.eye(2))], [(np.eye(2), np.eye(2))]]
    signal, blocks = ResidualNorm(damping=1e-15), fake(2, moments=moments)
    signal.prepare(blocks)
    np.testing.assert_allclose(signal.measure(blocks), [5, 2**0.5])


def test_an_overflow_is_an_overflow():
    signal, blocks = ResidualNorm(), fake(2, moments=[[(np.full((2, 2), np.nan), np.eye(2))], [(np.eye(2), np.eye(2))]])
    signal.prepare(blocks)
    assert np.isfinite(signal.measure(blocks)).tolist() == [False, True]


def test_blocks_without_lora_have_no_projected_residual():
    signal, blocks = ResidualNorm(), fake(2, moments=[[(np.eye(2), np.eye(2))], []])
    signal.prepare(blocks)
    with refused(ValueError, "residual_norm", "[1]", "adapter.type: lora", "gradient_norm"):
        signal.measure(blocks)
