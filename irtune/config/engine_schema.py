"""The settings of DeepSpeed and its workers."""

import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from irtune.config.section import Section, mistakes
from irtune.processor import multiplies_bf16

Precision = Literal["fp32", "bf16", "fp16"]


class EngineConfig(Section):
    """DeepSpeed, and how many workers it runs on."""

    num_workers: int = Field(1, gt=0, description="ranks; above 1 a Ray Train worker group is started")
    cpus_per_worker: float = Field(1, gt=0, description="CPU cores that a worker reserves")
    threads_per_worker: int | None = Field(
        None, gt=0, description="intra-op threads; default: a machine's cores, shared by the workers on it at once"
    )
    gpus_per_worker: float = Field(
        0, ge=0, description="GPUs per worker; 0 trains on CPU, below 1 several trials share one, and its memory"
    )
    zero_stage: Literal[0, 1, 2, 3] = Field(0, description="what DeepSpeed shards over workers: nothing, up to all")
    precision: Precision = Field(
        "fp32",
        description="fp16 needs a GPU, and ZeRO stage 1 or above; auto becomes bf16 where a GPU or this machine's "
        "processor multiplies it, else fp32",
    )
    share_prefix: bool | Literal["auto"] = Field(
        "auto",
        description="compute the tokens that all examples begin with (the instruction) once per batch, on causal "
        "models; auto: where results are equal within rounding, which they are in evaluation, and in training without "
        "dropout; true: also with dropout, of which all rows of a batch then share one draw on these tokens: losses "
        "and gradients are the same on average, and noisier",
    )
    fused_optimizer: bool = Field(
        False, description="AdamW by PyTorch's fused kernel, which is faster and rounds otherwise in the last bit"
    )
    skip_idle_adapters: bool = Field(
        True,
        description="pass over LoRA adapters that have never trained, in blocks that do not train: they add zero",
    )
    compile: Literal["blocks"] | None = Field(
        None,
        description="blocks: compile the training pass of each block by itself, which takes the first steps a while, "
        "rounds otherwise, and needs PyTorch 2.12 and g++, or a GPU with triton; checked against uncompiled blocks "
        "before the first step, which train where it fails",
    )
    prefix_cache: bool | Literal["auto"] = Field(
        "auto",
        description="keep the hidden states that enter the lowest block which can ever train (static, cost_aware), and "
        "read them in place of computing all below; auto: in evaluation, bit for bit, on CPUs; true: in training too, "
        "whose losses are then equal within rounding, and on GPUs",
    )
    prefix_cache_gib: float = Field(4, gt=0, description="the most room that the kept states of all trials may take")
    process_group_timeout_s: float = Field(600, gt=0, description="a collective that waits longer fails")
    deepspeed: dict[str, Any] = Field({}, description="raw DeepSpeed configuration, merged over irtune's own")

    def threads(self, cores: int, at_once: int | None = None) -> int:
        """Intra-op threads of a worker.

        Args:
            cores: Of its machine.
            at_once: Workers on the machine at once; None: as many as fit.
        """
        if self.threads_per_worker is not None:
            return self.threads_per_worker
        fit = max(1, math.floor(cores / self.cpus_per_worker + 1e-9))
        return max(1, cores // min(at_once or fit, fit))

    @model_validator(mode="before")
    @classmethod
    def _precision_of_this_machine(cls, tree: Any) -> Any:
        """``auto`` as what it means where a configuration is read, so that all workers are told the same."""
        if not isinstance(tree, Mapping) or tree.get("precision") != "auto":
            return tree
        return {**tree, "precision": "bf16" if tree.get("gpus_per_worker") or multiplies_bf16() else "fp32"}

    @model_validator(mode="after")
    def _fp16_is_scaled_on_a_gpu(self) -> "EngineConfig":
        if self.precision == "fp16" and self.gpus_per_worker == 0:
            raise mistakes({"precision": "fp16 needs a GPU; set engine.gpus_per_worker, or use bf16 or fp32"})
        # Measured on an H200 (benchmarks/results/gpu_h200.json): at stage 0 weights are off by .24, at 1 to 3 exact.
        if self.precision == "fp16" and self.zero_stage == 0:
            message = (
                "fp16 at stage 0 trains wrongly: DeepSpeed 0.19 divides gradients by a loss scale that it has not "
                "multiplied the loss by. Set engine.zero_stage=1, which is exact, or engine.precision=bf16"
            )
            raise mistakes({"zero_stage": message})
        return self

    @model_validator(mode="after")
    def _gpus_are_whole_or_part_of_one(self) -> "EngineConfig":
        gpus = self.gpus_per_worker
        if gpus > 1 and not gpus.is_integer():
            raise mistakes({"gpus_per_worker": f"above 1 must be a whole number, not {gpus:g}"})
        if 0 < gpus < 1 and self.num_workers > 1:
            message = f"{gpus:g} would put workers of one trial on one GPU, which NCCL refuses"
            raise mistakes({"gpus_per_worker": f"{message}; set num_workers to 1 to put several trials on one"})
        return self
