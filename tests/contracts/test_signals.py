"""What every importance signal must keep to; a new signal is covered as soon as it is registered."""

import json
from typing import ClassVar, Literal, get_args, get_origin

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from irtune.config.load import apply_overrides, build, dotted_keys
from irtune.config.schema import ExperimentConfig
from irtune.importance import SIGNALS, GradientNorm, Importance, ImportanceSignal
from irtune.importance.signal_contract import FakeBlocks, check_signal

AUTHORS = {
    "gradient": "local",
    "tensors": "all",
    "within_block": "root_of_roots",
    "frozen_blocks": "stale",
    "nonfinite_norm": 1000,
}
MORE_OPTIONS = {
    "gradient_norm": [AUTHORS, {"tensors": "all", "within_block": "max_clipped", "clip_quantile": 0.5}],
    "relative_gradient_norm": [{"modules": "o_proj", "over_time": "mean"}],
    "residual_norm": [{"damping": 1}],
    "weight_norm": [{"modules": "o_proj"}, {"modules": "mlp.up_proj", "within_block": "rms_clipped"}],
    "outlier_ratio": [{"multiple": 3}, {"modules": "self_attn"}],
    "signal_to_noise": [{"relative_to_largest": False, "within_block": "max"}],
}


def option_sets(signal_class):
    """The defaults, each choice of each option, and some options together."""
    yield {}
    for key, field in signal_class.model_fields.items():
        if key != "name" and get_origin(field.annotation) is Literal:
            yield from ({key: choice} for choice in get_args(field.annotation) if choice != field.default)
    yield from MORE_OPTIONS.get(signal_class.model_fields["name"].default, ())


def name_of(signal):
    return "-".join(
        [
            signal.name,
            *(f"{key}={getattr(signal, key)}" for key in type(signal).model_fields if key in signal.model_fields_set),
        ]
    )


ALL_SIGNALS = [signal(**options) for signal in SIGNALS.values() for options in option_sets(signal)]
over_signals = pytest.mark.parametrize("signal", ALL_SIGNALS, ids=name_of)
over_gradient_signals = pytest.mark.parametrize(
    "signal", [signal for signal in ALL_SIGNALS if isinstance(signal, GradientNorm)], ids=name_of
)
OVER_TIME = [signal for signal in ALL_SIGNALS if signal.model_fields_set <= {"over_time"}]
over_time = pytest.mark.parametrize("signal", OVER_TIME, ids=name_of)

any_norm = st.floats(0, allow_infinity=True) | st.just(np.nan)
norms_of_models = st.lists(st.lists(any_norm, min_size=1, max_size=3), min_size=1, max_size=40)
scores_of_probe = st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=3, max_size=3)


def blocks_with(norms):
    """Blocks whose adapter tensors have these gradient norms, both factors of a pair the same."""
    named = [
        {f"m{place}.{side}.weight": norm for place, norm in enumerate(block) for side in ("lora_A", "lora_B")}
        for block in norms
    ]
    return FakeBlocks(named, [{}] * len(norms), np.ones(len(norms)), records_local_norms=True)


@over_signals
def test_the_contract(signal):
    check_signal(signal)


@over_gradient_signals
@settings(max_examples=10, deadline=None)
@given(norms=norms_of_models)
@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_one_score_a_block_whatever_the_norms(signal, norms):
    scores = signal.measure(blocks_with(norms))
    assert scores.shape == (len(norms),)
    overflowed = [not np.isfinite(block).all() for block in norms]
    if signal.nonfinite_norm is None:
        assert not np.isfinite(scores[overflowed]).any()
    np.testing.assert_array_equal(scores, signal.measure(blocks_with(norms)))


@over_time
@settings(max_examples=25, deadline=None)
@given(probes=st.lists(scores_of_probe, min_size=1, max_size=5))
def test_update_keeps_the_books(signal, probes):
    importance = Importance.unseen(3)
    for step, probe in enumerate(np.array(probes)):
        before = importance.to_json()
        updated = signal.update(importance, probe, step)
        assert importance.to_json() == before
        seen = ~np.isnan(probe)
        np.testing.assert_array_equal(updated.measured_at, np.where(seen, step, importance.measured_at))
        np.testing.assert_array_equal(updated.num_probes, importance.num_probes + seen)
        np.testing.assert_array_equal(updated.scores[~seen], importance.scores[~seen])
        assert not np.isnan(updated.scores[seen]).any()
        importance = updated


