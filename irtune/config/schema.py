"""An experiment as one tree. Every setting has one dotted key, one default and one home."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    ModelWrapValidatorHandler,
    SerializeAsAny,
    field_validator,
    model_validator,
)

from irtune import plugins
from irtune.analysis.trials import BASELINE
from irtune.config.engine_schema import EngineConfig
from irtune.config.method_settings import forget_method, with_method
from irtune.config.section import Parts, Section, mistakes
from irtune.data import DATASETS
from irtune.data.dataset import DatasetConfig
from irtune.importance import SIGNALS, GradientNorm, ImportanceSignal
from irtune.methods import METHODS
from irtune.selection import POLICIES, SelectionPolicy


@dataclass(frozen=True)
class Variants:
    """A section whose ``name`` chooses one of several classes; the fields of that class are its other keys."""

    base: type[BaseModel]
    registered: Mapping[str, type[BaseModel]]
    default: str

    def chosen(self, section: Mapping[str, Any]) -> type[BaseModel]:
        """The class that ``section`` names.

        Raises:
            ValueError: If there is no such class.
        """
        name = section.get("name", self.default)
        if not isinstance(name, str):
            raise ValueError(f"must be text, not {name!r}")
        if name in METHODS and name not in self.registered:
            raise ValueError(f"{name!r} is a method, which brings its own policy and signal: method={name}")
        variant: type[BaseModel] = plugins.resolve(name, self.registered, self.base)
        return variant

    def build(self, section: Any) -> Any:
        """Turns ``{name: top_k, k: 10}`` into the variant called ``top_k`` with its options checked."""
        if isinstance(section, self.base):
            # Whoever makes a variant by its class has chosen it, although the name is only that class's default.
            return section.model_copy(update=section.model_dump(include={"name"}))
        if not isinstance(section, Mapping):
            return section
        try:
            variant = self.chosen(section)
        except ValueError as error:
            raise mistakes({"name": str(error)}) from error
        return variant.model_validate(section)


VARIANTS = {
    "data": Variants(DatasetConfig, DATASETS, "synthetic"),
    "importance": Variants(ImportanceSignal, SIGNALS, "gradient_norm"),
    "selection.policy": Variants(SelectionPolicy, POLICIES, "variance_split"),
}
"""The sections whose keys depend on their ``name``, by dotted key."""

AnyDataset = Annotated[SerializeAsAny[DatasetConfig], BeforeValidator(VARIANTS["data"].build)]
AnySignal = Annotated[SerializeAsAny[ImportanceSignal], BeforeValidator(VARIANTS["importance"].build)]
AnyPolicy = Annotated[SerializeAsAny[SelectionPolicy], BeforeValidator(VARIANTS["selection.policy"].build)]


Attention = Literal["auto", "eager", "sdpa", "flash_attention_2"]
"""Ways to compute attention, as transformers calls them."""

Quantization = Literal["8bit", "4bit"]
"""Ways to hold pretrained matrices: LLM.int8(), or QLoRA's NF4."""


class ModelConfig(Section):
    """The pretrained model whose blocks are studied."""

    name: str = Field(
        "smollm2-135m",
        description="smollm2-135m, tiny-random, a hub name, a local folder or a .gguf file",
    )
    revision: str | None = Field(None, description="branch, tag or commit on the hub")
    max_length: Annotated[int, Field(ge=8)] | Literal["auto"] = Field(
        "auto",
        description="the most tokens of an input; longer texts are trimmed around what changed, and counted; auto: "
        "what the longest example needs, up to 512 and to what the model reads",
    )
    train_head: bool = Field(True, description="false keeps the classification head at its random start")
    gradient_checkpointing: bool = Field(False, description="recompute activations (non-reentrant) to save memory")
    attention: Attention = Field(
        "auto",
        description="how attention is computed: sdpa (PyTorch's fused kernels), eager (matrix by matrix; keeps all "
        "scores of a pass), flash_attention_2 (needs a GPU, half precision and the package flash-attn); auto: sdpa "
        "where the model has it, else eager",
    )
    quantization: Quantization | None = Field(
        None,
        description="hold pretrained matrices in 8 bits (LLM.int8) or 4 (NF4), by bitsandbytes (pip install "
        "'irtune[quantization]'); adapters and head stay in engine.precision",
    )


class AdapterConfig(Section):
    """The PEFT adapter that sits in every block."""

    type: str = Field("lora", description="lora, dora, or any PEFT tuner with parameters per block, such as ia3")
    r: int = Field(32, gt=0, description="rank, for tuners that have one")
    alpha: float = Field(64, gt=0, description="scaling numerator, for tuners that have one")
    dropout: float = Field(0.05, ge=0, lt=1, description="adapter dropout, for tuners that have one")
    target_modules: tuple[str, ...] | str = Field(
        ("q_proj", "k_proj", "v_proj", "up_proj", "down_proj"),
        description="module name suffixes, or all-linear",
    )
    options: dict[str, Any] = Field({}, description="further options of the PEFT config, passed through")


