"""Whether ``engine.compile`` can work: by PyTorch's version, its compiler, and what else is asked for."""

import importlib.util
import shutil
from collections.abc import Iterator
from importlib.metadata import version

from irtune.config.schema import ExperimentConfig
from irtune.layers.compile_versions import too_old
from irtune.processor import cpp_compiler


def check_compile(config: ExperimentConfig) -> None:
    """Refuse to compile blocks where that cannot be exact, or cannot be done on this machine.

    Raises:
        ValueError: With every reason.
    """
    found = list(_reasons(config))
    if found:
        raise ValueError("\n".join(f"engine.compile: {reason}, or leave it out" for reason in found))


def _reasons(config: ExperimentConfig) -> Iterator[str]:
    engine = config.engine
    reason = too_old(version("torch"))
    if reason:
        yield reason
    if engine.zero_stage == 3:
        yield "ZeRO stage 3 gathers parameters inside of blocks, where graphs would break; set engine.zero_stage=2"
    if config.model.gradient_checkpointing:
        yield (
            "gradient checkpointing runs blocks again in the backward pass, which compiled blocks do not; set "
            "model.gradient_checkpointing=false"
        )
    if engine.gpus_per_worker > 0 and importlib.util.find_spec("triton") is None:
        yield "on a GPU PyTorch compiles by triton, which is not installed; install it"
    if engine.gpus_per_worker == 0 and shutil.which(cpp_compiler()) is None:
        yield f"on a CPU PyTorch compiles by {cpp_compiler()}, which is not on this machine; install g++, or set CXX"
