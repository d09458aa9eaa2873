"""For authors of signals: does it keep to the contract, so that every trainer can run it?

In a test of your own::

    from irtune.importance.signal_contract import check_signal

    def test_my_signal():
        check_signal(MySignal(name="my_package.my_module:MySignal"))
"""

import json
import pickle
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from irtune.importance.signal import Gradient, Importance, ImportanceSignal, Source, Token


@dataclass
class FakeBlocks:
    """A ``MeasuredBlocks`` without a trainer: hands out what it was given, and refuses what a trainer could not give.

    Args:
        norms: Per block, from the name of an adapter tensor to the norm of its averaged gradient.
        weights: Per block, from the name of a pretrained matrix to the matrix, a torch tensor ``(out, in)``.
        cosines: ``(L,)`` cosine between the hidden states before and after each block.
        source: What the probe reads; asking for anything else is a mistake. None allows everything.
        tensor_size: Number of elements of every adapter tensor.
        states: Per block the hidden states ``(n, d)`` before and after it at one token of each example.
        energies: Per block ``(P,)`` mean squared norm of what enters each adapted layer.
        moments: Per block and adapted layer two matrices ``(r, r)``: Gram matrix of the gradient, moments of features.
        apart: Whether the probe is a pass of its own.
    """

    norms: list[dict[str, float]]
    weights: list[dict[str, Any]]
    cosines: np.ndarray
    source: Source | None = None
    tensor_size: int = 64
    records_local_norms: bool = False
    states: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    energies: list[np.ndarray] = field(default_factory=list)
    moments: list[list[tuple[np.ndarray, np.ndarray]]] = field(default_factory=list)
    apart: bool = True
    records_features: bool = False

    @classmethod
    def ordinary(
        cls, num_blocks: int, *, seed: int = 0, dtype: str = "float32", source: Source | None = None
    ) -> "FakeBlocks":
        """Blocks as a model has them: norms of one order of magnitude, heavy-tailed weights, high similarities.

        Args:
            num_blocks: L.
            seed: Equal seeds give equal blocks.
            dtype: Of the weights, a name of torch.
            source: What the probe reads.
        """
        import torch

        generator = np.random.default_rng(seed)
        modules = {"self_attn.q_proj": (24, 24), "self_attn.o_proj": (24, 24), "mlp.up_proj": (48, 24)}
        norms = [
            {
                f"{module}.{side}.weight": float(generator.lognormal())
                for module in modules
                for side in ("lora_A", "lora_B")
            }
            for _ in range(num_blocks)
        ]
        weights = [
            {
                f"{module}.weight": torch.tensor(0.02 * generator.standard_t(3, shape)).to(getattr(torch, dtype))
                for module, shape in modules.items()
            }
            for _ in range(num_blocks)
        ]
        cosines = generator.uniform(0.7, 1, num_blocks)
        passing = generator.normal(size=(num_blocks + 1, 8, 24))
        states = list(zip(passing[:-1], passing[:-1] + 0.5 * passing[1:], strict=True))
        energies = list(generator.lognormal(size=(num_blocks, len(modules))))
        factors = generator.normal(size=(num_blocks, len(modules), 2, 4, 8))
        moments = [[(gradient @ gradient.T, f @ f.T) for gradient, f in block] for block in factors]
        return cls(norms, weights, cosines, source, states=states, energies=energies, moments=moments)

    def gradient_norms(self, tensors: str, gradient: Gradient = "averaged") -> list[np.ndarray]:
        """The given norms; the local ones are half as large again, as norms are that are added before averaging."""
        self._refuse_unless("gradients", "gradient_norms")
        assert gradient == "averaged" or self.records_local_norms, (
            "it asks for local gradient norms, which are lost unless its prepare() calls blocks.record_local_norms()"
        )
        factor = 1.5 if gradient == "local" else 1.0
        return [factor * np.array(self._counted(block, tensors)) for block in self.norms]

    def tensor_sizes(self, tensors: str) -> list[np.ndarray]:
        """``tensor_size`` for each tensor."""
        return [np.full(len(self._counted(block, tensors)), self.tensor_size) for block in self.norms]

    def record_local_norms(self) -> None:
        """From now on local norms are there."""
        self.records_local_norms = True

    def weight_matrices(self, block: int) -> Iterator[tuple[str, Any]]:
        """Copies of the given matrices.

        Each is spoilt when the next one is asked for, since a trainer that gathers it from several ranks frees it then.
        """
        for name, matrix in self.weights[block].items():
            lent = matrix.clone()
            yield name, lent
            assert lent.equal(matrix), f"it changes the matrix {name} of block {block}"
            lent.fill_(np.nan)

    def similarities(self) -> np.ndarray:
        """The given cosines themselves, so that changes show."""
        self._refuse_unless("forward", "similarities")
        return self.cosines

    def token_states(self, token: Token) -> list[tuple[np.ndarray, np.ndarray]]:
        """The given states themselves; those at the first token are half as large."""
        self._refuse_unless("forward", "token_states")
        return [(before / 2, after / 2) for before, after in self.states] if token == "first" else self.states

    def activation_energies(self) -> list[np.ndarray]:
        """The given energies themselves."""
        self._refuse_unless("forward", "activation_energies")
        return self.energies

    def record_features(self) -> None:
        """From now on moments are there."""
        self.records_features = True

    def low_rank_moments(self) -> list[list[tuple[np.ndarray, np.ndarray]]]:
        """The given matrices themselves."""
        self._refuse_unless("gradients", "low_rank_moments")
        assert self.records_features, (
            "it asks for moments of features, which are lost unless its prepare() calls blocks.record_features()"
        )
        assert self.apart, "features are not read in training steps; it has to set apart = True"
        return self.moments

    def same_as(self, other: "FakeBlocks") -> bool:
        """Whether both hold the same values."""
        pairs = zip(self._contents(), other._contents(), strict=True)
        return self.norms == other.norms and all(np.array_equal(mine, theirs) for mine, theirs in pairs)

    def _contents(self) -> list[Any]:
        """All arrays and matrices."""
        weights = [matrix.double().numpy() for block in self.weights for matrix in block.values()]
        moments = [matrix for block in self.moments for layer in block for matrix in layer]
        return [self.cosines, *weights, *(states for pair in self.states for states in pair), *self.energies, *moments]

    def _refuse_unless(self, source: Source, method: str) -> None:
        assert self.source in (None, source), f"its source is {self.source!r}, so that {method}() has nothing to read"

    def _counted(self, block: dict[str, float], tensors: str) -> list[float]:
        """The norms of the tensors that count; the effective update's stands in as that of both factors together."""
        if tensors == "effective_update":
            sides = (self._counted(block, side) for side in ("lora_A", "lora_B"))
            return [float(np.hypot(a, b)) for a, b in zip(*sides, strict=True)]
        return [norm for name, norm in block.items() if tensors == "all" or tensors in name.split(".")]


