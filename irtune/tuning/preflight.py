"""Everything that can be wrong with a sweep, looked for before Ray starts: space, model, data, tracking."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from irtune.config.load import ConfigError, storage_path
from irtune.config.schema import ExperimentConfig, TrackingConfig
from irtune.config.sweep import SweepConfig
from irtune.data.base import LabelledDataset, Split
from irtune.data.encode import encode_once
from irtune.layers import map_parameters
from irtune.tracking.address import local_database, resolve_tracking_uri
from irtune.training.class_weights import ClassWeights, check_class_weights
from irtune.training.deepspeed_config import deepspeed_config
from irtune.training.metrics import metric_names
from irtune.training.model import ModelError, load_tokenizer, materialize, num_blocks, shapes_only
from irtune.training.run import check_tensors
from irtune.tuning.objectives import unknown_metrics
from irtune.tuning.space_checks import check_space, doubtful, indistinct_choices
from irtune.tuning.warm_start import Earlier, earlier_trials

if TYPE_CHECKING:
    from irtune.tracking.connection import TrackingAwayError


@dataclass(frozen=True)
class Ready:
    """What was found out on the way.

    Args:
        checkpoint: The model's folder.
        dataset: The data, read and checked.
        num_blocks: L.
        tracking_uri: Where MLflow is.
        earlier: The trials that the sampler knows from the start.
        doubts: What is allowed but probably not meant.
        away: Why MLflow cannot be reached now; None if it can.
    """

    checkpoint: Path
    dataset: LabelledDataset
    num_blocks: int
    tracking_uri: str
    earlier: Earlier
    doubts: tuple[str, ...]
    away: "TrackingAwayError | None" = None

    def check_away(self, tracking: TrackingConfig, *, is_new: bool) -> None:
        """Refuse to begin a sweep whose MLflow is away, but not to go on with one that has reached it before.

        Raises:
            TrackingAwayError: If ``tracking.may_be_away`` does not allow it either.
        """
        if self.away is not None and is_new and not tracking.may_be_away:
            raise self.away


@dataclass(frozen=True)
class Sweep:
    """A sweep that is ready to run.

    Args:
        name: Its name with the time it was started, which tags its runs in MLflow.
        folder: Its folder on storage.
        config: What to do.
        ready: What was checked and read before.
        source: The file it came from, for messages.
    """

    name: str
    folder: Path
    config: SweepConfig
    ready: Ready
    source: str


def check_config(config: ExperimentConfig, source: str) -> tuple[Path, int]:
    """Check settings against the model, and every bound and choice of a search space; returns checkpoint and L.

    Raises:
        ConfigError: With every mistake.
    """
    mistakes = check_space(config) if isinstance(config, SweepConfig) else []
    try:
        checkpoint = materialize(config.model)
        num = num_blocks(checkpoint)
    except ModelError as error:
        raise ConfigError(source, [*mistakes, str(error)]) from error
    if isinstance(config, SweepConfig):
        mistakes = check_space(config, num)
    mistakes += [mistake for mistake in _complaints(config.selection.policy.check, num) if mistake not in mistakes]
    mistakes += _complaints(deepspeed_config, config.training, config.engine)
    mistakes += _complaints(_check_shapes, config, checkpoint, not mistakes)
    if mistakes:
        raise ConfigError(source, mistakes)
    return checkpoint, num


def prepare(config: SweepConfig, source: str, *, makes_store: bool = True) -> Ready:
    """Check everything and read the data.

    Args:
        config: The sweep.
        source: The file it came from, for messages.
        makes_store: Whether MLflow's database is opened, and made if absent; else only a server is looked for.

    Raises:
        ConfigError: If settings, model or space are wrong.
        DataError: If rows cannot be used.
        TrackingError: If MLflow cannot be used; that a server is away is told in ``away``.
    """
    uri = resolve_tracking_uri(config.tracking.uri, storage_path(config))
    checkpoint, blocks = check_config(config, source)
    away = None
    if makes_store or local_database(uri) is None:
        # MLflow takes seconds to import.
        from irtune.tracking.connection import TrackingAwayError, check_tracking

        try:
            check_tracking(uri)
        except TrackingAwayError as error:
            away = error
    dataset = config.data.load()
    held = {example.label for example in dataset.splits["validation"]}
    mistakes = unknown_metrics(config.tune, [f"eval/{name}" for name in metric_names(dataset.labels, held)])
    weights = _class_weights(config)
    mistakes += _complaints(check_class_weights, weights, dataset.labels)
    mistakes += _complaints(earlier_trials, config.tune, config.space)
    if mistakes:
        raise ConfigError(source, mistakes)
    earlier = earlier_trials(config.tune, config.space)
    doubts = (*doubtful(config), *check_class_weights(weights, dataset.labels), *earlier.doubts)
    return Ready(checkpoint, dataset, blocks, uri, earlier, doubts, away)


def tokenise(config: SweepConfig, ready: Ready, folder: Path) -> dict[Split, np.ndarray]:
    """Tokenise the data once for all trials, which find it in ``folder``; returns each split's lengths ``(N,)``."""
    encoded = encode_once(ready.dataset, load_tokenizer(ready.checkpoint), config.model.max_length, folder)
    return {split: part.lengths for split, part in encoded.items()}


def _class_weights(config: SweepConfig) -> ClassWeights:
    """What is said of class weights, with every label whose weight is searched."""
    said, section = config.training.class_weights, "training.class_weights."
    searched = {key.removeprefix(section): 1.0 for key in config.space if key.startswith(section)}
    return said if isinstance(said, str) and not searched else {**(said if isinstance(said, dict) else {}), **searched}


def _complaints(check: Callable[..., object], *arguments: object) -> list[str]:
    try:
        check(*arguments)
    except ValueError as error:
        return str(error).splitlines()
    return []


def _check_shapes(config: ExperimentConfig, checkpoint: Path, space_is_sound: bool) -> None:
    """Check adapter, signal and choices of a search space against the shapes of the model's parameters.

    Raises:
        ValueError: With every mistake.
    """
    try:
        blocks = map_parameters(shapes_only(checkpoint, config.adapter))
    except RuntimeError:
        # Some tuners look at weights as they are made, and here there are none.
        return
    check_tensors(config, blocks.sizes(getattr(config.importance, "tensors", "all")))
    alike = indistinct_choices(config, blocks.sizes) if isinstance(config, SweepConfig) and space_is_sound else []
    if alike:
        raise ValueError("\n".join(alike))
