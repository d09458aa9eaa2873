"""The configuration that DeepSpeed gets: irtune's settings, with raw ones merged over them."""

from collections.abc import Mapping
from typing import Any

from irtune.config.engine_schema import EngineConfig
from irtune.config.schema import TrainingConfig
from irtune.config.tree import flatten, put


def deepspeed_config(training: TrainingConfig, engine: EngineConfig) -> dict[str, Any]:
    """The configuration that DeepSpeed gets, raw overrides merged in.

    Raises:
        ValueError: If an override contradicts a setting that has a key of its own, or exact freezing.
    """
    own: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": training.micro_batch_size,
        "gradient_accumulation_steps": training.gradient_accumulation_steps,
        "gradient_clipping": training.max_grad_norm,
        "zero_optimization": {"stage": engine.zero_stage},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 2**31,
    }
    if engine.precision != "fp32":
        own[engine.precision] = {"enabled": True}
    _refuse_overrides(engine.deepspeed)
    for key, value in flatten(engine.deepspeed).items():
        put(own, key.split("."), value)
    return own


def _refuse_overrides(raw: Mapping[str, Any]) -> None:
    elsewhere = {
        "train_micro_batch_size_per_gpu": "training.micro_batch_size",
        "train_batch_size": "training.micro_batch_size and training.gradient_accumulation_steps",
        "gradient_accumulation_steps": "training.gradient_accumulation_steps",
        "gradient_clipping": "training.max_grad_norm",
        "optimizer": "training.learning_rate and its neighbours",
        "scheduler": "training.lr_schedule",
        "fp16.enabled": "engine.precision",
        "bf16.enabled": "engine.precision",
        "zero_optimization.stage": "engine.zero_stage",
    }
    settings = {**raw, **flatten(raw)}
    mistakes = [f"engine.deepspeed.{key}: set {home} instead" for key, home in elsewhere.items() if key in settings]
    if settings.get("zero_optimization.offload_optimizer.device", "none") != "none":
        mistakes.append(
            "engine.deepspeed.zero_optimization.offload_optimizer: gradients are read and frozen on the training "
            "device; offloading the optimizer is not supported"
        )
    if settings.get("data_types.grad_accum_dtype"):
        mistakes.append(
            "engine.deepspeed.data_types.grad_accum_dtype: selects an optimizer whose gradients are not read per block"
        )
    mistakes += [
        f"engine.deepspeed.{key}: must be a section of key: value, not {raw[key]!r}"
        for key in ("zero_optimization", "fp16", "bf16", "data_types")
        if not isinstance(raw.get(key, {}), Mapping)
    ]
    if mistakes:
        raise ValueError("\n".join(mistakes))