def check_signal(signal: ImportanceSignal) -> None:
    """Hold a signal, with the options that it has, to what trainers rely on.

    - Its documentation cites a source and describes every option.
    - From ordinary blocks it measures one finite score a block, and not the same for all, in every precision.
    - Equal blocks give equal scores, whatever was measured before.
    - Measuring leaves the blocks as they were, and holds no matrix longer than it may.
    - It comes back from pickling, and from its options as JSON, and measures the same.
    - ``update`` keeps the books: what was not seen stays, ages and numbers of probes are right, nothing is changed in
      place, and a resumed run goes on as if it had never stopped.

    Args:
        signal: An instance.

    Raises:
        AssertionError: At the first breach, with what is wrong.
    """
    for check in (_check_documentation, _check_scores, _check_repeatable, _check_travels, _check_books):
        try:
            check(signal)
        except AssertionError as error:
            raise AssertionError(f"signal {signal.name!r}: {error}") from error


def _measure(signal: ImportanceSignal, blocks: FakeBlocks) -> np.ndarray:
    blocks.apart = signal.apart
    signal.prepare(blocks)
    return signal.measure(blocks)


def _check_documentation(signal: ImportanceSignal) -> None:
    cls = type(signal)
    assert "Source:" in (cls.__doc__ or ""), (
        f"the docstring of {cls.__name__} does not say where it is from (Source: ...)"
    )
    missing = [key for key, field in cls.model_fields.items() if key != "name" and not field.description]
    assert not missing, f"options without a description: {', '.join(missing)}"


