"""Everything that can be wrong with a sweep, looked for before Ray starts: space, model, data, tracking."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from irtune.config.load import ConfigError, storage_path
from irtune.config.schema import ExperimentConfig, SweepConfig
from irtune.data.base import RevisionDataset, Split
from irtune.data.encode import encode_once
from irtune.layers import map_parameters
from irtune.plugins import nearest
from irtune.tracking.address import local_database, resolve_tracking_uri
from irtune.training.deepspeed_config import deepspeed_config
from irtune.training.metrics import metric_names
from irtune.training.model import ModelError, load_tokenizer, materialize, num_blocks, shapes_only
from irtune.training.run import check_tensors
from irtune.tuning.space_checks import check_space, doubtful, indistinct_choices


@dataclass(frozen=True)
class Ready:
    """What was found out on the way.

    Args:
        dataset: The data, read and checked.
        num_blocks: L.
        tracking_uri: Where MLflow is.
        doubts: What is allowed but probably not meant.
        lengths: Tokens of each example ``(N,)`` of each split.
    """

    dataset: RevisionDataset
    num_blocks: int
    tracking_uri: str
    doubts: tuple[str, ...]
    lengths: Mapping[Split, np.ndarray]


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


def prepare(config: SweepConfig, source: str, encoded_folder: Path, *, makes_store: bool = True) -> Ready:
    """Check everything, read the data and tokenise it once for all trials.

    Args:
        config: The sweep.
        source: The file it came from, for messages.
        encoded_folder: Where the tokenised data goes.
        makes_store: Whether an MLflow database that does not exist yet is made; else it is not looked at.

    Raises:
        ConfigError: If settings, model or space are wrong.
        DataError: If rows cannot be used.
        TrackingError: If MLflow cannot be reached.
    """
    from irtune.tracking.connection import check_tracking

    uri = resolve_tracking_uri(config.tracking.uri, storage_path(config))
    checkpoint, blocks = check_config(config, source)
    database = local_database(uri)
    if makes_store or database is None or database.exists():
        check_tracking(uri)
    dataset = config.data.load()
    metrics = [f"eval/{name}" for name in metric_names(dataset.labels)]
    if config.tune.metric not in metrics:
        mistake = f"tune.metric: unknown metric {config.tune.metric!r}: {nearest(config.tune.metric, metrics)}"
        raise ConfigError(source, [mistake])
    encoded = encode_once(dataset, load_tokenizer(checkpoint), config.model.max_length, encoded_folder)
    lengths = {split: part.lengths for split, part in encoded.items()}
    return Ready(dataset, blocks, uri, tuple(doubtful(config)), lengths)


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