class SelectionConfig(Section):
    """Which blocks train, and how often that is decided anew."""

    policy: AnyPolicy = Field(default_factory=lambda: POLICIES["variance_split"](name="variance_split"))
    reselect_every: int = Field(20, ge=0, description="refresh interval, in optimizer steps; 0 chooses once")
    measure: Literal["when_needed", "always"] = Field(
        "when_needed", description="always also probes for policies that do not look at scores, for their traces"
    )
    on_thaw: Literal["keep", "reset"] = Field(
        "keep", description="what the optimizer knows of a block that trains again: kept as it was frozen, or forgotten"
    )
    frozen_state: Literal["keep", "drop"] = Field(
        "keep",
        description="drop frees the moments of frozen blocks, which then start anew when they train again: the results "
        "of on_thaw=reset in less memory",
    )
    probe_memory: Literal["low", "fast"] = Field(
        "low",
        description="low has refreshes recompute blocks that do not train in other steps, so that they take little "
        "more memory than those, at equal results; fast keeps their activations",
    )
    self_check: bool = Field(True, description="check at the start that freezing and probing leave no trace")


def _labels_as_text(weights: Any) -> Any:
    """Labels that YAML reads as numbers as text; what it reads as something else was meant otherwise."""
    if not isinstance(weights, Mapping):
        return weights
    if not weights:
        raise ValueError("names no label; none weights all alike")
    lost = [label for label in weights if isinstance(label, bool) or not isinstance(label, str | int | float)]
    if lost:
        raise mistakes({str(lost[0]): f"YAML reads the label as {lost[0]!r}: put it in quotes"})
    return {str(label): weight for label, weight in weights.items()}


Weight = Annotated[float, Field(gt=0)]


class TrainingConfig(Section):
    """Optimisation and evaluation."""

    max_steps: int = Field(200, gt=0, description="optimizer steps")
    micro_batch_size: int = Field(8, gt=0, description="examples per rank and forward pass")
    gradient_accumulation_steps: int = Field(1, gt=0, description="forward passes per optimizer step")
    learning_rate: float = Field(2e-4, gt=0, description="of AdamW, after the warm-up")
    weight_decay: float = Field(0.0, ge=0, description="of AdamW, for what trains")
    adam_beta1: float = Field(0.9, ge=0, lt=1, description="decay of the mean of gradients")
    adam_beta2: float = Field(0.999, ge=0, lt=1, description="decay of the mean of their squares")
    adam_epsilon: float = Field(1e-8, gt=0, description="added to the root of the latter")
    warmup_steps: int = Field(0, ge=0, description="optimizer steps of linear warm-up")
    lr_schedule: Literal["linear", "cosine", "constant", "constant_with_warmup"] = Field(
        "linear", description="how the learning rate falls after the warm-up"
    )
    max_grad_norm: float = Field(1.0, ge=0, description="clip the global gradient norm; 0 = off")
    class_weights: Annotated[
        Literal["none", "balanced"] | dict[str, Weight],
        BeforeValidator(_labels_as_text),
    ] = Field(
        "none",
        description="how much examples of a class count in the training loss, relative to others: none (all alike), "
        "balanced (1 over their number), or a weight by label (1.0 for those left out)",
    )
    eval_every: int = Field(50, gt=0, description="optimizer steps between evaluations on validation")
    eval_batch_size: int = Field(16, gt=0, description="examples per rank and forward pass of an evaluation")
    checkpoint_every: int = Field(50, gt=0, description="optimizer steps between checkpoints to resume from")
    log_every: int = Field(1, gt=0, description="optimizer steps between points of train/…")
    on_out_of_memory: Literal["fail", "smaller_micro_batches"] = Field(
        "fail", description="whether a retry may take smaller micro-batches, and more of them per step; tried once"
    )


Share = Literal["none", "best", "all"]
"""Of how many trials something is kept."""


class TrackingConfig(Section):
    """Where MLflow is, and what is kept of trials besides measurements."""

    uri: str | None = Field(None, description="default: MLFLOW_TRACKING_URI, else sqlite under storage")
    experiment: str = Field("irtune", description="the MLflow experiment that runs go into")
    may_be_away: bool = Field(
        False,
        description="begin also while the server does not answer: records wait in the sweep's folder until it does",
    )
    keep_adapters: Share = Field(
        "best",
        description="whose adapters stay on storage: of all finished trials, or of the best ones, the baseline, the "
        "Pareto front and the finalists with their repeats",
    )
    upload_adapters: Share = Field(
        "best", description="whose adapters go to MLflow, of those that stay on storage: as models to load and serve"
    )
    register_winner: bool | Annotated[str, Field(pattern=r"^[^/:'\"]+$")] = Field(
        False,
        description="register the best trial's model, with the alias champion, once the study has ended: under this "
        "name, or with true under the study's",
    )
    system_metrics: bool = Field(
        False, description="record at each evaluation what MLflow's monitors measure of every node of a trial"
    )

    @model_validator(mode="after")
    def _what_is_uploaded_is_kept(self) -> "TrackingConfig":
        if get_args(Share).index(self.upload_adapters) > get_args(Share).index(self.keep_adapters):
            message = f"{self.upload_adapters} cannot be uploaded where keep_adapters is {self.keep_adapters}"
            raise mistakes({"upload_adapters": f"{message}; set both alike, or tracking.keep_adapters=all"})
        if self.register_winner and self.upload_adapters == "none":
            message = "there is no model to register where upload_adapters is none"
            raise mistakes({"register_winner": f"{message}; set tracking.upload_adapters=best"})
        return self