def _check_scores(signal: ImportanceSignal) -> None:
    for num_blocks, dtype in ((1, "float32"), (2, "float16"), (12, "float32"), (30, "bfloat16")):
        blocks = FakeBlocks.ordinary(num_blocks, dtype=dtype, source=signal.source)
        scores = _measure(signal, blocks)
        where = f"on {num_blocks} ordinary blocks with weights in {dtype}"
        assert isinstance(scores, np.ndarray), f"measure must return a numpy array, not {type(scores).__name__}"
        assert scores.shape == (num_blocks,), f"one score a block is ({num_blocks},), not {scores.shape}"
        assert np.issubdtype(scores.dtype, np.floating), f"scores must be floating-point numbers, not {scores.dtype}"
        assert np.isfinite(scores).all(), (
            f"scores {where} are not finite: {scores.tolist()}; a matrix of weight_matrices is valid only until the "
            "next one is asked for"
        )
        assert num_blocks < 12 or len(set(scores.tolist())) > 1, f"scores {where} are all {scores[0]}"
        pristine = FakeBlocks.ordinary(num_blocks, dtype=dtype)
        scores += 1
        assert blocks.same_as(pristine), f"measure changes the blocks, or returns an array that is theirs, {where}"


def _check_repeatable(signal: ImportanceSignal) -> None:
    def scores_of(seed: int) -> np.ndarray:
        return _measure(signal, FakeBlocks.ordinary(12, seed=seed, source=signal.source))

    first, other, again = scores_of(0), scores_of(1), scores_of(0)
    assert np.array_equal(first, again), "equal blocks do not give equal scores; it must not draw, nor remember"
    assert not np.array_equal(first, other), "other blocks give the same scores"
    blocks = FakeBlocks.ordinary(12, source=signal.source)
    assert np.array_equal(_measure(signal, blocks), signal.measure(blocks)), "a second probe finds other scores"


def _check_travels(signal: ImportanceSignal) -> None:
    as_json = json.loads(json.dumps(signal.model_dump(mode="json"), allow_nan=False))
    for back, how in (
        (pickle.loads(pickle.dumps(signal)), "pickling"),
        (type(signal).model_validate(as_json), "its options as JSON"),
    ):
        assert back == signal, f"it does not come back from {how}: {back!r}"
        scores, expected = (_measure(one, FakeBlocks.ordinary(12, source=signal.source)) for one in (back, signal))
        assert np.array_equal(scores, expected), f"it measures something else when it comes back from {how}"


def _check_books(signal: ImportanceSignal) -> None:
    importance = Importance.unseen(4)
    nan = np.nan
    for step, probe in ((0, [1.0, 2.0, nan, nan]), (20, [3.0, nan, 5.0, nan]), (40, [0.0, 2.5, 4.0, nan])):
        scores, before = np.array(probe), importance.to_json()
        updated = signal.update(importance, scores, step)
        assert importance.to_json() == before and np.array_equal(scores, probe, equal_nan=True), (  # noqa: PT018
            "update changes what it is given"
        )
        seen = ~np.isnan(scores)
        for kept, meaning in ((updated.scores, "score"), (updated.measured_at, "age"), (updated.num_probes, "count")):
            assert kept.shape == (4,), f"update returns a {meaning} for {kept.shape} instead of (4,) blocks"
        assert np.array_equal(updated.scores[~seen], importance.scores[~seen], equal_nan=True), (
            "update changes the score of a block whose probe is NaN"
        )
        assert np.isfinite(updated.scores[seen]).all(), "update loses the score of a block that the probe saw"
        ages, counts = np.where(seen, step, importance.measured_at), importance.num_probes + seen
        assert np.array_equal(updated.measured_at, ages), f"measured_at is {updated.measured_at}, not {ages}"
        assert np.array_equal(updated.num_probes, counts), f"num_probes is {updated.num_probes}, not {counts}"
        resumed = Importance.from_json(json.loads(json.dumps(before, allow_nan=False)))
        assert signal.update(resumed, scores, step).to_json() == updated.to_json(), (
            "a resumed run would go on differently"
        )
        importance = updated
