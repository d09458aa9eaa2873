"""Everything that can be wrong with a sweep, looked for before Ray starts: space, model, data, tracking."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from irtune.analysis.metrics import Metric
from irtune.config.load import ConfigError, storage_path
from irtune.config.schema import ExperimentConfig, TrackingConfig
from irtune.config.sweep_schema import SweepConfig
from irtune.data.dataset import LabelledDataset, Split
from irtune.data.encode import EncodedDataset, encode, encode_once
from irtune.data.label_names import metric_labels
from irtune.layers import map_parameters
from irtune.search.objectives import unknown_metrics
from irtune.search.space_checks import check_space, doubtful, indistinct_choices, values_of
from irtune.search.warm_start import Earlier, earlier_trials
from irtune.tracking.address import local_database, resolve_tracking_uri
from irtune.training.class_weights import ClassWeights, check_class_weights
from irtune.training.deepspeed_config import deepspeed_config
from irtune.training.errors import ModelError
from irtune.training.evaluation import check_metric, metric_names
from irtune.training.model import classifier_shape, materialize, num_blocks, shapes_only
from irtune.training.run import check_tensors
from irtune.training.tokenizer import check_length, check_vocabulary, load_tokenizer, max_positions

if TYPE_CHECKING:
    from irtune.tracking.connection import TrackingAwayError


PROMPT_SHOWN = 400
"""Characters of an example that are shown as the model reads it."""


@dataclass(frozen=True)
class Inputs:
    """The data as the model reads it, checked.

    Args:
        checkpoint: The model's folder.
        num_blocks: L.
        dataset: The data.
        encoded: Its token ids.
        positions: The most tokens that the model reads; None if there is no such limit.
    """

    checkpoint: Path
    num_blocks: int
    dataset: LabelledDataset
    encoded: EncodedDataset
    positions: int | None

    def facts(self) -> dict[str, str]:
        """Return what to know of the data, in words, by what it is about."""
        sizes = ", ".join(f"{len(examples)} {split}" for split, examples in self.dataset.splits.items())
        skipped = f"; {self.dataset.num_skipped} rows skipped" if self.dataset.num_skipped else ""
        labels = f"{len(self.dataset.labels)} labels"
        return {"data": f"{self.dataset.name}: {sizes}; {labels}{skipped}", "lengths": self.encoded.in_words()}

    def asked(self) -> str:
        """The instruction, in one line."""
        if self.encoded.instruction is None:
            return "nothing: inputs hold the texts alone"
        return one_line(self.encoded.instruction, PROMPT_SHOWN)

    def shown(self) -> str:
        """The first training example as the model reads it, but for what is cut of it."""
        texts = self.dataset.splits["train"][0].texts
        return one_line(self.dataset.prompt.render(self.encoded.instruction, texts), PROMPT_SHOWN)

    def keep(self, config: ExperimentConfig, folder: Path) -> dict[Split, np.ndarray]:
        """Keep the token ids in ``folder``, where all trials find them; returns each split's lengths ``(N,)``."""
        tokenizer = load_tokenizer(self.checkpoint)
        length = config.model.max_length
        kept = encode_once(self.dataset, tokenizer, length, folder, self.positions, made=self.encoded)
        return {split: part.lengths for split, part in kept.splits.items()}


def one_line(text: str, most: int) -> str:
    """``text`` in one line of at most ``most`` characters, line breaks as in Python."""
    line = text.replace("\n", "\\n")
    return line if len(line) <= most else f"{line[:most]}…"


@dataclass(frozen=True)
class Ready:
    """What was found out on the way.

    Args:
        inputs: Model and data.
        tracking_uri: Where MLflow is.
        earlier: The trials that the sampler knows from the start.
        doubts: What is allowed but probably not meant.
        away: Why MLflow cannot be reached now; None if it can.
    """

    inputs: Inputs
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

    @property
    def metric(self) -> Metric:
        """What its trials are scored by."""
        return Metric.named(self.config.metric, metric_labels(self.ready.inputs.dataset.labels))


def check_inputs(config: ExperimentConfig, source: str) -> Inputs:
    """Check settings against the model, every bound and choice of a search space, and the data; tokenise the data.

    Raises:
        ConfigError: With every mistake.
    """
    mistakes = check_space(config) if isinstance(config, SweepConfig) else []
    dataset, checkpoint = None, None
    try:
        dataset = config.data.load()
    except ValueError as error:
        mistakes.append(str(error))
    try:
        checkpoint = materialize(config.model)
        blocks = num_blocks(checkpoint)
    except ModelError as error:
        raise ConfigError(source, [*mistakes, str(error)]) from error
    mistakes += [mistake for mistake in _config_mistakes(config, checkpoint, blocks) if mistake not in mistakes]
    if dataset is None or mistakes:
        raise ConfigError(source, mistakes)
    try:
        return _encoded(config, checkpoint, blocks, dataset)
    except ValueError as error:
        raise ConfigError(source, str(error).splitlines()) from error