@over_time
@settings(max_examples=25, deadline=None)
@given(probe=st.lists(st.floats(allow_nan=False), min_size=3, max_size=3))
def test_the_first_probe_counts_in_full(signal, probe):
    assert signal.update(Importance.unseen(3), np.array(probe), 7).scores.tolist() == probe


@over_time
@settings(max_examples=25, deadline=None)
@given(probes=st.lists(scores_of_probe, max_size=3), last=scores_of_probe)
def test_a_resumed_run_goes_on_as_if_never_stopped(signal, probes, last):
    importance = Importance.unseen(3)
    for step, probe in enumerate(probes):
        importance = signal.update(importance, np.array(probe), step)
    resumed = Importance.from_json(json.loads(json.dumps(importance.to_json(), allow_nan=False)))
    going_on = signal.update(importance, np.array(last), 9)
    assert signal.update(resumed, np.array(last), 9).to_json() == going_on.to_json()


@over_time
@settings(max_examples=25, deadline=None)
@given(score=st.floats(0, 1e9), num_probes=st.integers(1, 8))
def test_probes_that_agree_change_nothing(signal, score, num_probes):
    importance = Importance.unseen(1)
    for step in range(num_probes):
        importance = signal.update(importance, np.array([score]), step)
    assert importance.scores[0] == pytest.approx(score)


@over_signals
def test_dotted_keys_bring_a_signal_back(signal):
    settings = json.loads(json.dumps(dotted_keys(ExperimentConfig(importance=signal))))
    assert build(ExperimentConfig, apply_overrides({}, settings), "settings").importance == signal


@pytest.mark.parametrize(("name", "signal_class"), SIGNALS.items())
def test_signals_are_registered_under_their_names(name, signal_class):
    assert signal_class().name == name


class Sound(ImportanceSignal):
    """A signal that keeps to the contract, which the broken ones below break in one way each.

    Source: this test.
    """

    name: str = "test_signals:Sound"

    def measure(self, blocks):
        return np.array([norms.sum() for norms in blocks.gradient_norms("all")])


class Undocumented(Sound):
    """Without a source."""


class UndescribedOption(Sound):
    """Source: this test."""

    strength: float = 1.0


class OneScoreTooMany(Sound):
    """Source: this test."""

    def measure(self, blocks):
        return np.append(super().measure(blocks), 1.0)


class ListOfScores(Sound):
    """Source: this test."""

    def measure(self, blocks):
        return super().measure(blocks).tolist()


class WholeNumbers(Sound):
    """Source: this test."""

    def measure(self, blocks):
        return np.argsort(super().measure(blocks))


class NotFinite(Sound):
    """Source: this test."""

    def measure(self, blocks):
        return super().measure(blocks) * np.inf


class Constant(Sound):
    """Source: this test."""

    def measure(self, blocks):
        return np.ones_like(super().measure(blocks))


class LastBlocksFirst(Sound):
    """Source: this test."""

    def measure(self, blocks):
        return np.arange(len(blocks.tensor_sizes("all")), dtype=float)


class Drawn(Sound):
    """Source: this test."""

    def measure(self, blocks):
        return np.random.default_rng().random(len(blocks.tensor_sizes("all")))


class Remembers(Sound):
    """Source: this test."""

    past: ClassVar[list[float]] = []

    def measure(self, blocks):
        self.past.append(1.0)
        return super().measure(blocks) * len(self.past)


class LocalWithoutRecording(Sound):
    """Source: this test."""

    def measure(self, blocks):
        return np.array([norms.sum() for norms in blocks.gradient_norms("all", "local")])


class FeaturesWithoutRecording(Sound):
    """Source: this test."""

    apart: ClassVar = True

    def measure(self, blocks):
        return np.array([layers[0][0].sum() for layers in blocks.low_rank_moments()])


class FeaturesInTheStep(FeaturesWithoutRecording):
    """Source: this test."""

    apart: ClassVar = False

    def prepare(self, blocks):
        blocks.record_features()


class ChangesWhatPasses(Sound):
    """Source: this test."""

    source: ClassVar = "forward"

    def measure(self, blocks):
        for before, after in blocks.token_states("last"):
            after -= before
        return np.array([after.std() for _, after in blocks.token_states("last")])


