"""What this machine's processor can do."""

import os
import platform
from pathlib import Path

_BF16 = {"avx512_bf16", "amx_bf16", "bf16"}
"""As Linux calls the units that multiply bf16, on x86 and on ARM."""


def multiplies_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether the processor multiplies bf16 itself, which makes it faster than fp32; False where unknown."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    flags = [line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))]
    # Processors of a machine may differ.
    return bool(flags) and all(_BF16 & set(each) for each in flags)


def num_cores() -> int:
    """Return how many cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpp_compiler() -> str:
    """The C++ compiler that PyTorch's extensions and compiled models are built by: ``CXX``, by default g++."""
    return os.environ.get("CXX") or "g++"


def processor_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return what the processor is called, and which instructions PyTorch's kernels may find on it."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    described = ("model name", "flags", "Features", "CPU implementer", "CPU part")
    return "; ".join(sorted({" ".join(line.split()) for line in lines if line.startswith(described)}))
