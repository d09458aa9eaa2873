"""Everything that can be wrong with a sweep, looked for before Ray starts: space, model, data, tracking."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
from optuna.trial import FrozenTrial

from irtune.analysis.ablation.cell_results import Cell
from irtune.analysis.metrics import Metric
from irtune.config.ablation_schema import AblationConfig
from irtune.config.load import ConfigError, dotted_keys, storage_path
from irtune.config.schema import ExperimentConfig, TrackingConfig
from irtune.config.study_schema import StudyConfig
from irtune.config.sweep_schema import SweepConfig
from irtune.data.dataset import DatasetConfig, LabelledDataset, Split
from irtune.data.encode import EncodedDataset, encode, encode_once
from irtune.data.label_names import metric_labels
from irtune.search.ablation_cells import cells_of, check_cells, configurations
from irtune.search.objectives import unknown_metrics
from irtune.search.space_checks import check_space, doubtful, values_of
from irtune.search.warm_start import earlier_trials
from irtune.studies.budgets import cells_at_budget
from irtune.studies.shape_checks import check_shapes
from irtune.tracking.address import local_database, resolve_tracking_uri
from irtune.tracking.run_record import DATA_TAG, DIGEST_TAG
from irtune.training.class_weights import ClassWeights, check_class_weights
from irtune.training.deepspeed_config import deepspeed_config
from irtune.training.errors import ModelError
from irtune.training.evaluation import check_metric, metric_names
from irtune.training.model import classifier_shape, materialize, num_blocks
from irtune.training.shared_prefix import common_tokens, sharing_of
from irtune.training.tokenizer import check_length, check_vocabulary, load_tokenizer, max_positions

if TYPE_CHECKING:
    from irtune.tracking.connection import TrackingAwayError


AnyStudy = TypeVar("AnyStudy", bound=StudyConfig, covariant=True)

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
        data: What the data was loaded from; None: as the experiment says.
    """

    checkpoint: Path
    num_blocks: int
    dataset: LabelledDataset
    encoded: EncodedDataset
    positions: int | None
    data: DatasetConfig | None = None

    @cached_property
    def num_common(self) -> int:
        """The number of tokens that all examples begin with."""
        return len(common_tokens(self.encoded))

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
    """The result of the checks.

    Args:
        corpora: Model and data; of an ablation on several corpora one for each.
        tracking_uri: Where MLflow is.
        doubts: What is allowed but probably not meant.
        earlier: The trials that a sweep's sampler knows from the start.
        away: Why MLflow cannot be reached now; None if it can.
    """

    corpora: Sequence[Inputs]
    tracking_uri: str
    doubts: tuple[str, ...]
    earlier: Sequence[FrozenTrial] = ()
    away: "TrackingAwayError | None" = None

    @property
    def inputs(self) -> Inputs:
        """The first of them."""
        return self.corpora[0]

    def fingerprint(self) -> str:
        """Of all data."""
        return "-".join(one.dataset.fingerprint() for one in self.corpora)

    def data_tags(self, data: DatasetConfig) -> dict[str, str]:
        """The tags of a run on the data that a configuration asks for; none if that is not data as it was checked."""
        for one in self.corpora:
            if one.data == data:
                return {DATA_TAG: one.dataset.name, DIGEST_TAG: one.dataset.fingerprint()}
        return {}

    def check_away(self, tracking: TrackingConfig, *, is_new: bool) -> None:
        """Refuse to begin a sweep whose MLflow is away, but not to go on with one that has reached it before.

        Raises:
            TrackingAwayError: If ``tracking.may_be_away`` does not allow it either.
        """
        if self.away is not None and is_new and not tracking.may_be_away:
            raise self.away


@dataclass(frozen=True)
class Study(Generic[AnyStudy]):
    """A sweep or an ablation that is ready to run.

    Args:
        name: Its name with the time it was started, which tags its runs in MLflow.
        folder: Its folder on storage.
        config: What to do.
        ready: What was checked and read before.
        source: The file it came from, for messages.
    """

    name: str
    folder: Path
    config: AnyStudy
    ready: Ready
    source: str

    @property
    def metric(self) -> Metric:
        """The metric that its trials are scored by."""
        return Metric.named(self.config.metric, metric_labels(self.ready.inputs.dataset.labels))


def study_cells(study: "Ablation") -> list[Cell]:
    """The cells of an ablation, at the budget at which they are compared."""
    inputs = study.ready.inputs
    lengths = inputs.encoded.splits["train"].lengths
    return cells_at_budget(study.config, inputs.checkpoint, lengths, inputs.num_common)