class ExperimentConfig(Section):
    """One training run.

    The settings of its ``method`` lie under what is said explicitly, and those of the schema under both. What was said
    explicitly is what ``model_fields_set`` holds, down to the last section.

    Example:
        >>> from irtune import ExperimentConfig
        >>> config = ExperimentConfig(method="lisa", training={"max_steps": 100})
        >>> config.selection.policy.k, config.strategy
        (2, 'lisa')
    """

    name: str = Field(
        "experiment",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="what the sweep's folder and runs are called after",
    )
    method: str | None = Field(None, description="a named preset, which `irtune methods` lists; null = none")
    seed: int = Field(0, ge=0, description="of everything random in a trial")
    metric: Annotated[str, AfterValidator(lambda name: name.removeprefix("eval/"))] = Field(
        "f1_macro",
        description="what decides (best weights, stopping, best trial, answer): f1_macro, accuracy, auprc_macro, loss, "
        "…, or of one class f1/CLASS",
    )
    storage: str = Field("~/irtune_results", description="everything a run leaves behind lies under this folder")
    model: ModelConfig = ModelConfig()
    adapter: AdapterConfig = AdapterConfig()
    data: AnyDataset = Field(default_factory=lambda: DATASETS["synthetic"](name="synthetic"))
    importance: AnySignal = GradientNorm()
    selection: SelectionConfig = Field(default_factory=SelectionConfig)
    training: TrainingConfig = TrainingConfig()
    engine: EngineConfig = EngineConfig()
    tracking: TrackingConfig = TrackingConfig()

    @field_validator("method")
    @classmethod
    def _method_is_known(cls, method: str | None) -> str | None:
        if method is not None and method not in METHODS:
            raise ValueError(f"unknown method {method!r}: {plugins.nearest(method, METHODS)}")
        return method

    @model_validator(mode="wrap")
    @classmethod
    def _over_its_method(cls, tree: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Lays the method's settings under those of ``tree``, and refuses what would make it another method."""
        if not isinstance(tree, Mapping):
            return handler(tree)
        config = handler(with_method(tree))
        forget_method(config, tree)
        identity = METHODS[config.method].identity if config.method else {}
        chosen = {"selection.policy": config.selection.policy.name, "importance": config.importance.name}
        wrong = {
            f"{section}.name": f"{chosen[section]!r} contradicts method: {config.method}, which is {variant!r}; "
            f"leave it out, or set method=null, which keeps the other settings of {config.method}"
            for section, variant in identity.items()
            if chosen[section] != variant
        }
        if wrong:
            raise mistakes(wrong)
        return config

    @model_validator(mode="after")
    def _flash_attention_has_what_it_needs(self) -> Self:
        engine = self.engine
        if self.model.attention == "flash_attention_2" and (engine.precision == "fp32" or not engine.gpus_per_worker):
            at = f"engine.precision={engine.precision} and engine.gpus_per_worker={engine.gpus_per_worker:g}"
            message = f"flash_attention_2 needs a GPU and half precision, not {at}; set both, or model.attention=auto"
            raise mistakes({"model.attention": message})
        return self

    @model_validator(mode="after")
    def _quantized_matrices_are_left_alone(self) -> Self:
        if self.model.quantization is None:
            return self
        wrong: dict[Parts, str] = {}
        if self.engine.zero_stage == 3:
            wrong["engine", "zero_stage"] = "3 shards weights, which model.quantization packs; use 0, 1 or 2"
        if self.engine.compile is not None:
            wrong["engine", "compile"] = "does not go with model.quantization; set one of them to null"
        if self.wants_scores and self.importance.source == "weights":
            message = f"{self.importance.name} reads pretrained weights, packed by model.quantization; set that to null"
            wrong["importance", "name"] = message
        if wrong:
            raise mistakes(wrong)
        return self

    @model_validator(mode="after")
    def _probes_are_large_enough(self) -> Self:
        if not self.wants_scores:
            return self
        rows, workers = self.importance.rows(self.training.micro_batch_size), self.engine.num_workers
        try:
            self.importance.check(rows * workers)
        except ValueError as error:
            at = f"training.micro_batch_size={self.training.micro_batch_size} on engine.num_workers={workers}"
            raise mistakes({"importance.name": f"{error} (now {at})"}) from error
        return self

    @property
    def wants_scores(self) -> bool:
        """Whether blocks are scored at all."""
        return self.selection.policy.uses_importance or self.selection.measure == "always"

    @property
    def strategy(self) -> str:
        """What MLflow and tables group runs by: ``all`` if every block trains, else the method, else the policy."""
        policy = self.selection.policy.name
        return policy if policy == BASELINE else self.method or policy