def _config_mistakes(config: ExperimentConfig, checkpoint: Path, blocks: int) -> list[str]:
    """Mistakes in the settings, but for those that the data shows."""
    mistakes = check_space(config, blocks) if isinstance(config, SweepConfig) else []
    mistakes += [mistake for mistake in _complaints(config.selection.policy.check, blocks) if mistake not in mistakes]
    mistakes += _complaints(deepspeed_config, config.training, config.engine)
    return mistakes + _complaints(_check_shapes, config, checkpoint, not mistakes)


def _encoded(config: ExperimentConfig, checkpoint: Path, blocks: int, dataset: LabelledDataset) -> Inputs:
    """Tokenise the data, and check that the model can read it and that it fills a batch.

    Raises:
        ValueError: With every mistake.
    """
    check_metric(config.metric, dataset)
    check_class_weights(_class_weights(config), dataset.labels)
    tokenizer, shape = load_tokenizer(checkpoint), classifier_shape(checkpoint)
    positions = max_positions(shape, tokenizer)
    for length in _values(config, "model.max_length", config.model.max_length):
        check_length(length, positions)
    encoded = encode(dataset, tokenizer, config.model.max_length, positions)
    check_vocabulary(shape, tokenizer, max(int(part.token_ids.max()) for part in encoded.splits.values()))
    _check_batch(config, len(encoded.splits["train"]))
    return Inputs(checkpoint, blocks, dataset, encoded, positions)


def _check_batch(config: ExperimentConfig, num_train: int) -> None:
    """Refuse fewer training examples than all workers take at a time, in any trial of a search.

    Raises:
        ValueError: With both numbers.
    """
    batch = max(_values(config, "training.micro_batch_size", config.training.micro_batch_size))
    workers = max(_values(config, "engine.num_workers", config.engine.num_workers))
    fewest = min(num_train, *_values(config, "data.max_train", num_train))
    if batch * workers > fewest:
        raise ValueError(
            f"training.micro_batch_size: {batch} on engine.num_workers={workers} takes {batch * workers} examples at a "
            f"time, and there are {fewest} to train on. Set training.micro_batch_size={max(fewest // workers, 1)} or "
            "less, or give more data"
        )


def _values(config: ExperimentConfig, key: str, fixed: Any) -> list[Any]:
    """The values of a setting between which all trials lie."""
    searched = values_of(config.space[key]) if isinstance(config, SweepConfig) and key in config.space else []
    return [fixed, *searched]


def prepare(config: SweepConfig, source: str, *, makes_store: bool = True) -> Ready:
    """Check everything and read the data.

    Args:
        config: The sweep.
        source: The file it came from, for messages.
        makes_store: Whether MLflow's database is opened, and made if absent; else only a server is looked for.

    Raises:
        ConfigError: If settings, model, space or data are wrong.
        TrackingError: If MLflow cannot be used; that a server is away is told in ``away``.
    """
    uri = resolve_tracking_uri(config.tracking.uri, storage_path(config))
    inputs = check_inputs(config, source)
    away = None
    if makes_store or local_database(uri) is None:
        # MLflow takes seconds to import.
        from irtune.tracking.connection import TrackingAwayError, check_tracking

        try:
            check_tracking(uri)
        except TrackingAwayError as error:
            away = error
    held = {example.label for example in inputs.dataset.splits["validation"]}
    names = [f"eval/{name}" for name in metric_names(inputs.dataset.labels, held)]
    mistakes = unknown_metrics(config.tune, names)
    mistakes += _complaints(earlier_trials, config.tune, config.space)
    if mistakes:
        raise ConfigError(source, mistakes)
    earlier = earlier_trials(config.tune, config.space)
    unsaid = check_class_weights(_class_weights(config), inputs.dataset.labels)
    doubts = (*inputs.dataset.notes, *unsaid, *doubtful(config), *earlier.doubts)
    return Ready(inputs, uri, earlier, doubts, away)


def _class_weights(config: ExperimentConfig) -> ClassWeights:
    """Return what is said of class weights, with every label whose weight is searched."""
    said, section = config.training.class_weights, "training.class_weights."
    space = config.space if isinstance(config, SweepConfig) else {}
    searched = {key.removeprefix(section): 1.0 for key in space if key.startswith(section)}
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
    check_tensors(config, blocks)
    alike = indistinct_choices(config, blocks.sizes) if isinstance(config, SweepConfig) and space_is_sound else []
    if alike:
        raise ValueError("\n".join(alike))
