"""Everything that can be wrong with a sweep, looked for before Ray starts: space, model, data, tracking."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from irtune.analysis.metrics import Metric
from irtune.config.ablation_schema import AblationConfig
from irtune.config.load import ConfigError, dotted_keys, storage_path
from irtune.config.schema import ExperimentConfig, TrackingConfig
from irtune.config.study_schema import StudyConfig
from irtune.config.sweep_schema import SweepConfig
from irtune.data.dataset import DatasetConfig, LabelledDataset
from irtune.data.label_names import metric_labels
from irtune.search.ablation_cells import cells_of, check_cells, configurations
from irtune.search.objectives import unknown_metrics
from irtune.search.space_checks import check_space, doubtful, values_of
from irtune.studies.inputs import Inputs, read_texts
from irtune.studies.kept_facts import kept
from irtune.studies.shape_checks import check_shapes
from irtune.tracking.address import local_database, resolve_tracking_uri
from irtune.tracking.run_record import DATA_TAG, DIGEST_TAG
from irtune.training.class_weights import ClassWeights, check_class_weights
from irtune.training.compile_checks import check_compile
from irtune.training.deepspeed_config import deepspeed_config
from irtune.training.errors import ModelError
from irtune.training.evaluation import check_metric, metric_names
from irtune.training.pretrained import materialize, num_blocks
from irtune.training.quantized import check_quantization

# What imports torch, transformers, Ray or Optuna is imported where it is needed: a look at a file takes no second.
if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from irtune.analysis.ablation.cell_results import Cell
    from irtune.tracking.connection import TrackingAwayError


AnyStudy = TypeVar("AnyStudy", bound=StudyConfig, covariant=True)


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
    earlier: "Sequence[FrozenTrial]" = ()
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


def study_cells(study: "Ablation") -> "list[Cell]":
    """The cells of an ablation, at the budget at which they are compared."""
    from irtune.studies.budgets import cells_at_budget

    inputs = study.ready.inputs
    lengths = inputs.encoded.splits["train"].lengths
    return cells_at_budget(study.config, inputs.checkpoint, lengths, inputs.num_common)


Sweep = Study[SweepConfig]
Ablation = Study[AblationConfig]


def check_inputs(config: ExperimentConfig, source: str, *, reads_again: bool = True) -> list[Inputs]:
    """Check settings against the model, every bound and choice of a search space or cell, and the data; tokenise it.

    Args:
        config: A run, a sweep or an ablation.
        source: The file it came from, for messages.
        reads_again: Whether texts are tokenised that this model was found to read before.

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
        blocks = int(kept(partial(num_blocks, checkpoint), checkpoint, "num_blocks"))
    except ModelError as error:
        raise ConfigError(source, [*mistakes, str(error)]) from error
    mistakes += [mistake for mistake in _config_mistakes(config, checkpoint, blocks) if mistake not in mistakes]
    if mistakes:
        raise ConfigError(source, mistakes)
    try:
        found = [_encoded(config, checkpoint, blocks, data, dataset, reads_again) for data, dataset in loaded]
        if isinstance(config, AblationConfig) and config.ablation.matched not in ("nothing", "k"):
            from irtune.studies.budgets import cells_at_budget

            cells_at_budget(config, checkpoint, found[0].encoded.splits["train"].lengths, found[0].num_common)
        return found
    except ValueError as error:
        raise ConfigError(source, str(error).splitlines()) from error


def _config_mistakes(config: ExperimentConfig, checkpoint: Path, blocks: int) -> list[str]:
    """Mistakes in the settings, but for those that the data shows."""
    mistakes = _mistaken_variations(config, blocks)
    mistakes += [mistake for mistake in _complaints(config.selection.policy.check, blocks) if mistake not in mistakes]
    mistakes += _complaints(deepspeed_config, config.training, config.engine) + _complaints(check_quantization, config)
    if "blocks" in _values(config, "engine.compile", config.engine.compile):
        mistakes += _complaints(check_compile, config)
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
    config: ExperimentConfig,
    checkpoint: Path,
    blocks: int,
    data: DatasetConfig,
    dataset: LabelledDataset,
    reads_again: bool,
) -> Inputs:
    """Tokenise the data, and check that the model can read it and that it fills a batch.

    Raises:
        ValueError: With every mistake.
    """
    check_metric(config.metric, dataset)
    check_class_weights(_class_weights(config), dataset.labels)
    _check_batch(config, len(dataset.splits["train"]))
    lengths = _values(config, "model.max_length", config.model.max_length)
    how = (lengths, config.model.attention, config.engine.share_prefix)
    read = cache(partial(read_texts, checkpoint, dataset, *how))
    if reads_again:
        read()
    asked = repr((dataset.fingerprint(), *how))
    found = kept(lambda: {"lengths": read()[0].in_words(), "positions": read()[1]}, checkpoint, "read", asked)
    return Inputs(checkpoint, blocks, dataset, lambda: read()[0], found["positions"], data, found["lengths"])


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
        makes_store: Whether MLflow's database is opened, and made if absent, and all texts are tokenised; else only a
            server is looked for, and texts that the model was found to read before are not read again.

    Raises:
        ConfigError: If settings, model, space or data are wrong.
        TrackingError: If MLflow cannot be used; that a server is away is told in ``away``.
    """
    uri = resolve_tracking_uri(config.tracking.uri, storage_path(config))
    corpora = check_inputs(config, source, reads_again=makes_store)
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
    earlier, left_out = list["FrozenTrial"](), list[str]()
    if config.tune.warm_start is not None:
        from irtune.search.warm_start import earlier_trials

        try:
            earlier, left_out = earlier_trials(config.tune, config.space)
        except ValueError as error:
            mistakes += str(error).splitlines()
    if mistakes:
        raise ConfigError(source, mistakes)
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
