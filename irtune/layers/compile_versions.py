"""Versions of PyTorch that can compile blocks which freeze and thaw."""

import re

FIRST_EXACT = (2, 12)
"""The first PyTorch that looks at ``requires_grad`` before it uses a graph again (pytorch/pytorch#139476, mended by
pull requests 177158 and 181925)."""


def too_old(torch_version: str) -> str:
    """Why this PyTorch cannot; empty if it can."""
    numbers = re.match(r"(\d+)\.(\d+)", torch_version)
    if numbers is not None and tuple(map(int, numbers.groups())) >= FIRST_EXACT:
        return ""
    needed = ".".join(map(str, FIRST_EXACT))
    return (
        f"PyTorch {torch_version} uses compiled graphs again after blocks have frozen or thawed, and computes wrong "
        f"gradients (pytorch/pytorch#139476); install torch>={needed}"
    )
