"""The most that known GPUs compute, from their makers' data sheets: what a step's FLOPs are held against."""

from collections.abc import Mapping

import torch

_TERA = 1e12

PEAKS: Mapping[str, tuple[float, float]] = {
    "H200": (989.4, 66.9),
    "H100 NVL": (835.0, 60.0),
    "H100 PCIe": (756.0, 51.2),
    "H100": (989.4, 66.9),
    "A100": (312.0, 19.5),
    "A10G": (70.0, 31.5),
    "A10": (125.0, 31.2),
    "L40S": (362.1, 91.6),
    "L4": (121.0, 30.3),
    "V100": (125.0, 15.7),
    "T4": (65.0, 8.1),
}
"""By a part of the device's name, the longer before the shorter: dense TFLOP/s in half precision with sums in fp32, and
in fp32 proper.

Source: NVIDIA's data sheets; half precision without sparsity, of SXM cards unless the name says otherwise.
"""

_WITHOUT_BF16 = ("V100", "T4")


def peak_flops_per_s(device: torch.device, precision: str) -> float | None:
    """FLOP/s that a device reaches at most in ``fp32``, ``bf16`` or ``fp16``; None where it is not known."""
    if device.type != "cuda":
        return None
    return peak_by_name(torch.cuda.get_device_name(device), precision)


def peak_by_name(name: str, precision: str) -> float | None:
    """The same, by what the driver calls the device."""
    words = name.replace("-", " ")
    for known, (half, single) in PEAKS.items():
        if f" {known} " in f" {words} ":
            if precision == "bf16" and known in _WITHOUT_BF16:
                return None
            return _TERA * (single if precision == "fp32" else half)
    return None


def mfu(name: str, flops: float, seconds: float, peak: float | None) -> dict[str, float]:
    """``{name: …}``: which part of its ``peak`` a device reaches by ``flops`` in ``seconds``; none if that is None."""
    return {} if peak is None else {name: flops / seconds / peak}