class WrongSource(Sound):
    """Source: this test."""

    source: ClassVar = "weights"


class ChangesTheBlocks(Sound):
    """Source: this test."""

    source: ClassVar = "forward"

    def measure(self, blocks):
        similarities = blocks.similarities()
        similarities *= -1
        return similarities.copy()


class LendsTheBlocksArray(Sound):
    """Source: this test."""

    source: ClassVar = "forward"

    def measure(self, blocks):
        return blocks.similarities()


class ChangesWeights(Sound):
    """Source: this test."""

    source: ClassVar = "weights"

    def measure(self, blocks):
        blocks_of = range(len(blocks.tensor_sizes("all")))
        return np.array([sum(float(m.abs_().sum()) for _, m in blocks.weight_matrices(b)) for b in blocks_of])


class HoldsABlock(Sound):
    """Source: this test."""

    source: ClassVar = "weights"

    def measure(self, blocks):
        whole = [list(blocks.weight_matrices(block)) for block in range(len(blocks.tensor_sizes("all")))]
        return np.array([sum(float(matrix.abs().sum()) for _, matrix in block) for block in whole])


class LosesItsOptions(Sound):
    """Source: this test."""

    strength: float = Field(1.0, description="a factor")

    def __reduce__(self):
        return (LosesItsOptions, ())


class ForgetsWhatItDidNotSee(Sound):
    """Source: this test."""

    def update(self, importance, scores, step):
        updated = super().update(importance, scores, step)
        return Importance(scores, updated.measured_at, updated.num_probes)


class NeverAges(Sound):
    """Source: this test."""

    def update(self, importance, scores, step):
        updated = super().update(importance, scores, step)
        return Importance(updated.scores, np.full(len(scores), step), updated.num_probes)


class CountsWrongly(Sound):
    """Source: this test."""

    def update(self, importance, scores, step):
        updated = super().update(importance, scores, step)
        return Importance(updated.scores, updated.measured_at, importance.num_probes + 1)


class UpdatesInPlace(Sound):
    """Source: this test."""

    def update(self, importance, scores, step):
        updated = super().update(importance, scores, step)
        importance.scores[:] = updated.scores
        return updated


def test_a_sound_signal_of_a_user_passes():
    check_signal(Sound())
    check_signal(Sound(over_time="ema"))


@pytest.mark.parametrize(
    ("signal", "breach"),
    [
        (Undocumented(), "does not say where it is from"),
        (UndescribedOption(), "options without a description: strength"),
        (OneScoreTooMany(), r"one score a block is \(1,\), not \(2,\)"),
        (ListOfScores(), "must return a numpy array, not list"),
        (WholeNumbers(), "must be floating-point numbers, not int64"),
        (NotFinite(), "on 1 ordinary blocks with weights in float32 are not finite"),
        (Constant(), "on 12 ordinary blocks with weights in float32 are all 1.0"),
        (LastBlocksFirst(), "other blocks give the same scores"),
        (Drawn(), "equal blocks do not give equal scores"),
        (Remembers(), "equal blocks do not give equal scores"),
        (LocalWithoutRecording(), "unless its prepare.. calls blocks.record_local_norms"),
        (FeaturesWithoutRecording(), "unless its prepare.. calls blocks.record_features"),
        (FeaturesInTheStep(), "it has to set apart = True"),
        (ChangesWhatPasses(), "measure changes the blocks"),
        (WrongSource(), "its source is 'weights', so that gradient_norms.. has nothing to read"),
        (ChangesTheBlocks(), "measure changes the blocks"),
        (LendsTheBlocksArray(), "measure changes the blocks, or returns an array that is theirs"),
        (ChangesWeights(), "it changes the matrix self_attn.q_proj.weight of block 0"),
        (HoldsABlock(), "valid only until the next one is asked for"),
        (LosesItsOptions(strength=2), "does not come back from pickling"),
        (ForgetsWhatItDidNotSee(), "update changes the score of a block whose probe is NaN"),
        (NeverAges(), "measured_at is"),
        (CountsWrongly(), "num_probes is"),
        (UpdatesInPlace(), "update changes what it is given"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, ImportanceSignal) else "",
)
def test_a_broken_signal_is_found(signal, breach):
    with pytest.raises(AssertionError, match=f"signal 'test_signals:Sound': .*{breach}"):
        check_signal(signal)