Sweep = Study[SweepConfig]
Ablation = Study[AblationConfig]


def check_inputs(config: ExperimentConfig, source: str) -> list[Inputs]:
    """Check settings against the model, every bound and choice of a search space or cell, and the data; tokenise it.

    Returns:
        One for each corpus of an ablation that has several; else one.

    Raises:
        ConfigError: With every mistake.
    """
    mistakes = _mistaken_variations(config)
    loaded, checkpoint = [], None
    for data in [] if mistakes and _corpora(config) else _corpora(config) or [config.data]:
        try:
            loaded.append((data, data.load()))
        except ValueError as error:
            mistakes.append(str(error))
    try:
        checkpoint = materialize(config.model)
        blocks = num_blocks(checkpoint)
    except ModelError as error:
        raise ConfigError(source, [*mistakes, str(error)]) from error
    mistakes += [mistake for mistake in _config_mistakes(config, checkpoint, blocks) if mistake not in mistakes]
    if mistakes:
        raise ConfigError(source, mistakes)
    try:
        found = [_encoded(config, checkpoint, blocks, data, dataset) for data, dataset in loaded]
        if isinstance(config, AblationConfig):
            cells_at_budget(config, checkpoint, found[0].encoded.splits["train"].lengths, found[0].num_common)
        return found
    except ValueError as error:
        raise ConfigError(source, str(error).splitlines()) from error


def _config_mistakes(config: ExperimentConfig, checkpoint: Path, blocks: int) -> list[str]:
    """Mistakes in the settings, but for those that the data shows."""
    mistakes = _mistaken_variations(config, blocks)
    mistakes += [mistake for mistake in _complaints(config.selection.policy.check, blocks) if mistake not in mistakes]
    mistakes += _complaints(deepspeed_config, config.training, config.engine)
    return mistakes + _complaints(check_shapes, config, checkpoint, not mistakes)


def _corpora(config: ExperimentConfig) -> list[DatasetConfig]:
    """The corpora of an ablation whose cells ``check_cells`` accepts; none where it has only its own data."""
    if not isinstance(config, AblationConfig) or not config.ablation.corpora:
        return []
    try:
        varied = configurations(config)
    except ConfigError:
        return []
    first = {cell.corpus: varied[cell.name].data for cell in reversed(cells_of(config))}
    return [first[corpus] for corpus in config.ablation.corpora]


def _mistaken_variations(config: ExperimentConfig, blocks: int | None = None) -> list[str]:
    """Mistakes in what trials vary, on a model of so many blocks."""
    if isinstance(config, SweepConfig):
        return check_space(config, blocks)
    return check_cells(config, blocks) if isinstance(config, AblationConfig) else []


def _encoded(
    config: ExperimentConfig, checkpoint: Path, blocks: int, data: DatasetConfig, dataset: LabelledDataset
) -> Inputs:
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
    inputs = Inputs(checkpoint, blocks, dataset, encoded, positions, data)
    sharing_of(shape, config.engine.share_prefix, inputs.num_common, encoded.max_length)
    return inputs


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
    if isinstance(config, AblationConfig):
        found = [dotted_keys(one).get(key) for one in configurations(config).values()]
        return [fixed, *(value for value in found if value is not None)]
    searched = values_of(config.space[key]) if isinstance(config, SweepConfig) and key in config.space else []
    return [fixed, *searched]


def prepare(config: StudyConfig, source: str, *, makes_store: bool = True) -> Ready:
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
    corpora = check_inputs(config, source)
    dataset = corpora[0].dataset
    away = None
    if makes_store or local_database(uri) is None:
        # MLflow takes seconds to import.
        from irtune.tracking.connection import TrackingAwayError, check_tracking

        try:
            check_tracking(uri)
        except TrackingAwayError as error:
            away = error
    doubts = (*dataset.notes, *check_class_weights(_class_weights(config), dataset.labels))
    if not isinstance(config, SweepConfig):
        return Ready(corpora, uri, doubts, away=away)
    held = {example.label for example in dataset.splits["validation"]}
    mistakes = unknown_metrics(config.tune, [f"eval/{name}" for name in metric_names(dataset.labels, held)])
    mistakes += _complaints(earlier_trials, config.tune, config.space)
    if mistakes:
        raise ConfigError(source, mistakes)
    earlier, left_out = earlier_trials(config.tune, config.space)
    return Ready(corpora, uri, (*doubts, *doubtful(config), *left_out), earlier, away)


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
